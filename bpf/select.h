/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SELECT_H
#define LIMPET_SELECT_H

/* The ladder: which backend gets a packet, and by which rung.
 *
 * An existing flow: connection table; what the table remembers of it after it has expired; what other directors
 * told of it, or the live session of its client; home of its slot, if that is sure; else the others are asked, and
 * the packet waits. A new flow: the live session of its client, here or as told, else the pool's policy. Whatever
 * was chosen is recorded, if there is room and the rate allows, so that the next packet finds it in the table.
 *
 * Only a hit in the connection table is on the fast path. The rest are global functions, one after the other and
 * hardly nested: the verifier looks at each once, and all that nest share 512 bytes of stack.
 */

#include "affinity.h"
#include "directory.h"
#include "held.h"
#include "news.h"
#include "policy.h"
#include "rate.h"
#include "revive.h"
#include "room.h"
#include "work.h"

/* What the flow's own entry says, where that is not simply "there": its backend has a standing or no row, or the
 * flow has expired. Sets choice.id if that decides. */
__noinline int select_known(struct work *w, const struct packet *p)
{
	const struct idle_limits *limits = idle_limits_get();
	__u32 zero = 0, vip_id, id, life, standing;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;
	int is_usable, is_late;
	struct backend *row;
	struct vip *vip;
	__u64 word;

	if (!w || !p || !limits || !counts)
		return VERDICT_DROP_UNKNOWN_BACKEND;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	entry = flow_find(&w->flow);
	w->choice.id = 0;
	if (!vip || !entry)
		return VERDICT_CONTINUE;
	word = READ_ONCE(entry->word);
	id = word & FLOW_FIELD(BACKEND);
	life = FLOW_GET(word, LIFE);
	if ((word & FLOW_MATCH) != w->flow.match)
		return VERDICT_CONTINUE;
	is_usable = flow_is_usable(word, &w->flow, p, limits);
	is_late = !is_usable && !packet_is_new(p) && (life == LIFE_LATE || life == LIFE_ESTABLISHED);
	if (!is_usable && !is_late)
		return VERDICT_CONTINUE;
	row = backend_at(id);
	if (!row) {
		counts->events[EVENT_STALE_BACKEND]++;
		return VERDICT_CONTINUE;
	}
	standing = row->has_standing ? standing_of(vip->pool, id) : 0;
	if (standing & STANDING_RESET && p->protocol == IPPROTO_TCP &&
	    (p->kind == KIND_EXISTING || p->kind == KIND_LAST)) {
		w->choice.id = id;
		return VERDICT_RESET;
	}
	if (standing & (STANDING_RESET | STANDING_LEFT_BY_FLOWS)) {
		counts->events[EVENT_FLOW_MOVED]++;
		return VERDICT_CONTINUE;
	}
	w->choice.id = id;
	w->choice.rung = is_late ? RUNG_LATE : RUNG_TABLE;
	w->choice.is_revived = is_late && p->kind == KIND_EXISTING;
	if (is_usable)
		w->choice.is_unseated = flow_touch(&w->told, entry, word, &w->flow, p, limits);
	return VERDICT_CONTINUE;
}

/* A backend for a flow whose client has no session that could say, or one that must leave its backend. */
static __always_inline enum verdict select_policy(struct work *w, const struct vip *vip, const struct packet *p,
						  int may_choose)
{
	const __u32 slot = affinity_slot(vip, p, w->seat.range);
	__u32 chosen;

	if (!packet_is_new(p) && w->seat.state == SEAT_RETURNING &&
	    backend_takes(vip->pool, w->seat.backend, STANDING_RESET | STANDING_LEFT_BY_FLOWS))
		chosen = CHOSEN(RUNG_LATE, w->seat.backend);
	else if (packet_is_new(p) && may_choose)
		chosen = policy_choose(vip->pool, slot, w->seat.state == SEAT_RETURNING);
	else
		chosen = CHOSEN(packet_is_new(p) ? RUNG_HOME_NEW : RUNG_HOME_EXISTING, home(vip->pool, slot));
	w->choice.id = chosen & 0xffff;
	w->choice.rung = chosen >> 16;
	if (!w->choice.id)
		return VERDICT_DROP_NO_BACKEND;
	/* Nothing is recorded of a backend without a row. */
	return backend_at(w->choice.id) ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
}

/* What the backend of a flow was taken from. */
enum following {
	FOLLOWS_NOTHING = 0,
	FOLLOWS_SEAT, /* the client's session here */
	FOLLOWS_TOLD, /* the client's session, as another director told */
	FOLLOWS_FLOW, /* what another director said of this flow */
};

static __always_inline enum following select_follow(struct work *w, __u32 pool, const struct packet *p,
						    __u32 refusals)
{
	const int is_new = packet_is_new(p);
	/* A datagram of a flow that was told of is not the first of it. */
	const __u32 of_told = w->hint.state == HINT_FLOW && p->kind == KIND_ANY
				      ? refusals & ~STANDING_LEFT_BY_SESSIONS
				      : refusals;

	if (w->hint.state != HINT_NONE && backend_takes(pool, w->hint.backend, of_told)) {
		w->choice.id = w->hint.backend;
		w->choice.rung = w->hint.is_answer ? RUNG_OWNER
				 : is_new          ? RUNG_DIRECTORY_NEW
						   : RUNG_DIRECTORY_EXISTING;
		return w->hint.state == HINT_FLOW ? FOLLOWS_FLOW : FOLLOWS_TOLD;
	}
	if (w->hint.state == HINT_SESSION || w->seat.state != SEAT_LIVE ||
	    !backend_takes(pool, w->seat.backend, refusals))
		return FOLLOWS_NOTHING;
	w->choice.id = w->seat.backend;
	w->choice.rung = is_new ? RUNG_SESSION_NEW : RUNG_SESSION_EXISTING;
	return FOLLOWS_SEAT;
}

/* Whether another director may know better where an existing flow belongs. What was answered is not asked again,
 * also if its backend is of no use. */
static __always_inline int select_must_ask(const struct work *w, const struct packet *p, enum following follows)
{
	if (!settings.is_member || packet_is_new(p) || w->hint.state == HINT_FLOW)
		return 0;
	if (w->hint.flags & EXCEPTION_ASK)
		return 1;
	if (follows)
		return 0;
	if (w->seat.state == SEAT_RETURNING && w->seat.backend != (w->choice.home & SLOT_BACKEND))
		return 1;
	return (w->choice.home & SLOT_UNSURE) != 0;
}

/* Whether what was told leads an existing flow nowhere, or where another director has guessed; counts what it led
 * to, if that is not a backend that takes the flow. */
static __always_inline int select_is_astray(const struct work *w, const struct packet *p, enum following follows,
					    struct counters *counts)
{
	if (w->hint.state == HINT_FLOW && w->hint.is_orphan) {
		counts->events[EVENT_ORPHAN_UNKNOWN]++;
		return 1;
	}
	if (directory_is_gone(w)) {
		counts->events[packet_is_new(p) ? EVENT_STALE_BACKEND : EVENT_ORPHAN_BACKEND]++;
		return !packet_is_new(p);
	}
	if (w->hint.state == HINT_FLOW && follows != FOLLOWS_FLOW)
		counts->events[EVENT_FLOW_MOVED]++;
	return 0;
}

/* The session of a flow that was found by itself: no reason to begin or to move one elsewhere. */
static __always_inline int select_is_apart(const struct work *w)
{
	if (w->seat.state == SEAT_LIVE)
		return w->seat.backend != w->choice.id || w->hint.is_newer;
	return w->hint.is_apart;
}

static __always_inline void select_tell(struct work *w, int is_moved)
{
	const int is_told = w->choice.rung == RUNG_DIRECTORY_NEW || w->choice.rung == RUNG_DIRECTORY_EXISTING;
	__u32 flags = w->hint.flags & EXCEPTION_ASK;

	if (!settings.is_member)
		return;
	/* Flows of the session before may be asleep at its backend. */
	if (!is_told && w->seat.state == SEAT_RETURNING && w->seat.backend != w->choice.id)
		flags |= EXCEPTION_ASK;
	if (is_moved)
		news_of_session(w, w->choice.id, is_told ? flags : EXCEPTION_ASK);
	else if (w->choice.began && news_is_worth(w))
		news_of_session(w, w->choice.id, flags);
}

/* The session that the flow is recorded with: begun, moved or followed. A flow whose client's session was begun or
 * moved by another CPU meanwhile goes with it, unless it is known where the flow was. */
static __always_inline __u32 select_session(struct work *w, const struct vip *vip, const struct packet *p,
					    enum following follows)
{
	const int was_live = w->seat.state == SEAT_LIVE;
	__u32 zero = 0, found, backend;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);

	if (vip->affinity == AFFINITY_FLOW)
		return FLOW_IS_SESSION;
	if (follows == FOLLOWS_FLOW && select_is_apart(w))
		return FLOW_ALONE;
	if (follows == FOLLOWS_SEAT || (was_live && w->seat.backend == w->choice.id))
		return w->seat.session;
	session_name(&w->key, vip, w->choice.vip, p->client, w->seat.range);
	found = session_admit(w);
	backend = found >> ADMISSION_BACKEND_SHIFT;
	if (!(found & FLOW_IN_SESSION))
		return FLOW_ALONE;
	if (backend != w->choice.id) {
		if (w->choice.rung == RUNG_LATE || follows == FOLLOWS_FLOW)
			return FLOW_ALONE;
		w->choice.id = backend;
		w->choice.rung = packet_is_new(p) ? RUNG_SESSION_NEW : RUNG_SESSION_EXISTING;
	} else {
		if (was_live && follows == FOLLOWS_TOLD && counts)
			counts->events[EVENT_SESSION_OVERRULED]++;
		select_tell(w, was_live);
	}
	return (found & FLOW_SESSION_MASK) | w->seat.split;
}

/* What is known of the flow's client, here and as told by others. */
static __always_inline void select_look(struct work *w, const struct vip *vip, const struct packet *p)
{
	w->seat = (struct seat){};
	w->hint = (struct hint){};
	if (vip->affinity != AFFINITY_FLOW)
		seat_find(p, w->choice.vip, &w->seat);
	if (!settings.is_member)
		return;
	if (w->seat.parted)
		news_of_split(w, vip, p);
	directory_look(w, p);
	w->choice.home = home_marked(vip->pool, affinity_slot(vip, p, w->seat.range));
}

/* The ladder below the connection table. */
__noinline int select_unknown(struct xdp_md *ctx, struct work *w, const struct packet *p)
{
	__u32 zero = 0, vip_id, refusals = STANDING_RESET | STANDING_LEFT_BY_FLOWS, is_orphan;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	enum following follows;
	enum verdict verdict;
	struct vip *vip;
	int may_record;

	if (!w || !p || !counts)
		return VERDICT_DROP_UNKNOWN_BACKEND;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return VERDICT_NO_SERVICE;
	select_look(w, vip, p);
	if (packet_is_new(p))
		refusals |= STANDING_LEFT_BY_SESSIONS;
	follows = select_follow(w, vip->pool, p, refusals);
	if (select_must_ask(w, p, follows)) {
		if (w->hint.is_orphan)
			counts->events[EVENT_ORPHAN_UNKNOWN]++;
		else if (held_keep(ctx, w, p))
			return VERDICT_HELD;
		is_orphan = 1;
	} else {
		is_orphan = select_is_astray(w, p, follows, counts);
	}
	/* A flow's FIN or RST alone is not worth an entry, nor is an error about it. */
	may_record = p->kind != KIND_LAST && p->kind != KIND_ICMP_ERROR;
	if (may_record && !flow_find(&w->flow) &&
	    !rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst)) {
		counts->events[EVENT_REFUSED_RATE]++;
		may_record = 0;
	}
	if (!follows) {
		verdict = select_policy(w, vip, p, may_record);
		if (verdict)
			return verdict;
	}
	w->choice.is_recorded = may_record;
	/* A flow of which nothing is known says nothing of its client either, and is no answer for who asks. */
	if (is_orphan && (!follows || follows == FOLLOWS_FLOW))
		w->choice.session = FLOW_ORPHAN | (vip->affinity == AFFINITY_FLOW ? FLOW_IS_SESSION : FLOW_ALONE);
	else if (may_record)
		w->choice.session = select_session(w, vip, p, follows);
	if (is_orphan)
		w->choice.rung = RUNG_ORPHAN;
	return VERDICT_CONTINUE;
}

/* Whether others would look for this flow elsewhere, and no session tells them. */
static __always_inline int flow_is_news(const struct work *w, __u32 session)
{
	if (w->choice.rung == RUNG_ORPHAN)
		return 0;
	if (session == FLOW_IS_SESSION)
		return news_is_worth(w);
	return session == FLOW_ALONE && w->choice.rung != RUNG_OWNER &&
	       w->choice.id != (w->choice.home & SLOT_BACKEND);
}

/* Write down what was chosen. The entry that the flow has already takes no room, and left as it is would send the
 * next packet elsewhere. */
__noinline int select_record(struct work *w, const struct packet *p)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_state state = {.life = LIFE_OPENING};
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;

	if (!w || !p || !limits || !counts)
		return 0;
	state.backend = w->choice.id & (LIMIT_BACKENDS - 1);
	state.session = w->choice.session & FLOW_SESSION_MASK;
	entry = flow_find(&w->flow);
	/* Before others can see the flow, who may see its end. */
	if (flow_is_session(state.session))
		load_add(state.backend, 1);
	w->choice.created = entry ? flow_renew(entry, &w->flow, p, &state, limits, counts, &w->ended)
				  : flow_create(&w->flow, p, &state, limits, counts, &w->ended);
	if (flow_is_session(state.session)) {
		w->choice.began = w->choice.created;
		if (!w->choice.created)
			load_add(state.backend, -1);
	}
	if (settings.is_member && w->choice.created && flow_is_news(w, state.session))
		news_of_flow(w, p);
	return 0;
}

/* What a director without any memory does: the lowest rung, for every packet. */
__noinline int select_home(struct work *w, const struct packet *p)
{
	struct vip *vip;
	__u32 vip_id;

	if (!w || !p)
		return VERDICT_DROP_NO_BACKEND;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return VERDICT_NO_SERVICE;
	w->choice.id = home(vip->pool, affinity_slot(vip, p, affinity_range(vip, p->client_port)));
	w->choice.rung = packet_is_new(p) ? RUNG_HOME_NEW : RUNG_HOME_EXISTING;
	return w->choice.id ? VERDICT_CONTINUE : VERDICT_DROP_NO_BACKEND;
}

static __always_inline enum verdict select_flow(struct xdp_md *ctx, struct work *w, const struct packet *p,
						struct backend **backend)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	enum verdict verdict;
	__u64 word;

	if (settings.hash_only) {
		w->choice.entropy = w->flow.hash >> 20;
		verdict = select_home(w, p);
		*backend = backend_at(w->choice.id);
		return verdict ?: *backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
	}
	if (unlikely(p->kind == KIND_FIRST))
		session_fetch(p, w->choice.vip);
	entry = flow_find(&w->flow);
	w->choice.entropy = w->flow.hash >> 20;
	if (likely(entry && limits)) {
		word = READ_ONCE(entry->word);
		if (likely(flow_is_usable(word, &w->flow, p, limits))) {
			w->choice.id = word & FLOW_FIELD(BACKEND);
			*backend = backend_at(w->choice.id);
			if (likely(*backend && !(*backend)->has_standing)) {
				if (unlikely(flow_touch(&w->told, entry, word, &w->flow, p, limits)))
					flow_reseat(w, p);
				w->choice.rung = RUNG_TABLE;
				return VERDICT_CONTINUE;
			}
		}
	}
	verdict = select_known(w, p);
	if (!verdict && !w->choice.id)
		verdict = select_unknown(ctx, w, p);
	if (verdict)
		return verdict;
	if (w->choice.is_recorded) {
		w->ended.vip = 0;
		select_record(w, p);
		if (w->ended.vip)
			session_tell(&w->ended);
	}
	if (w->choice.is_revived)
		flow_revive(w, p);
	if (w->choice.is_unseated)
		flow_reseat(w, p);
	*backend = backend_at(w->choice.id);
	return *backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
}

#endif
