/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SELECT_H
#define LIMPET_SELECT_H

/* The ladder: which backend gets a packet, and by which rung.
 *
 * An existing flow: connection table; what the table remembers of it after it has expired; the live session of
 * its client; home of its slot. A new flow: the live session of its client, else the pool's policy. Whatever
 * was chosen is recorded, if there is room and the rate allows, so that the next packet finds it in the table.
 *
 * Only a hit in the connection table is on the fast path. The rest are global functions, one after the other and
 * hardly nested: the verifier looks at each once, and all that nest share 512 bytes of stack.
 */

#include "affinity.h"
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

/* The session that the flow is recorded with: begun, moved or followed. A flow whose client's session was begun or
 * moved by another CPU meanwhile goes with it, unless it is known where the flow was. */
static __always_inline __u32 select_session(struct work *w, const struct vip *vip, const struct packet *p,
					    int is_followed)
{
	__u32 found, backend;

	if (vip->affinity == AFFINITY_FLOW)
		return FLOW_IS_SESSION;
	if (is_followed)
		return w->seat.session;
	session_name(&w->key, vip, w->choice.vip, p->client, w->seat.range);
	found = session_admit(w);
	backend = found >> ADMISSION_BACKEND_SHIFT;
	if (!(found & FLOW_IN_SESSION))
		return FLOW_ALONE;
	if (backend != w->choice.id) {
		if (w->choice.rung == RUNG_LATE)
			return FLOW_ALONE;
		w->choice.id = backend;
		w->choice.rung = packet_is_new(p) ? RUNG_SESSION_NEW : RUNG_SESSION_EXISTING;
	}
	return (found & FLOW_SESSION_MASK) | w->seat.split;
}

/* The ladder below the connection table. */
__noinline int select_unknown(struct work *w, const struct packet *p)
{
	__u32 zero = 0, vip_id, refusals = STANDING_RESET | STANDING_LEFT_BY_FLOWS;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	int is_followed, may_record;
	enum verdict verdict;
	struct vip *vip;

	if (!w || !p || !counts)
		return VERDICT_DROP_UNKNOWN_BACKEND;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return VERDICT_NO_SERVICE;
	w->seat = (struct seat){};
	if (vip->affinity != AFFINITY_FLOW)
		seat_find(p, vip_id, &w->seat);
	if (packet_is_new(p))
		refusals |= STANDING_LEFT_BY_SESSIONS;
	is_followed = w->seat.state == SEAT_LIVE && backend_takes(vip->pool, w->seat.backend, refusals);
	/* A flow's FIN or RST alone is not worth an entry, nor is an error about it. */
	may_record = p->kind != KIND_LAST && p->kind != KIND_ICMP_ERROR;
	if (may_record && !flow_find(&w->flow) &&
	    !rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst)) {
		counts->events[EVENT_REFUSED_RATE]++;
		may_record = 0;
	}
	if (is_followed) {
		w->choice.id = w->seat.backend;
		w->choice.rung = packet_is_new(p) ? RUNG_SESSION_NEW : RUNG_SESSION_EXISTING;
	} else {
		verdict = select_policy(w, vip, p, may_record);
		if (verdict)
			return verdict;
	}
	w->choice.is_recorded = may_record;
	if (may_record)
		w->choice.session = select_session(w, vip, p, is_followed);
	return VERDICT_CONTINUE;
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
	if (state.session == FLOW_IS_SESSION)
		load_add(state.backend, 1);
	w->choice.created = entry ? flow_renew(entry, &w->flow, p, &state, limits, counts, &w->ended)
				  : flow_create(&w->flow, p, &state, limits, counts, &w->ended);
	if (state.session == FLOW_IS_SESSION) {
		w->choice.began = w->choice.created;
		if (!w->choice.created)
			load_add(state.backend, -1);
	}
	return 0;
}

static __always_inline enum verdict select_flow(struct work *w, const struct packet *p, struct backend **backend)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	enum verdict verdict;
	__u64 word;

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
		verdict = select_unknown(w, p);
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
