/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_WORK_H
#define LIMPET_WORK_H

/* What the steps of the ladder hand on to each other, and what they all ask. */

#include "admit.h"
#include "flow.h"
#include "maps.h"
#include "policy.h"
#include "seat.h"

struct choice {
	__u32 vip;     /* id of the VIP, 0 if there is none */
	__u32 id;      /* of the backend */
	__u32 entropy; /* the same for all packets of a flow */
	__u32 created; /* a new flow got an entry */
	__u32 began;   /* a new session began */
	__u32 egress;  /* interface of the backend, read once: user space clears it while it writes the row */
	__u32 rung;
	__u32 home;        /* of its slot, with marks; only in a cluster */
	__u32 is_recorded; /* to be written down in the connection table, */
	__u32 session;     /* with these bits of enum flow_session */
	__u32 is_revived;  /* the entry had expired, and is open again */
	__u32 is_unseated; /* the flow opened, and its session has made room for another */
};

/* What the directory says about a flow. */
struct hint {
	__u32 state; /* enum hint_state */
	__u32 backend;
	__u32 flags;     /* of the client's session, enum exception_flag */
	__u32 is_known;  /* there is an exception of this name, expired or not */
	__u32 is_orphan; /* the flow was asked for, and nobody knows it; HINT_FLOW: but somebody guessed */
	__u32 is_answer; /* HINT_FLOW: by its owner, who was asked */
	__u32 is_apart;  /* HINT_FLOW: the client's session is elsewhere, */
	__u32 is_newer;  /* and what is known of it here is older */
};

/* What the ladder works on. In a map, not on the stack: of that, all functions that nest have 512 bytes. */
struct work {
	struct flow flow;
	struct choice choice;
	struct seat seat;
	struct session_key key;
	struct hint hint;
	struct membership told;  /* this flow, to its session */
	struct membership ended; /* a flow that made room for this one */
};

/* 0 -> the work of this CPU, while it has a packet in hand. Not pinned: nothing outlives the packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

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

/* Begin, or move, w->key at the chosen backend. ADMISSION. */
static __always_inline __u32 session_admit(struct work *w)
{
	const __u32 id = w->choice.id, from = w->seat.backend, is_live = w->seat.state == SEAT_LIVE;
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	__u32 found = is_live ? session_move(&w->key, from, id) : session_begin(&w->key, id);

	if (found & ADMISSION_LOST)
		found = is_live ? session_move(&w->key, from, id) : session_begin(&w->key, id);
	w->choice.began = (found & ADMISSION_BEGUN) != 0;
	if (!is_live && !w->choice.began && found & FLOW_IN_SESSION && counts)
		counts->events[EVENT_RACE_LOST]++;
	return found;
}

#endif
