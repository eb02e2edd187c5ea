/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_OUTBOUND_H
#define LIMPET_OUTBOUND_H

/* Packet of this machine, marked for a backend -> frame on its way there, as encap.h does it for clients'.
 *
 * Segmentation and checksums may still be the hardware's to do, so the kernel's helper makes the room: it notes
 * that what follows is encapsulated. This machine is the sender, so the hop limit stays as it is. Until the mark
 * is seen, packets pass; from there on, doubt means drop, by name.
 */

#include "csum.h"
#include "outbound_maps.h"
#include "parse.h"

#define OUTBOUND_IDS      (LIMIT_BACKENDS - 1) /* bits of the mark that name the backend */
#define OUTER_HOP_LIMIT   64
#define IP4_DONT_FRAGMENT 0x4000
#define HEADERS_MIN       (sizeof(struct ethhdr) + sizeof(struct ipv6hdr))

static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length,
					 __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 length, __u32 mode,
					 __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 length) = (void *)BPF_FUNC_skb_pull_data;
static __u32 (*const bpf_get_hash_recalc)(struct __sk_buff *skb) = (void *)BPF_FUNC_get_hash_recalc;

static __always_inline int outbound_parse(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c;

	if (skb->len > HEADERS_MIN && bpf_skb_pull_data(skb, HEADERS_MIN))
		return -1;
	c = (struct cursor){.pos = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
	return parse_link(&c, p) || p->tag_count || parse_network(&c, p) ? -1 : 0;
}

/* Bytes of the longest IP packet that this becomes; with segmentation to come, the route's MTU bounds it. */
static __always_inline __u32 outbound_length(const struct __sk_buff *skb)
{
	return skb->gso_size ? LIMIT_OUTBOUND_MTU : skb->len - sizeof(struct ethhdr);
}

static __always_inline int outbound_write_link(struct __sk_buff *skb, const __u8 *dest, const __u8 *source,
					       __be16 ethertype)
{
	struct ethhdr eth = {.h_proto = ethertype};

	__builtin_memcpy(eth.h_dest, dest, ETH_ALEN);
	__builtin_memcpy(eth.h_source, source, ETH_ALEN);
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

static __always_inline enum outbound outbound_push4(struct __sk_buff *skb, const struct packet *p,
						    const struct backend *backend)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u32 length = skb->len - sizeof(struct ethhdr) + sizeof(struct iphdr);
	__be32 words[5] = {
		swap32(0x45U << 24 | (__u32)p->traffic_class << 16 | (length & 0xffff)),
		swap32(IP4_DONT_FRAGMENT),
		swap32(OUTER_HOP_LIMIT << 24 | (p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6) << 16),
		*(const volatile __be32 *)outbound_settings.outer_source4 | bpf_get_hash_recalc(skb) << 16,
		*(const __be32 *)&backend->address[12],
	};
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];

	words[2] |= (__u32)(__u16)~csum_fold(sum) << 16;
	if (bpf_skb_adjust_room(skb, sizeof(words), BPF_ADJ_ROOM_MAC, flags))
		return OUTBOUND_DROP_HEADROOM;
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), words, sizeof(words), 0))
		return OUTBOUND_DROP_HEADROOM;
	return OUTBOUND_SENT;
}

static __always_inline enum outbound outbound_push6(struct __sk_buff *skb, const struct packet *p,
						    const struct backend *backend)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	const volatile __be32 *source = (const volatile __be32 *)outbound_settings.outer_source6;
	const __u32 entropy = bpf_get_hash_recalc(skb);
	struct ipv6hdr ip = {
		.payload_len = swap16(skb->len - sizeof(struct ethhdr)),
		.nexthdr = p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6,
		.hop_limit = OUTER_HOP_LIMIT,
		.saddr.in6_u.u6_addr32 = {source[0], source[1], source[2], entropy},
	};

	*(__be32 *)&ip = swap32(6U << 28 | (__u32)p->traffic_class << 20 | (entropy & 0xfffff));
	__builtin_memcpy(&ip.daddr, backend->address, sizeof(ip.daddr));
	if (bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, flags))
		return OUTBOUND_DROP_HEADROOM;
	if (bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0))
		return OUTBOUND_DROP_HEADROOM;
	return OUTBOUND_SENT;
}

static __always_inline int mac_is_known(const __u8 *mac)
{
	return *(const __u32 *)&mac[0] | *(const __u16 *)&mac[4];
}

/* Write the frame. `egress` is set to where it goes; 0: to the kernel, at the other end of the device. */
static __always_inline enum outbound outbound_encapsulate(struct __sk_buff *skb, const struct packet *p,
							  const struct backend *backend, __u32 *egress)
{
	const int is_known = mac_is_known(backend->next_hop);
	__be16 ethertype = backend->encapsulation == ENCAPSULATION_IPIP6 ? swap16(ETH_P_IPV6) : swap16(ETH_P_IP);
	enum outbound outcome = OUTBOUND_SENT;

	*egress = is_known ? READ_ONCE(backend->ifindex) : 0;
	if (backend->encapsulation == ENCAPSULATION_L2) {
		if (!*egress)
			return OUTBOUND_DROP_NEXT_HOP;
		ethertype = p->ethertype;
	} else if (backend->encapsulation == ENCAPSULATION_IPIP4) {
		outcome = outbound_push4(skb, p, backend);
	} else {
		outcome = outbound_push6(skb, p, backend);
	}
	if (outcome != OUTBOUND_SENT)
		return outcome;
	if (*egress)
		return outbound_write_link(skb, backend->next_hop, backend->source_mac, ethertype)
			       ? OUTBOUND_DROP_HEADROOM
			       : OUTBOUND_SENT;
	/* Both ends of the device have one address, so the frame has the right ones already. */
	if (bpf_skb_store_bytes(skb, __builtin_offsetof(struct ethhdr, h_proto), &ethertype, sizeof(ethertype), 0))
		return OUTBOUND_DROP_HEADROOM;
	return OUTBOUND_VIA_KERNEL;
}

static __always_inline enum outbound outbound_send(struct __sk_buff *skb, __u32 *egress)
{
	const __u32 mark = skb->mark, id = mark & OUTBOUND_IDS;
	const struct backend *backend;
	struct packet p = {};
	__u32 outer;

	if ((mark & ~OUTBOUND_IDS) != outbound_settings.mark)
		return OUTBOUND_PASS;
	/* Trust changes here: this machine sent it to a backend. */
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!backend || backend->encapsulation == ENCAPSULATION_NONE)
		return OUTBOUND_DROP_UNKNOWN_BACKEND;
	if (outbound_parse(skb, &p))
		return OUTBOUND_DROP_MALFORMED;
	outer = backend->encapsulation == ENCAPSULATION_IPIP4   ? sizeof(struct iphdr)
		: backend->encapsulation == ENCAPSULATION_IPIP6 ? sizeof(struct ipv6hdr)
								: 0;
	if (backend->mtu && outbound_length(skb) + outer > backend->mtu)
		return OUTBOUND_DROP_TOO_BIG;
	return outbound_encapsulate(skb, &p, backend, egress);
}

#endif
