/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_MSS_H
#define LIMPET_MSS_H

/* Lowers the MSS that this backend announces for a VIP, so that what clients send still fits the path from the
 * director when it is encapsulated. Works on the frame that leaves, so SYN cookies are covered too.
 *
 * The kernel's helpers change the checksum, because they know whether the hardware has yet to compute it.
 */

#include "agent_maps.h"
#include "parse.h"

#define TCP_OPTIONS_MAX       40
#define TCP_OPTION_END        0
#define TCP_OPTION_NOP        1
#define TCP_OPTION_MSS        2
#define TCP_OPTION_MSS_LENGTH 4
#define HEADERS_MAX           (22 + 60 + 60) /* link with two tags, IPv4 and TCP with all options */

static long (*const bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to,
					__u32 length) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length,
					 __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
					 __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*const bpf_skb_pull_data)(struct __sk_buff *skb, __u32 length) = (void *)BPF_FUNC_skb_pull_data;

/* A walk over the TCP options of a frame. Offsets are from its first byte. */
struct walk {
	struct __sk_buff *skb;
	__u32 at;
	__u32 end;
	__u32 found; /* offset of the MSS value, 0 while not found */
};

/* Look at one option; 1 ends the walk. */
static long walk_step(__u32 round __attribute__((unused)), struct walk *walk)
{
	__u8 option[TCP_OPTION_MSS_LENGTH];

	if (walk->at + sizeof(option) > walk->end)
		return 1;
	if (bpf_skb_load_bytes(walk->skb, walk->at, option, sizeof(option)))
		return 1;
	if (option[0] == TCP_OPTION_NOP) {
		walk->at++;
		return 0;
	}
	if (option[0] == TCP_OPTION_END || option[1] < 2)
		return 1;
	if (option[0] == TCP_OPTION_MSS) {
		if (option[1] == TCP_OPTION_MSS_LENGTH)
			walk->found = walk->at + 2;
		return 1;
	}
	walk->at += option[1];
	return 0;
}

/* Offset of the MSS value, or 0. Practically every sender puts it first. */
static __always_inline __u32 mss_find(struct __sk_buff *skb, __u32 tcp_at, __u32 header_length)
{
	struct walk walk = {
		.skb = skb,
		.at = tcp_at + sizeof(struct tcphdr),
		.end = tcp_at + header_length,
	};

	if (!walk_step(0, &walk))
		bpf_loop(TCP_OPTIONS_MAX, walk_step, &walk, 0);
	return walk.found;
}

static __always_inline void mss_lower(struct __sk_buff *skb, __u32 tcp_at, __u32 value_at, __u16 limit)
{
	__be16 from, to = swap16(limit);

	if (bpf_skb_load_bytes(skb, value_at, &from, sizeof(from)) || swap16(from) <= limit)
		return;
	if (bpf_skb_store_bytes(skb, value_at, &to, sizeof(to), 0))
		return;
	/* Behind an odd number of NOPs, each byte counts in the other half of a checksummed word. */
	if ((value_at - tcp_at) & 1) {
		from = swap16(from);
		to = swap16(to);
	}
	bpf_l4_csum_replace(skb, tcp_at + __builtin_offsetof(struct tcphdr, check), from, to, sizeof(to));
	agent_count(AGENT_MSS_CLAMPED);
}

static __always_inline struct cursor cursor_open_skb(struct __sk_buff *skb)
{
	return (struct cursor){.pos = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
}

static __always_inline void mss_clamp(struct __sk_buff *skb)
{
	struct cursor c = cursor_open_skb(skb);
	struct packet p = {};
	struct tcphdr *tcp;
	__u32 tcp_at, limit;

	if (unlikely(cursor_between(c.pos, c.end) < HEADERS_MAX && cursor_between(c.pos, c.end) < skb->len)) {
		if (bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX))
			return;
		c = cursor_open_skb(skb);
	}
	if (parse_link(&c, &p) || parse_network(&c, &p))
		return;
	if (p.protocol != IPPROTO_TCP || p.kind == KIND_LATER_FRAGMENT)
		return;
	tcp = cursor_take(&c, sizeof(*tcp));
	if (!tcp || likely(!tcp->syn) || !agent_vip(p.client))
		return;
	limit = p.family == 4 ? agent_settings.mss4 : agent_settings.mss6;
	tcp_at = p.link_length + p.header_length;
	if (limit)
		mss_lower(skb, tcp_at, mss_find(skb, tcp_at, tcp->doff * 4), limit);
}

#endif
