/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_REVIVE_H
#define LIMPET_REVIVE_H

/* Flows whose session has ended before them get one again: a flow that had expired and sends again, and one whose
 * session made room before the handshake was over.
 */

#include "news.h"
#include "work.h"

/* The session of an expired flow that sends again, as bits of its entry: the client's, if that is at the same
 * backend; a new one, if the client has none; or none. */
static __always_inline __u32 revive_session(struct work *w, const struct vip *vip, const struct packet *p)
{
	__u32 found;

	if (vip->affinity == AFFINITY_FLOW)
		return FLOW_IS_SESSION;
	w->seat = (struct seat){};
	seat_find(p, w->choice.vip, &w->seat);
	if (settings.is_member && w->seat.parted)
		news_of_split(w, vip, p);
	if (w->seat.state == SEAT_LIVE)
		return w->seat.backend == w->choice.id ? w->seat.session : FLOW_ALONE;
	session_name(&w->key, vip, w->choice.vip, p->client, w->seat.range);
	found = session_admit(w);
	if (!(found & FLOW_IN_SESSION) || found >> ADMISSION_BACKEND_SHIFT != w->choice.id)
		return FLOW_ALONE;
	if (settings.is_member && found & ADMISSION_BEGUN)
		news_of_session(w, w->choice.id, 0);
	return (found & FLOW_SESSION_MASK) | w->seat.split;
}

/* An expired flow sends again: it is open as before, and its session with it. */
__noinline int flow_revive(struct work *w, const struct packet *p)
{
	struct flow_state state = {.life = LIFE_ESTABLISHED};
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct vip *vip;
	__u64 word, late;
	__u32 vip_id;

	if (!w || !p || !limits)
		return 0;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	entry = flow_find(&w->flow);
	if (!vip || !entry)
		return 0;
	word = READ_ONCE(entry->word);
	state.backend = w->choice.id & (LIMIT_BACKENDS - 1);
	if (FLOW_GET(word, LIFE) != LIFE_LATE) { /* the sweeper has not come by yet: its part is done here */
		late = (word & ~FLOW_FIELD(LIFE)) | (__u64)LIFE_LATE << FLOW_LIFE_SHIFT;
		if (__sync_val_compare_and_swap(&entry->word, word, late) != word)
			return 0;
		flow_tell(&w->told, &w->flow, p, word, LIFE_LATE, limits);
		word = late;
	}
	state.session = revive_session(w, vip, p);
	late = flow_word(&w->flow, &state, word) & ~FLOW_FIELD(LIFE);
	/* Before others can see the flow, who may see its end. */
	if (state.session == FLOW_IS_SESSION)
		load_add(state.backend, 1);
	if ((word & FLOW_MATCH) != w->flow.match ||
	    __sync_val_compare_and_swap(&entry->word, word, flow_word(&w->flow, &state, word)) != word) {
		if (state.session == FLOW_IS_SESSION)
			load_add(state.backend, -1);
		return 0;
	}
	if (state.session == FLOW_IS_SESSION)
		return 1;
	flow_tell(&w->told, &w->flow, p, late | (__u64)LIFE_LATE << FLOW_LIFE_SHIFT, LIFE_ESTABLISHED, limits);
	return 1;
}

/* A flow opened whose session made room for another before: it begins anew, so that the client's next flow finds
 * it. */
__noinline int flow_reseat(struct work *w, const struct packet *p)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct flow_state state;
	__u32 vip_id, found, of_range;
	struct vip *vip;
	__u64 word, seated;

	if (!w || !p || !limits)
		return 0;
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	entry = flow_find(&w->flow);
	if (!vip || !entry)
		return 0;
	word = READ_ONCE(entry->word);
	of_range = FLOW_GET(word, SESSION) & FLOW_SESSION_RANGE;
	state.backend = word & FLOW_FIELD(BACKEND);
	state.life = FLOW_GET(word, LIFE);
	session_name(&w->key, vip, vip_id, p->client,
		     of_range ? affinity_split_range(vip, p->client_port) : affinity_range(vip, p->client_port));
	found = session_begin(&w->key, state.backend);
	if (settings.is_member && found & ADMISSION_BEGUN)
		news_of_session(w, state.backend, 0);
	if (of_range) {
		session_name(&w->key, vip, vip_id, p->client, 0);
		session_begin(&w->key, state.backend);
	}
	state.session = found & FLOW_IN_SESSION ? (found & FLOW_SESSION_MASK) | of_range : FLOW_ALONE;
	seated = flow_word(&w->flow, &state, word);
	if (!flow_is_open(state.life) || __sync_val_compare_and_swap(&entry->word, word, seated) != word)
		return 0;
	word = (seated & ~FLOW_FIELD(LIFE)) | (__u64)LIFE_OPENING << FLOW_LIFE_SHIFT;
	if (flow_tell(&w->told, &w->flow, p, word, state.life, limits) != FLOW_ALONE)
		return 1;
	state.session = FLOW_ALONE;
	__sync_val_compare_and_swap(&entry->word, seated, flow_word(&w->flow, &state, seated));
	return 0;
}

#endif
