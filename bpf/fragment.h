/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_FRAGMENT_H
#define LIMPET_FRAGMENT_H

/* Fragments: where the first one of a datagram went is remembered, for the later ones, which have no ports
 * (docs/adr/0005-fragments.md).
 */

#include "select.h"

/* Remember where the first fragment of a datagram went, for those that follow it. */
__noinline int fragment_remember(struct work *w, const struct packet *p, __u32 address_id)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_state state = {.life = LIFE_FRAGMENT};
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;

	if (!w || !p || !limits || !counts)
		return 0;
	state.backend = w->choice.id & (LIMIT_BACKENDS - 1);
	flow_name_fragment(&w->flow, p, address_id);
	entry = flow_find(&w->flow);
	if (entry)
		flow_renew(entry, &w->flow, p, &state, limits, counts, &w->ended);
	else if (rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst))
		flow_create(&w->flow, p, &state, limits, counts, &w->ended);
	else
		counts->events[EVENT_REFUSED_RATE]++;
	return 0;
}

/* A later fragment has no ports. It follows its first; without one, the session of its client or home, where the
 * client alone decides. */
__noinline int select_fragment(struct work *w, const struct packet *p, __u32 address_id)
{
	const struct idle_limits *limits = idle_limits_get();
	struct flow_entry *entry;
	struct vip *vip;
	__u32 vip_id;
	__u64 word;

	if (!w || !p || !limits)
		return VERDICT_DROP_FRAGMENT;
	flow_name_fragment(&w->flow, p, address_id);
	w->choice.entropy = w->flow.hash >> 20;
	entry = flow_find(&w->flow);
	if (entry) {
		word = READ_ONCE(entry->word);
		if (flow_is_usable(word, &w->flow, p, limits)) {
			w->choice.id = word & FLOW_FIELD(BACKEND);
			w->choice.rung = RUNG_FRAGMENT;
			flow_touch(&w->told, entry, word, &w->flow, p, limits);
			if (backend_at(w->choice.id))
				return VERDICT_CONTINUE;
		}
	}
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip_id || !vip || vip->affinity != AFFINITY_CLIENT)
		return VERDICT_DROP_FRAGMENT;
	w->seat = (struct seat){};
	seat_find(p, vip_id, &w->seat);
	w->choice.rung = RUNG_SESSION_EXISTING;
	w->choice.id = w->seat.backend;
	if (w->seat.state != SEAT_LIVE ||
	    !backend_takes(vip->pool, w->seat.backend, STANDING_RESET | STANDING_LEFT_BY_FLOWS)) {
		w->choice.rung = RUNG_HOME_FRAGMENT;
		w->choice.id = home(vip->pool, affinity_slot(vip, p, 0));
	}
	return w->choice.id ? VERDICT_CONTINUE : VERDICT_DROP_NO_BACKEND;
}

#endif
