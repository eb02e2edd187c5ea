/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ENCAP_H
#define LIMPET_ENCAP_H

/* Packet + backend -> frame on its way: outer header (RFC 2003, RFC 2473, RFC 4213) or MAC rewrite.
 *
 * The director is a forwarder: it lowers the hop limit of the packet by one, and copies traffic class and ECN
 * to the outer header (RFC 6040). The outer IPv4 header forbids fragmentation. The outer source is a
 * configured prefix and bits of the flow's hash, so that the receiver's NIC spreads flows over its queues.
 */

#include "csum.h"
#include "cursor.h"
#include "parse.h"
#include "select.h"

#define OUTER_HOP_LIMIT   64
#define IP4_DONT_FRAGMENT 0x4000

static __always_inline __u32 encap_length(const struct backend *backend)
{
	if (backend->encapsulation == ENCAPSULATION_IPIP4)
		return sizeof(struct iphdr);
	if (backend->encapsulation == ENCAPSULATION_IPIP6)
		return sizeof(struct ipv6hdr);
	return 0;
}

/* Lower the hop limit in place. */
static __always_inline enum verdict encap_forward(struct xdp_md *ctx, const struct packet *p)
{
	struct cursor c = cursor_open(ctx);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	cursor_skip(&c, p->link_length);
	if (p->family == 4) {
		ip4 = cursor_take(&c, sizeof(*ip4));
		if (!ip4)
			return VERDICT_DROP_MALFORMED;
		/* The TTL is the high byte of its 16 bit word: the checksum grows by 0x0100 (RFC 1624). */
		ip4->check = ~csum_fold((__u64)(__u16)~ip4->check + (__u16)~swap16(0x0100));
		ip4->ttl--;
		return VERDICT_CONTINUE;
	}
	ip6 = cursor_take(&c, sizeof(*ip6));
	if (!ip6)
		return VERDICT_DROP_MALFORMED;
	ip6->hop_limit--;
	return VERDICT_CONTINUE;
}

/* Write Ethernet addresses, the tags that the packet came with, and an ethertype; leaves `c` behind them. */
static __always_inline enum verdict frame_write(struct cursor *c, const struct packet *p, const __u8 *dest,
						const __u8 *source, __be16 ethertype)
{
	struct ethhdr *eth = cursor_take(c, sizeof(*eth));
	__be16 *type;

	if (!eth)
		return VERDICT_DROP_HEADROOM;
	__builtin_memcpy(eth->h_dest, dest, ETH_ALEN);
	__builtin_memcpy(eth->h_source, source, ETH_ALEN);
	type = (void *)eth + 2 * ETH_ALEN;
	for (int i = 0; i < LIMIT_VLAN_TAGS && i < p->tag_count; i++) {
		struct vlan_tag *tag = cursor_take(c, sizeof(*tag));

		if (!tag)
			return VERDICT_DROP_HEADROOM;
		*type = p->tags[i];
		tag->tci = p->tags[i] >> 16;
		type = &tag->ethertype;
	}
	*type = ethertype;
	return VERDICT_CONTINUE;
}

/* The header as five words, its checksum from the same values: reading it back would wait for the stores. */
static __always_inline enum verdict outer_write4(struct cursor *c, const struct packet *p,
						 const struct backend *backend, __u32 entropy)
{
	const __u32 protocol = p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	__be32 *word = cursor_take(c, sizeof(struct iphdr));
	__be32 source = *(const volatile __be32 *)settings.outer_source4 | entropy << 16;
	__be32 dest = *(const __be32 *)&backend->address[12];
	__be32 length = swap32(0x45U << 24 | (__u32)p->traffic_class << 16 | (p->length + sizeof(struct iphdr)));
	__be32 control = swap32(OUTER_HOP_LIMIT << 8 << 16 | protocol << 16);
	__u64 sum;

	if (!word)
		return VERDICT_DROP_HEADROOM;
	sum = (__u64)length + swap32(IP4_DONT_FRAGMENT) + control + source + dest;
	word[0] = length;
	word[1] = swap32(IP4_DONT_FRAGMENT);
	word[2] = control | (__u32)(__u16)~csum_fold(sum) << 16;
	word[3] = source;
	word[4] = dest;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict outer_write6(struct cursor *c, const struct packet *p,
						 const struct backend *backend, __u32 entropy)
{
	struct ipv6hdr *ip = cursor_take(c, sizeof(*ip));
	__be32 *half = (void *)ip;

	if (!ip)
		return VERDICT_DROP_HEADROOM;
	half[0] = swap32(6U << 28 | (__u32)p->traffic_class << 20 | (entropy & 0xfffff));
	ip->payload_len = swap16(p->length);
	ip->nexthdr = p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	ip->hop_limit = OUTER_HOP_LIMIT;
#pragma unroll
	for (int i = 0; i < 3; i++)
		half[2 + i] = ((const volatile __be32 *)settings.outer_source6)[i];
	half[5] = entropy;
	__builtin_memcpy(&ip->daddr, backend->address, sizeof(ip->daddr));
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict outer_push(struct xdp_md *ctx, const struct packet *p,
					       const struct backend *backend, __u32 entropy)
{
	const int is_ip4 = backend->encapsulation == ENCAPSULATION_IPIP4;
	struct cursor c;

	if (bpf_xdp_adjust_head(ctx, is_ip4 ? -(int)sizeof(struct iphdr) : -(int)sizeof(struct ipv6hdr)))
		return VERDICT_DROP_HEADROOM;
	c = cursor_open(ctx);
	if (is_ip4)
		return frame_write(&c, p, backend->next_hop, backend->source_mac, swap16(ETH_P_IP))
			       ?: outer_write4(&c, p, backend, entropy);
	return frame_write(&c, p, backend->next_hop, backend->source_mac, swap16(ETH_P_IPV6))
		       ?: outer_write6(&c, p, backend, entropy);
}

/* The next hop is not known yet: the kernel resolves it and forwards. It takes only frames addressed to it. */
static __always_inline enum verdict outer_push_for_kernel(struct xdp_md *ctx, const struct packet *p,
							  const struct backend *backend, __u32 entropy)
{
	struct cursor c = cursor_open(ctx);
	struct ethhdr *eth = cursor_take(&c, sizeof(*eth));
	struct backend row = *backend;
	enum verdict verdict;

	if (row.encapsulation == ENCAPSULATION_L2)
		return VERDICT_DROP_NEXT_HOP;
	if (!eth)
		return VERDICT_DROP_HEADROOM;
	__builtin_memcpy(row.next_hop, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(row.source_mac, eth->h_source, ETH_ALEN);
	verdict = outer_push(ctx, p, &row, entropy);
	return verdict ? verdict : VERDICT_VIA_KERNEL;
}

static __always_inline int next_hop_is_known(const struct backend *backend, __u32 egress)
{
	const __u32 *high = (const void *)&backend->next_hop[0];
	const __u16 *low = (const void *)&backend->next_hop[4];

	return egress && (*high | *low);
}

static __always_inline enum verdict encapsulate(struct xdp_md *ctx, const struct packet *p, struct choice *choice,
						const struct backend *backend)
{
	struct cursor c;
	enum verdict verdict;

	if (unlikely(p->hop_limit <= 1))
		return VERDICT_HOP_LIMIT;
	if (unlikely(backend->mtu && p->length + encap_length(backend) > backend->mtu))
		return VERDICT_TOO_BIG;
	verdict = encap_forward(ctx, p);
	if (verdict)
		return verdict;
	choice->egress = READ_ONCE(backend->ifindex);
	if (unlikely(!next_hop_is_known(backend, choice->egress)))
		return outer_push_for_kernel(ctx, p, backend, choice->entropy);
	if (backend->encapsulation == ENCAPSULATION_L2) {
		c = cursor_open(ctx);
		verdict = frame_write(&c, p, backend->next_hop, backend->source_mac, p->ethertype);
	} else {
		verdict = outer_push(ctx, p, backend, choice->entropy);
	}
	if (verdict)
		return verdict;
	return choice->egress == ctx->ingress_ifindex && !settings.redirect_always ? VERDICT_TRANSMIT
										   : VERDICT_REDIRECT;
}

#endif
