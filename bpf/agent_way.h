/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AGENT_WAY_H
#define LIMPET_AGENT_WAY_H

/* By which PoP a client's packets come in, so that replies can leave by the same one: it announces the VIP, or
 * nothing would arrive there.
 *
 * A client that has been silent since its PoP withdrew is sent to by a way that other clients of the VIP use
 * now. What proves that a PoP announces are packets that have crossed a router, so a director's own health
 * checks are told from them: they arrive with the largest hop limit there is, which nobody else can have,
 * because the director lowers it.
 */

#include "agent_maps.h"
#include "packet.h"

#define HOP_LIMIT_UNTOUCHED 255
#define HEARD_STEP          4 /* jiffies that a time may be old before it is written again */

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)BPF_FUNC_map_update_elem;

static __always_inline void way_heard(__u32 vip, __u32 exit)
{
	struct agent_heard *heard = bpf_map_lookup_elem(&agent_heard, &vip);
	const __u64 now = bpf_jiffies64();

	if (!heard || exit > LIMIT_AGENT_EXITS)
		return;
	if (now - READ_ONCE(heard->at[exit]) >= HEARD_STEP)
		WRITE_ONCE(heard->at[exit], now);
}

/* A packet of `inner`'s client for a VIP came in by this way. Clients of the own PoP need no entry. */
static __always_inline void way_learn(const struct packet *inner, __u32 vip, __u32 exit)
{
	struct agent_client client = {.address = {inner->client[0], inner->client[1]}, .vip = vip};
	__u32 *known = bpf_map_lookup_elem(&agent_clients, &client);
	__u32 way = exit;

	if (inner->hop_limit == HOP_LIMIT_UNTOUCHED || (known && *known & AGENT_WAY_DIRECTOR))
		way |= AGENT_WAY_DIRECTOR;
	else
		way_heard(vip, exit);
	if (known) {
		if (READ_ONCE(*known) != way)
			WRITE_ONCE(*known, way);
	} else if (way) {
		bpf_map_update_elem(&agent_clients, &client, &way, BPF_ANY);
	}
}

/* The way that was heard last. */
static __always_inline __u32 way_newest(const struct agent_heard *heard, __u64 *newest)
{
	__u32 best = 0;

	*newest = 0;
#pragma unroll
	for (__u32 i = 0; i <= LIMIT_AGENT_EXITS; i++) {
		if (READ_ONCE(heard->at[i]) > *newest) {
			*newest = READ_ONCE(heard->at[i]);
			best = i;
		}
	}
	return best;
}

/* Which way a reply to this client leaves: 0: directly, else 1 + the exit. */
static __always_inline __u32 way_choose(const struct packet *reply, __u32 vip)
{
	struct agent_client client = {.address = {reply->vip_address[0], reply->vip_address[1]}, .vip = vip};
	const __u32 *known = bpf_map_lookup_elem(&agent_clients, &client);
	const struct agent_heard *heard = bpf_map_lookup_elem(&agent_heard, &vip);
	__u32 exit = known ? *known & AGENT_WAY_EXIT : 0, best;
	const __u64 now = bpf_jiffies64();
	__u64 newest;

	if (!heard || exit > LIMIT_AGENT_EXITS || (known && *known & AGENT_WAY_DIRECTOR))
		return exit;
	if (now - READ_ONCE(heard->at[exit]) <= agent_settings.silence)
		return exit;
	best = way_newest(heard, &newest);
	if (best == exit || now - newest > agent_settings.silence)
		return exit;
	agent_count(AGENT_REPLY_MOVED);
	return best;
}

#endif
