/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SELECT_H
#define LIMPET_SELECT_H

/* The ladder: which backend gets a packet, and by which rung.
 *
 * An existing flow: connection table, else home of its slot. A new flow: home of its slot. Whatever home
 * chose is recorded, if there is room and the rate allows, so that the next packet finds it in the table.
 */

#include "affinity.h"
#include "flow.h"
#include "maps.h"
#include "rate.h"

struct choice {
	struct backend *backend;
	__u32 vip;     /* id of the VIP, 0 if there is none */
	__u32 id;      /* of the backend */
	__u32 entropy; /* the same for all packets of a flow */
	__u32 created; /* a new flow got an entry */
	__u32 egress;  /* interface of the backend, read once: user space clears it while it writes the row */
	enum rung rung;
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

static __always_inline __u32 home(const struct vip *vip, const struct packet *p)
{
	__u32 pool_id = vip->pool, table, slot = affinity_slot(vip, p);
	struct slot_table *slots;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_id);

	if (!pool)
		return 0;
	table = READ_ONCE(pool->table);
	slots = bpf_map_lookup_elem(&slot_tables, &table);
	return slots ? slots->home[slot] : 0;
}

/* Record a flow that home placed. Its FIN or RST alone is not worth an entry, nor is an error about it. */
static __always_inline int record(struct flow_entry *entry, const struct flow *f, const struct packet *p,
				  __u32 backend, struct counters *counters)
{
	if (p->kind == KIND_LAST || p->kind == KIND_ICMP_ERROR)
		return 0;
	/* The entry that the flow has takes no room, and left as it is would send the next packet elsewhere. */
	if (entry)
		return flow_renew(entry, f, backend, LIFE_OPENING, counters);
	if (!rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst)) {
		counters->events[EVENT_REFUSED_RATE]++;
		return 0;
	}
	return flow_create(f, p, (__u64)LIFE_OPENING << 32 | backend);
}

static __always_inline enum verdict select_home(const struct vip *vip, const struct packet *p,
						struct choice *choice)
{
	choice->id = home(vip, p);
	if (!choice->id)
		return VERDICT_DROP_NO_BACKEND;
	choice->backend = backend_at(choice->id);
	return choice->backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
}

static __always_inline enum verdict select_flow(const struct flow *flow, const struct vip *vip,
						const struct packet *p, struct choice *choice,
						struct counters *counters)
{
	struct flow_entry *entry = flow_find(flow);
	enum verdict verdict;

	choice->entropy = flow->hash >> 20;
	if (likely(entry)) {
		choice->id = flow_use(entry, flow, p);
		choice->backend = backend_at(choice->id);
		choice->rung = RUNG_TABLE;
		if (likely(choice->backend))
			return VERDICT_CONTINUE;
		if (choice->id)
			counters->events[EVENT_STALE_BACKEND]++;
	}
	verdict = select_home(vip, p, choice);
	if (verdict)
		return verdict;
	choice->rung = p->kind == KIND_FIRST || p->kind == KIND_ANY ? RUNG_HOME_NEW : RUNG_HOME_EXISTING;
	choice->created = record(entry, flow, p, choice->id, counters);
	return VERDICT_CONTINUE;
}

/* Remember where the first fragment of a datagram went, for those that follow it. */
static __always_inline void fragment_remember(const struct packet *p, __u32 address_id, __u32 backend,
					      struct counters *counters)
{
	struct flow_entry *entry;
	struct flow flow;

	flow_name_fragment(&flow, p, address_id);
	entry = flow_find(&flow);
	if (entry)
		flow_renew(entry, &flow, backend, LIFE_FRAGMENT, counters);
	else if (rate_allow(RATE_FLOWS, settings.flows_per_jiffy_16, settings.flows_burst))
		flow_create(&flow, p, (__u64)LIFE_FRAGMENT << 32 | backend);
	else
		counters->events[EVENT_REFUSED_RATE]++;
}

/* A later fragment has no ports. It follows its first; without one, home, where the client alone decides. */
static __always_inline enum verdict select_fragment(__u32 address_id, const struct vip *vip,
						    const struct packet *p, struct choice *choice)
{
	struct flow_entry *entry;
	struct flow flow;

	flow_name_fragment(&flow, p, address_id);
	choice->entropy = flow.hash >> 20;
	entry = flow_find(&flow);
	if (entry) {
		choice->id = flow_use(entry, &flow, p);
		choice->backend = backend_at(choice->id);
		choice->rung = RUNG_FRAGMENT;
		if (choice->backend)
			return VERDICT_CONTINUE;
	}
	if (!vip || vip->affinity != AFFINITY_CLIENT)
		return VERDICT_DROP_FRAGMENT;
	choice->rung = RUNG_HOME_FRAGMENT;
	return select_home(vip, p, choice);
}

#endif
