/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ANSWER_H
#define LIMPET_ANSWER_H

/* ICMP that the director itself sends: echo replies, "fragmentation needed" / "packet too big", and "time
 * exceeded" (RFC 792, RFC 1191, RFC 4443). All leave by the interface that the packet came from, and all are
 * limited in rate. Not on the fast path: global functions, which the verifier looks at once.
 */

#include "encap.h"
#include "rate.h"

/* How much of the packet an error quotes at most: as much as fits in 576 bytes (RFC 1812, section 4.3.2.3) or 1280
 * (RFC 4443, section 2.4). Always whole words; header and ports are in them, since both end at a word. */
#define QUOTE_MAX4 548
#define QUOTE_MAX6 1232

#define ICMP4_UNREACHABLE          3
#define ICMP4_FRAGMENTATION_NEEDED 4
#define ICMP4_TIME_EXCEEDED        11
#define ICMP6_TOO_BIG              2
#define ICMP6_TIME_EXCEEDED        3

static __always_inline void ethernet_swap(struct ethhdr *eth)
{
	__u8 dest[ETH_ALEN];

	__builtin_memcpy(dest, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, dest, ETH_ALEN);
}

static __always_inline enum verdict answer_echo4(struct cursor *c, __u16 header_length)
{
	struct iphdr *ip = cursor_take(c, sizeof(*ip));
	struct icmp *icmp;
	__be32 source;

	if (!ip)
		return VERDICT_DROP_MALFORMED;
	cursor_skip(c, header_length - sizeof(*ip));
	icmp = cursor_take(c, sizeof(*icmp));
	if (!icmp)
		return VERDICT_DROP_MALFORMED;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->check = csum_replace(ip->check, ip->ttl | ip->protocol << 8, OUTER_HOP_LIMIT | ip->protocol << 8);
	ip->ttl = OUTER_HOP_LIMIT;
	icmp->type = 0;
	/* 0 and ffff are the same number, but over a message of zeros only ffff is a valid checksum. */
	icmp->check = csum_replace(icmp->check, 8, 0) ?: 0xffff;
	return VERDICT_ECHO_REPLY;
}

static __always_inline enum verdict answer_echo6(struct cursor *c, __u16 header_length)
{
	struct ipv6hdr *ip = cursor_take(c, sizeof(*ip));
	struct in6_addr source;
	struct icmp *icmp;

	if (!ip)
		return VERDICT_DROP_MALFORMED;
	cursor_skip(c, header_length - sizeof(*ip));
	icmp = cursor_take(c, sizeof(*icmp));
	if (!icmp)
		return VERDICT_DROP_MALFORMED;
	source = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->hop_limit = OUTER_HOP_LIMIT;
	icmp->type = 129;
	icmp->check = csum_replace(icmp->check, 128, 129);
	return VERDICT_ECHO_REPLY;
}

__noinline int answer_echo(struct xdp_md *ctx, const struct packet *p)
{
	struct cursor c = cursor_open(ctx);
	struct ethhdr *eth;

	if (!p)
		return VERDICT_DROP_MALFORMED;
	if (!rate_allow(RATE_ICMP, settings.icmp_per_jiffy_16, settings.icmp_burst))
		return VERDICT_DROP_ICMP_LIMITED;
	eth = cursor_take(&c, sizeof(*eth));
	if (!eth)
		return VERDICT_DROP_MALFORMED;
	ethernet_swap(eth);
	cursor_skip(&c, p->tag_count * sizeof(struct vlan_tag));
	return p->family == 4 ? answer_echo4(&c, p->header_length) : answer_echo6(&c, p->header_length);
}

static __always_inline void error_source4(struct iphdr *ip, const struct packet *p)
{
	__be32 own = *(const volatile __be32 *)settings.icmp_source4;

	ip->saddr = own ? own : swap32(p->vip_address[1]);
	ip->daddr = swap32(p->client[1]);
}

/* Sum of the words from here to the end of the frame. */
static __always_inline __u64 sum_rest(struct cursor c)
{
	__u64 sum = 0;

	for (int i = 0; i < (int)(sizeof(struct icmp) + QUOTE_MAX6) / 4; i++) {
		__be32 *word = cursor_take(&c, sizeof(*word));

		if (!word)
			break;
		sum += *word;
	}
	return sum;
}

static __always_inline enum verdict error_write4(struct cursor *c, const struct packet *p, __u32 rest, __u32 quote)
{
	struct iphdr *ip = cursor_take(c, sizeof(*ip));
	struct icmp *icmp = cursor_peek(c, sizeof(*icmp));
	const __u16 *half = (const void *)ip;
	__u64 sum = 0;

	if (!ip || !icmp)
		return VERDICT_DROP_MALFORMED;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = swap16(sizeof(*ip) + sizeof(*icmp) + quote);
	ip->ttl = OUTER_HOP_LIMIT;
	ip->protocol = IPPROTO_ICMP;
	error_source4(ip, p);
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	ip->check = ~csum_fold(sum);
	icmp->type = rest ? ICMP4_UNREACHABLE : ICMP4_TIME_EXCEEDED;
	icmp->code = rest ? ICMP4_FRAGMENTATION_NEEDED : 0;
	icmp->check = 0;
	icmp->rest = swap32(rest);
	icmp->check = ~csum_fold(sum_rest(*c));
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict error_write6(struct cursor *c, const struct packet *p, __u32 rest, __u32 quote)
{
	struct ipv6hdr *ip = cursor_take(c, sizeof(*ip));
	struct icmp *icmp = cursor_peek(c, sizeof(*icmp));
	const volatile __u64 *own = (const volatile __u64 *)settings.icmp_source6;
	const __u64 own_high = own[0], own_low = own[1];
	__u64 addresses[4];
	__u64 sum;

	if (!ip || !icmp)
		return VERDICT_DROP_MALFORMED;
	addresses[0] = own_high | own_low ? own_high : swap64(p->vip_address[0]);
	addresses[1] = own_high | own_low ? own_low : swap64(p->vip_address[1]);
	addresses[2] = swap64(p->client[0]);
	addresses[3] = swap64(p->client[1]);
	*(__be32 *)ip = swap32(6U << 28);
	ip->payload_len = swap16(sizeof(*icmp) + quote);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = OUTER_HOP_LIMIT;
	__builtin_memcpy(&ip->saddr, addresses, sizeof(addresses));
	icmp->type = rest ? ICMP6_TOO_BIG : ICMP6_TIME_EXCEEDED;
	icmp->code = 0;
	icmp->check = 0;
	icmp->rest = swap32(rest);
	sum = bpf_csum_diff(0, 0, (void *)addresses, sizeof(addresses), 0);
	sum += swap16(sizeof(*icmp) + quote) + swap16(IPPROTO_ICMPV6);
	sum += sum_rest(*c);
	icmp->check = ~csum_fold(sum);
	return VERDICT_CONTINUE;
}

static __always_inline __u32 quote_length(const struct packet *p)
{
	const __u32 most = p->family == 4 ? QUOTE_MAX4 : QUOTE_MAX6;

	return (p->length < most ? p->length : most) & ~3U;
}

/* Put an ICMP error in front of the packet and cut the packet to what is quoted. */
static __always_inline enum verdict error_push(struct xdp_md *ctx, const struct packet *p, __u32 rest)
{
	const __u32 header = p->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	const __u32 quote = quote_length(p);
	struct cursor c = cursor_open(ctx);
	struct ethhdr *eth = cursor_take(&c, sizeof(*eth));
	__u8 dest[ETH_ALEN], source[ETH_ALEN];
	int excess = (int)bpf_xdp_get_buff_len(ctx) - (int)(p->link_length + quote);
	enum verdict verdict;

	if (!eth)
		return VERDICT_DROP_MALFORMED;
	__builtin_memcpy(dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(source, eth->h_dest, ETH_ALEN);
	if (bpf_xdp_adjust_tail(ctx, -excess))
		return VERDICT_DROP_HEADROOM;
	if (bpf_xdp_adjust_head(ctx, -(int)(header + sizeof(struct icmp))))
		return VERDICT_DROP_HEADROOM;
	c = cursor_open(ctx);
	/* Of a frame in several buffers only the first is in sight: it must hold all that is summed. */
	if (cursor_between(c.pos, c.end) != p->link_length + header + sizeof(struct icmp) + quote)
		return VERDICT_DROP_HEADROOM;
	verdict = frame_write(&c, p, dest, source, p->ethertype);
	if (verdict)
		return verdict;
	return p->family == 4 ? error_write4(&c, p, rest, quote) : error_write6(&c, p, rest, quote);
}

/* `mtu` is what would have fitted; 0 says "time exceeded". An error about an error is never sent (RFC 1122). */
__noinline int answer_error(struct xdp_md *ctx, const struct packet *p, __u32 mtu)
{
	if (!p)
		return VERDICT_DROP_MALFORMED;
	if (p->kind == KIND_ICMP_ERROR || p->kind == KIND_LATER_FRAGMENT)
		return mtu ? VERDICT_DROP_TOO_BIG : VERDICT_DROP_HOP_LIMIT;
	if (!rate_allow(RATE_ICMP, settings.icmp_per_jiffy_16, settings.icmp_burst))
		return VERDICT_DROP_ICMP_LIMITED;
	return error_push(ctx, p, mtu);
}

static __always_inline enum verdict answer_too_big(struct xdp_md *ctx, const struct packet *p,
						   const struct backend *backend)
{
	enum verdict failed = answer_error(ctx, p, backend->mtu - encap_length(backend));

	return failed ? failed : VERDICT_TOO_BIG;
}

static __always_inline enum verdict answer_hop_limit(struct xdp_md *ctx, const struct packet *p)
{
	enum verdict failed = answer_error(ctx, p, 0);

	return failed ? failed : VERDICT_HOP_LIMIT;
}

#endif
