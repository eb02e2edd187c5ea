/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SELECT_H
#define LIMPET_SELECT_H

/* The ladder: which backend gets a packet, and by which rung.
 *
 * An existing flow: connection table; what the table remembers of it after it has expired; the live session of
 * its client; home of its slot. A new flow: the live session of its client, else the pool's policy. Whatever
 * was chosen is recorded, if there is room and the rate allows, so that the next packet finds it in the table.
 *
 * Only a hit in the connection table is on the fast path. The rest are global functions: the verifier looks at
 * each once.
 */

#include "admit.h"
#include "affinity.h"
#include "flow.h"
#include "maps.h"
#include "policy.h"
#include "rate.h"
#include "seat.h"

struct choice {
	__u32 vip;     /* id of the VIP, 0 if there is none */
	__u32 id;      /* of the backend */
	__u32 entropy; /* the same for all packets of a flow */
	__u32 created; /* a new flow got an entry */
	__u32 began;   /* a new session began */
	__u32 egress;  /* interface of the backend, read once: user space clears it while it writes the row */
	__u32 rung;
};

/* Row of a backend, or NULL if it has none. */
static __always_inline struct backend *backend_at(__u32 id)
{
	struct backend *row;

	if (!id)
		return 0;
	row = bpf_map_lookup_elem(&backends, &id);
	return row && row->encapsulation ? row : 0;
}

/* Whether a backend takes flows of its sessions; `refusals`: bits of its standing that speak against it. */
static __always_inline int backend_takes(__u32 pool, __u32 id, __u32 refusals)
{
	struct backend *row = backend_at(id);

	return row && (!row->has_standing || !(standing_of(pool, id) & refusals));
}

static __always_inline int packet_is_new(const struct packet *p)
{
	return p->kind == KIND_FIRST || p->kind == KIND_ANY;
}

/* An expired flow sends again: it is open as before, and its session with it, unless the client has begun
 * another elsewhere meanwhile. */
__noinline int flow_revive(const struct flow *f, const struct packet *p, const struct choice *choice)
{
	struct flow_state state = {.life = LIFE_ESTABLISHED, .session = FLOW_IS_SESSION};
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct session_key key;
	struct seat seat = {};
	__u32 vip_id;
	struct vip *vip;
	__u64 word, fresh;

	if (!f || !p || !choice || !limits)
		return 0;
	vip_id = choice->vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	entry = flow_find(f);
	if (!vip || !entry)
		return 0;
	state.backend = choice->id & (LIMIT_BACKENDS - 1);
	if (vip->affinity != AFFINITY_FLOW) {
		seat_find(p, vip_id, &seat);
		state.session = seat.session;
		if (seat.state == SEAT_LIVE && seat.backend != state.backend)
			state.session = FLOW_ALONE;
		if (seat.state != SEAT_LIVE) {
			session_name(&key, vip, vip_id, p->client, seat.range);
			state.session = session_begin(&key, state.backend, 0) | seat.split;
		}
	}
	word = READ_ONCE(entry->word);
	fresh = flow_word(f, &state, word);
	if ((word & FLOW_MATCH) != f->match || __sync_val_compare_and_swap(&entry->word, word, fresh) != word)
		return 0;
	if (FLOW_GET(word, LIFE) != LIFE_LATE) /* the sweeper has not come by yet */
		flow_tell(f, p, word, LIFE_LATE, limits);
	flow_tell(f, p, (fresh & ~FLOW_FIELD(LIFE)) | (__u64)LIFE_LATE << FLOW_LIFE_SHIFT, LIFE_ESTABLISHED,
		  limits);
	return 1;
}

/* What the flow's own entry says, where that is not simply "there": its backend has a standing or no row, or the
 * flow has expired. Sets choice->id if that decides. */
static __always_inline enum verdict select_known(const struct flow *f, const struct packet *p,
						 struct choice *choice, struct flow_entry *entry, __u32 pool,
						 struct counters *counts)
{
	const struct idle_limits *limits = idle_limits_get();
	__u64 word = READ_ONCE(entry->word);
	__u32 id = word & FLOW_FIELD(BACKEND), life = FLOW_GET(word, LIFE), standing;
	struct backend *row;
	int is_usable, is_late;

	if (!limits || (word & FLOW_MATCH) != f->match)
		return VERDICT_CONTINUE;
	is_usable = flow_is_usable(word, f, p, limits);
	is_late = !is_usable && !packet_is_new(p) && (life == LIFE_LATE || life == LIFE_ESTABLISHED);
	if (!is_usable && !is_late)
		return VERDICT_CONTINUE;
	row = backend_at(id);
	if (!row) {
		counts->events[EVENT_STALE_BACKEND]++;
		return VERDICT_CONTINUE;
	}
	standing = row->has_standing ? standing_of(pool, id) : 0;
	if (standing & STANDING_RESET && p->protocol == IPPROTO_TCP &&
	    (p->kind == KIND_EXISTING || p->kind == KIND_LAST)) {
		choice->id = id;
		return VERDICT_RESET;
	}
	if (standing & (STANDING_RESET | STANDING_LEFT_BY_FLOWS)) {
		counts->events[EVENT_FLOW_MOVED]++;
		return VERDICT_CONTINUE;
	}
	choice->id = id;
	choice->rung = is_late ? RUNG_LATE : RUNG_TABLE;
	if (is_usable)
		flow_touch(entry, word, f, p, limits);
	else if (p->kind == KIND_EXISTING)
		flow_revive(f, p, choice);
	return VERDICT_CONTINUE;
}

/* Write down what was chosen. `entry`: the one that the flow has already, or NULL. */
static __always_inline void select_record(struct flow_entry *entry, const struct flow *f, const struct packet *p,
					  struct choice *choice, __u32 session, struct counters *counts)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_state state = {
		.backend = choice->id & (LIMIT_BACKENDS - 1),
		.life = LIFE_OPENING,
		.session = session,
	};

	if (!limits)
		return;
	/* The entry that the flow has takes no room, and left as it is would send the next packet elsewhere. */
	choice->created = entry ? flow_renew(entry, f, p, &state, limits, counts) : flow_create(f, p, &state);
	if (session == FLOW_IS_SESSION && choice->created) {
		load_add(state.backend, 1);
		choice->began = 1;
	}
}

/* A backend for a flow whose client has no session that could say, or one that must leave its backend. */
static __always_inline enum verdict select_policy(const struct vip *vip, const struct packet *p,
						  struct choice *choice, const struct seat *seat, int is_known)
{
	const __u32 slot = affinity_slot(vip, p, seat->range);
	__u32 chosen;

	if (is_known && !packet_is_new(p) && seat->state == SEAT_RETURNING &&
	    backend_takes(vip->pool, seat->backend, STANDING_RESET | STANDING_LEFT_BY_FLOWS)) {
		choice->id = seat->backend;
		choice->rung = RUNG_LATE;
		return VERDICT_CONTINUE;
	}
	if (is_known && packet_is_new(p))
		chosen = policy_choose(vip->pool, slot, seat->state == SEAT_RETURNING);
	else
		chosen = CHOSEN(packet_is_new(p) ? RUNG_HOME_NEW : RUNG_HOME_EXISTING, home(vip->pool, slot));
	choice->id = chosen & 0xffff;
	choice->rung = chosen >> 16;
	return choice->id ? VERDICT_CONTINUE : VERDICT_DROP_NO_BACKEND;
}

/* The session that the flow is recorded with: begun, moved or followed. */
static __always_inline __u32 select_session(const struct vip *vip, const struct packet *p, struct choice *choice,
					    const struct seat *seat, int is_followed)
{
	struct session_key key;
	__u32 session;

	if (vip->affinity == AFFINITY_FLOW)
		return FLOW_IS_SESSION;
	if (is_followed)
		return seat->session;
	session_name(&key, vip, choice->vip, p->client, seat->range);
	if (seat->state == SEAT_LIVE) {
		session = session_move(&key, choice->id);
	} else {
		session = session_begin(&key, choice->id, 0);
		choice->began = session != FLOW_ALONE;
	}
	return session == FLOW_ALONE ? session : session | seat->split;
}

/* The ladder below the connection table. */
__noinline int select_unknown(const struct flow *f, const struct packet *p, struct choice *choice)
{
	__u32 zero = 0, vip_id, refusals, session;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;
	int is_followed, may_record;
	struct seat seat = {};
	enum verdict verdict;
	struct vip *vip;

	if (!f || !p || !choice || !counts)
		return VERDICT_NO_SERVICE;
	vip_id = choice->vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return VERDICT_NO_SERVICE;
	entry = flow_find(f);
	if (vip->affinity != AFFINITY_FLOW)
		seat_find(p, vip_id, &seat);
	refusals = STANDING_RESET | STANDING_LEFT_BY_FLOWS;
	if (packet_is_new(p))
		refusals |= STANDING_LEFT_BY_SESSIONS;
	is_followed = seat.state == SEAT_LIVE && backend_takes(vip->pool, seat.backend, refusals);
	/* A flow's FIN or RST alone is not worth an entry, nor is an error about it. */
	may_record = p->kind != KIND_LAST && p->kind != KIND_ICMP_ERROR;
	if (may_record && !entry && !rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst)) {
		counts->events[EVENT_REFUSED_RATE]++;
		may_record = 0;
	}
	if (is_followed) {
		choice->id = seat.backend;
		choice->rung = packet_is_new(p) ? RUNG_SESSION_NEW : RUNG_SESSION_EXISTING;
	} else {
		verdict = select_policy(vip, p, choice, &seat, may_record || !packet_is_new(p));
		if (verdict)
			return verdict;
	}
	if (may_record) {
		session = select_session(vip, p, choice, &seat, is_followed);
		select_record(entry, f, p, choice, session, counts);
	}
	return VERDICT_CONTINUE;
}

/* Whatever is not a plain hit in the connection table. */
__noinline int select_slow(const struct flow *f, const struct packet *p, struct choice *choice)
{
	__u32 zero = 0, vip_id;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;
	enum verdict verdict;
	struct vip *vip;

	if (!f || !p || !choice || !counts)
		return VERDICT_NO_SERVICE;
	vip_id = choice->vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return VERDICT_NO_SERVICE;
	choice->id = 0;
	entry = flow_find(f);
	if (entry) {
		verdict = select_known(f, p, choice, entry, vip->pool, counts);
		if (verdict || choice->id)
			return verdict;
	}
	return select_unknown(f, p, choice);
}

static __always_inline enum verdict select_flow(const struct flow *f, const struct packet *p,
						struct choice *choice, struct backend **backend)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry = flow_find(f);
	enum verdict verdict;
	__u64 word;

	choice->entropy = f->hash >> 20;
	if (likely(entry && limits)) {
		word = READ_ONCE(entry->word);
		if (likely(flow_is_usable(word, f, p, limits))) {
			choice->id = word & FLOW_FIELD(BACKEND);
			*backend = backend_at(choice->id);
			if (likely(*backend && !(*backend)->has_standing)) {
				flow_touch(entry, word, f, p, limits);
				choice->rung = RUNG_TABLE;
				return VERDICT_CONTINUE;
			}
		}
	}
	verdict = select_slow(f, p, choice);
	if (verdict)
		return verdict;
	*backend = backend_at(choice->id);
	return *backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
}

/* Remember where the first fragment of a datagram went, for those that follow it. */
static __always_inline void fragment_remember(const struct packet *p, __u32 address_id, __u32 backend,
					      struct counters *counters)
{
	const struct flow_state state = {.backend = backend & (LIMIT_BACKENDS - 1), .life = LIFE_FRAGMENT};
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct flow flow;

	if (!limits)
		return;
	flow_name_fragment(&flow, p, address_id);
	entry = flow_find(&flow);
	if (entry)
		flow_renew(entry, &flow, p, &state, limits, counters);
	else if (rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst))
		flow_create(&flow, p, &state);
	else
		counters->events[EVENT_REFUSED_RATE]++;
}

/* A later fragment has no ports. It follows its first; without one, the session of its client or home, where the
 * client alone decides. */
static __always_inline enum verdict select_fragment(__u32 address_id, const struct vip *vip,
						    const struct packet *p, struct choice *choice,
						    struct backend **backend)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct seat seat = {};
	struct flow flow;
	__u64 word;

	flow_name_fragment(&flow, p, address_id);
	choice->entropy = flow.hash >> 20;
	entry = flow_find(&flow);
	if (entry && limits) {
		word = READ_ONCE(entry->word);
		if (flow_is_usable(word, &flow, p, limits)) {
			choice->id = word & FLOW_FIELD(BACKEND);
			*backend = backend_at(choice->id);
			choice->rung = RUNG_FRAGMENT;
			flow_touch(entry, word, &flow, p, limits);
			if (*backend)
				return VERDICT_CONTINUE;
		}
	}
	if (!vip || vip->affinity != AFFINITY_CLIENT)
		return VERDICT_DROP_FRAGMENT;
	seat_find(p, choice->vip, &seat);
	choice->rung = RUNG_SESSION_EXISTING;
	choice->id = seat.backend;
	if (seat.state != SEAT_LIVE) {
		choice->rung = RUNG_HOME_FRAGMENT;
		choice->id = home(vip->pool, affinity_slot(vip, p, 0));
	}
	if (!choice->id)
		return VERDICT_DROP_NO_BACKEND;
	*backend = backend_at(choice->id);
	return *backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
}

#endif
