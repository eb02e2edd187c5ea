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

/* Without its first, a fragment follows the session of its client, here or as told, or goes home. */
static __always_inline enum verdict fragment_place(struct work *w, const struct vip *vip, const struct packet *p,
						   struct counters *counts)
{
	const __u32 refusals = STANDING_RESET | STANDING_LEFT_BY_FLOWS;

	w->seat = (struct seat){};
	w->hint = (struct hint){};
	seat_find(p, w->choice.vip, &w->seat);
	if (settings.is_member)
		directory_look(w, p);
	if (directory_is_gone(w))
		counts->events[EVENT_STALE_BACKEND]++;
	if (select_follow(w, vip->pool, p, refusals))
		return VERDICT_CONTINUE;
	w->choice.rung = RUNG_HOME_FRAGMENT;
	w->choice.id = home(vip->pool, affinity_slot(vip, p, 0));
	return w->choice.id ? VERDICT_CONTINUE : VERDICT_DROP_NO_BACKEND;
}

/* A later fragment has no ports. It follows its first; without one it is placed, where the client alone
 * decides. */
__noinline int select_fragment(struct work *w, const struct packet *p, __u32 address_id)
{
	const struct idle_limits *limits = idle_limits_get();
	__u32 zero = 0, vip_id;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct flow_entry *entry;
	struct vip *vip;
	__u64 word;

	if (!w || !p || !limits || !counts)
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
	return fragment_place(w, vip, p, counts);
}

#endif
