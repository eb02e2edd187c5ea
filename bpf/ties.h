/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_TIES_H
#define LIMPET_TIES_H

/* What a flow's life does to the sessions that it belongs to.
 *
 * A session counts its open flows, and is refreshed by them. A flow of a mega-proxy's range belongs to two: that
 * of the range, and the client's.
 */

#include "session.h"

enum flow_step {
	STEP_REFRESH = 0,
	STEP_OPENED, /* became established, or the like */
	STEP_CLOSED, /* was that, and a packet came that made it no more */
	STEP_ENDED,  /* the same without a packet */
	STEP_SEEN,   /* the sweeper passes on when it was seen */
};

/* The client of a flow, and what its entry says of its session. */
struct membership {
	__u64 client[2];
	__u32 vip;
	__u32 session; /* FLOW_SESSION of its word */
	__u16 client_port;
	__u16 step;       /* enum flow_step */
	__u32 is_certain; /* open, and by what it told its session that lives: its place is right */
	__u32 seen;       /* STEP_SEEN: when */
};

#define SESSION_ANYWHERE 0xffffffffU
#define SESSION_PLACES   (FLOW_SESSION_WAY | FLOW_SESSION_SECOND)

/* `where`: the place that the flow's entry says; elsewhere is another session of this key, which knows nothing of
 * the flow. The place of the session, SESSION_ANYWHERE if there is none. */
static __always_inline __u32 session_step(const struct session_key *k, enum flow_step step, __u32 where,
					  __u32 tick)
{
	const struct idle_limits *limits = idle_limits_get();
	__u32 place = 0, old, *seen;
	int is_live = 0;
	struct session *s;
	__u64 word;

	s = session_find(k, &place);
	seen = session_seen_at(k, place);
	if (!s || !seen || !limits || (where != SESSION_ANYWHERE && place != where))
		return SESSION_ANYWHERE;
	if (step == STEP_CLOSED || step == STEP_ENDED)
		session_count_flow(s, -1);
	if (step == STEP_ENDED)
		return place;
	word = READ_ONCE(s->word);
	old = READ_ONCE(*seen);
	is_live = session_is_counted(word) && !session_has_expired(word, old, tick, limits);
	if (!is_live)
		return SESSION_ANYWHERE;
	if (step == STEP_SEEN && (__s32)(tick - old) > 0)
		__sync_val_compare_and_swap(seen, old, tick); /* a packet that comes just now is later */
	else if (step != STEP_SEEN && old != tick)
		WRITE_ONCE(*seen, tick);
	if (step == STEP_OPENED)
		session_count_flow(s, 1);
	return place;
}

/* Tell the sessions of a flow: its own, and for a range of a mega-proxy also the client's. Bits of enum
 * flow_session for the flow's entry: others than before if its session is elsewhere now; FLOW_ALONE if it opened
 * and has none, which then nobody was told. */
__noinline int session_tell(const struct membership *m)
{
	struct session_key key;
	__u32 tick, vip_id, range, *seen, session, place;
	struct vip *vip;

	if (!m)
		return 0;
	tick = m->step == STEP_SEEN ? m->seen : tick_now();
	vip_id = m->vip;
	session = m->session & ((1 << FLOW_SESSION_BITS) - 1);
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return session;
	if (session & FLOW_SESSION_RANGE) {
		session_name(&key, vip, vip_id, m->client, 0);
		place = session_step(&key, m->step == STEP_OPENED ? STEP_REFRESH : m->step, SESSION_ANYWHERE,
				     tick);
		if (m->step == STEP_OPENED && place == SESSION_ANYWHERE)
			return FLOW_ALONE;
	}
	range = session & FLOW_SESSION_RANGE ? affinity_split_range(vip, m->client_port)
					     : affinity_range(vip, m->client_port);
	session_name(&key, vip, vip_id, m->client, range);
	if (m->step == STEP_REFRESH && m->is_certain) {
		seen = session_seen_at(&key, session);
		if (seen)
			WRITE_ONCE(*seen, tick);
		return session;
	}
	place = session_step(&key, m->step, m->step == STEP_OPENED ? SESSION_ANYWHERE : session & SESSION_PLACES,
			     tick);
	if (m->step != STEP_OPENED)
		return session;
	if (place == SESSION_ANYWHERE)
		return FLOW_ALONE;
	if (session & FLOW_SESSION_RANGE) {
		session_name(&key, vip, vip_id, m->client, 0);
		session_step(&key, STEP_OPENED, SESSION_ANYWHERE, tick);
	}
	return FLOW_IN_SESSION | (session & FLOW_SESSION_RANGE) | place;
}

#endif
