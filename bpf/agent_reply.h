/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AGENT_REPLY_H
#define LIMPET_AGENT_REPLY_H

/* A reply of a VIP -> the frame that leaves this machine: as it is, or encapsulated for the exit of another PoP.
 *
 * Replies come here by a device of our own, to which rules route whatever has a VIP as source: so before any
 * neighbour is asked for, and also when the default route's is dead. The route is then looked up as for a
 * packet that comes in by that device, which is allowed to forward. The kernel resolves the neighbour.
 *
 * Segmentation and checksums may still be the hardware's to do, so the kernel's helper makes the room.
 */

#include "agent_maps.h"
#include "agent_way.h"
#include "csum.h"
#include "mss.h"

#define FAMILY_IP4        2  /* AF_INET */
#define FAMILY_IP6        10 /* AF_INET6 */
#define OUTER_HOP_LIMIT   64
#define IP4_DONT_FRAGMENT 0x4000
#define TUNNEL_KEY_SIZE   8 /* the shortest that there is */
#define REPLY_HEADERS     (sizeof(struct ethhdr) + sizeof(struct ipv6hdr))

static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 length, __u32 mode,
					 __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *query, int size,
				    __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*const bpf_redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *hop, int size,
					__u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static long (*const bpf_skb_set_tunnel_key)(struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size,
					    __u64 flags) = (void *)BPF_FUNC_skb_set_tunnel_key;
static __u32 (*const bpf_get_hash_recalc)(struct __sk_buff *skb) = (void *)BPF_FUNC_get_hash_recalc;

static __always_inline int is_ip4(const __u64 *address)
{
	return !address[0] && address[1] >> 32 == 0xffff;
}

/* Where a frame goes. */
struct hop {
	__u32 ifindex;
	struct bpf_redir_neigh neighbour;
};

/* Route to an address, in host order words; AGENT_PASS: found. */
static __always_inline enum agent_verdict hop_find(struct __sk_buff *skb, const __u64 *address, struct hop *hop)
{
	struct bpf_fib_lookup query = {.ifindex = skb->ifindex};
	long result;

	if (is_ip4(address)) {
		query.family = FAMILY_IP4;
		query.ipv4_dst = swap32(address[1]);
	} else {
		query.family = FAMILY_IP6;
		query.ipv6_dst[0] = swap32(address[0] >> 32);
		query.ipv6_dst[1] = swap32(address[0]);
		query.ipv6_dst[2] = swap32(address[1] >> 32);
		query.ipv6_dst[3] = swap32(address[1]);
	}
	result = bpf_fib_lookup(skb, &query, sizeof(query), 0);
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return AGENT_DROP_REPLY_TOO_BIG;
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return AGENT_DROP_REPLY_ROUTE;
	hop->ifindex = query.ifindex;
	hop->neighbour.nh_family = query.family;
	__builtin_memcpy(hop->neighbour.ipv6_nh, query.ipv6_dst, sizeof(query.ipv6_dst));
	return AGENT_PASS;
}

static __always_inline int reply_push4(struct __sk_buff *skb, const struct packet *p,
				       const struct agent_exit *exit)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u32 length = skb->len - sizeof(struct ethhdr) + sizeof(struct iphdr);
	__be32 words[5] = {
		swap32(0x45U << 24 | (__u32)p->traffic_class << 16 | (length & 0xffff)),
		swap32(IP4_DONT_FRAGMENT),
		swap32(OUTER_HOP_LIMIT << 24 | (p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6) << 16),
		*(const __be32 *)&exit->source[12],
		*(const __be32 *)&exit->address[12],
	};
	__u64 sum = (__u64)words[0] + words[1] + words[2] + words[3] + words[4];

	words[2] |= (__u32)(__u16)~csum_fold(sum) << 16;
	return bpf_skb_adjust_room(skb, sizeof(words), BPF_ADJ_ROOM_MAC, flags) ||
	       bpf_skb_store_bytes(skb, sizeof(struct ethhdr), words, sizeof(words), 0);
}

static __always_inline int reply_push6(struct __sk_buff *skb, const struct packet *p,
				       const struct agent_exit *exit)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	const __u32 label = bpf_get_hash_recalc(skb) & 0xfffff;
	struct ipv6hdr ip = {
		.payload_len = swap16(skb->len - sizeof(struct ethhdr)),
		.nexthdr = p->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6,
		.hop_limit = OUTER_HOP_LIMIT,
	};

	*(__be32 *)&ip = swap32(6U << 28 | (__u32)p->traffic_class << 20 | label);
	__builtin_memcpy(&ip.saddr, exit->source, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, exit->address, sizeof(ip.daddr));
	return bpf_skb_adjust_room(skb, sizeof(ip), BPF_ADJ_ROOM_MAC, flags) ||
	       bpf_skb_store_bytes(skb, sizeof(struct ethhdr), &ip, sizeof(ip), 0);
}

static __always_inline enum agent_verdict reply_to_exit(struct __sk_buff *skb, const struct packet *p,
							__u32 number, struct hop *hop)
{
	const struct agent_exit *exit = bpf_map_lookup_elem(&agent_exits, &number);
	enum agent_verdict verdict;
	__u64 address[2];

	if (!exit)
		return AGENT_DROP_REPLY_ROUTE;
	address[0] = word_at(&exit->address[0]);
	address[1] = word_at(&exit->address[8]);
	verdict = hop_find(skb, address, hop);
	if (verdict != AGENT_PASS)
		return verdict;
	if (is_ip4(address) ? reply_push4(skb, p, exit) : reply_push6(skb, p, exit))
		return AGENT_DROP_REPLY_OTHER;
	return AGENT_REPLY_EXIT;
}

static __always_inline enum agent_verdict reply_send(struct __sk_buff *skb, struct hop *hop)
{
	enum agent_verdict verdict;
	struct packet p = {};
	struct cursor c;
	const __u32 *vip;
	__u32 way;

	if (skb->len > REPLY_HEADERS && bpf_skb_pull_data(skb, REPLY_HEADERS))
		return AGENT_DROP_REPLY_OTHER;
	c = cursor_open_skb(skb);
	if (parse_link(&c, &p) || p.tag_count || parse_network(&c, &p))
		return AGENT_DROP_REPLY_OTHER;
	vip = agent_vip(p.client);
	if (!vip)
		return AGENT_PASS; /* the kernel's own, of this device: it ends at the other end */
	way = way_choose(&p, *vip);
	if (way)
		return reply_to_exit(skb, &p, way - 1, hop);
	verdict = hop_find(skb, p.vip_address, hop);
	return verdict == AGENT_PASS ? AGENT_REPLY_DIRECT : verdict;
}

/* Away by the hop. The packet still has the route by which it came here, and if it had to wait for the hop's
 * neighbour entry, the kernel would send it to that route's neighbour: nobody. Metadata takes the route's place;
 * only tunnel devices read it.
 */
static __always_inline long hop_send(struct __sk_buff *skb, struct hop *hop)
{
	struct bpf_tunnel_key none = {};

	bpf_skb_set_tunnel_key(skb, &none, TUNNEL_KEY_SIZE, 0);
	return bpf_redirect_neigh(hop->ifindex, &hop->neighbour, sizeof(hop->neighbour), 0);
}

#endif
