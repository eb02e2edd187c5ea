/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SEAT_H
#define LIMPET_SEAT_H

/* Which session a new flow belongs to: its client's, or, of a mega-proxy, that of the range of its port.
 *
 * A mega-proxy is a client with more open flows than the VIP allows, or one under a listed prefix. It is split
 * from then on: flows that are open stay, live sessions stay, but a new flow looks for the session of its range
 * first, and begins one. When it has become small again, sessions of ranges are followed as long as they live,
 * and no more begin.
 */

#include "session.h"

enum seat_state {
	SEAT_UNKNOWN = 0, /* no session */
	SEAT_RETURNING,   /* had one, which has expired */
	SEAT_LIVE,
};

/* What the session table says about a flow. */
struct seat {
	__u32 state;   /* enum seat_state */
	__u32 backend; /* of the session, also of one that has expired */
	__u32 session; /* bits of enum flow_session, if live */
	__u32 range;   /* of the session's key */
	__u32 split;   /* FLOW_SESSION_RANGE if it is of a mega-proxy's range */
	__u32 seen;    /* tick of the packet before, if live */
	__u32 parted;  /* row of the backend of a client that became a mega-proxy just now */
};

static __always_inline int proxy_is_listed(const struct packet *p)
{
	struct proxy key = {.bits = 128};
	__u64 high = swap64(p->client[0]), low = swap64(p->client[1]);

	__builtin_memcpy(key.address, &high, sizeof(high));
	__builtin_memcpy(key.address + sizeof(high), &low, sizeof(low));
	return bpf_map_lookup_elem(&proxies, &key) != 0;
}

/* Fill in what the session of this key says; its entry, or NULL. A packet of a new flow refreshes it, since no
 * entry of the flow does that yet. */
static __always_inline struct session *seat_look(struct seat *seat, const struct session_key *key,
						 const struct packet *p, __u32 tick,
						 const struct idle_limits *limits)
{
	__u32 place = 0, *seen;
	struct session *s;
	__u64 word;

	s = session_find(key, &place);
	seen = session_seen_at(key, place);
	seat->state = SEAT_UNKNOWN;
	if (!s || !seen)
		return 0;
	word = READ_ONCE(s->word);
	seat->backend = word & SESSION_FIELD(BACKEND);
	seat->session = FLOW_IN_SESSION | place;
	seat->state =
		session_life(word) == SESSION_PAST || session_has_expired(word, READ_ONCE(*seen), tick, limits)
			? SEAT_RETURNING
			: SEAT_LIVE;
	seat->seen = READ_ONCE(*seen);
	if (seat->state == SEAT_LIVE && p->kind != KIND_ICMP_ERROR && READ_ONCE(*seen) != tick)
		WRITE_ONCE(*seen, tick);
	return s;
}

/* Whether the flows of this client are split now. It stops being one at half of what made it one. */
static __always_inline int seat_is_heavy(const struct session *s, const struct vip *vip, int is_listed)
{
	const __u32 is_split = (READ_ONCE(s->word) & SESSION_FIELD(SPLIT)) != 0;

	return is_listed ||
	       (vip->split_flows && (__s32)READ_ONCE(s->flows) >= (__s32)(vip->split_flows >> is_split));
}

/* The session of the range, if the client is a mega-proxy and a flow may follow or begin one. */
static __always_inline void seat_split(struct seat *seat, struct session *s, const struct vip *vip, __u32 vip_id,
				       const struct packet *p, __u32 tick, const struct idle_limits *limits,
				       struct counters *counts)
{
	const int is_split = (READ_ONCE(s->word) & SESSION_FIELD(SPLIT)) != 0;
	const int is_heavy = seat_is_heavy(s, vip, vip->looks_at_list && proxy_is_listed(p));
	const __u32 range = affinity_split_range(vip, p->client_port);
	struct session_key key;
	struct seat of_range = {};

	if (!is_heavy && !is_split)
		return;
	session_name(&key, vip, vip_id, p->client, range);
	seat_look(&of_range, &key, p, tick, limits);
	if (of_range.state != SEAT_LIVE && !is_heavy)
		return;
	if (!is_split) {
		__sync_fetch_and_or(&s->word, SESSION_FIELD(SPLIT));
		counts->events[EVENT_CLIENT_SPLIT]++;
		of_range.parted = seat->backend;
	}
	*seat = of_range;
	seat->session |= FLOW_SESSION_RANGE;
	seat->range = range;
	seat->split = FLOW_SESSION_RANGE;
}

/* Fill in `seat`. Not for VIPs with affinity flow, whose flows are sessions of their own. */
__noinline int seat_find(const struct packet *p, __u32 vip_id, struct seat *seat)
{
	const struct idle_limits *limits = idle_limits_get();
	const __u32 tick = tick_now();
	struct vip *vip = bpf_map_lookup_elem(&vips, &vip_id);
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct session_key key;
	struct session *s;

	if (!p || !seat || !limits || !vip || !counts)
		return 0;
	seat->range = affinity_range(vip, p->client_port);
	session_name(&key, vip, vip_id, p->client, seat->range);
	s = seat_look(seat, &key, p, tick, limits);
	if (vip->affinity != AFFINITY_CLIENT || p->kind == KIND_LATER_FRAGMENT) /* which has no ports */
		return 0;
	if (s && seat->state == SEAT_LIVE)
		seat_split(seat, s, vip, vip_id, p, tick, limits, counts);
	return 0;
}

#endif
