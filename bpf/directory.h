/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_DIRECTORY_H
#define LIMPET_DIRECTORY_H

/* What other directors have told: sessions and flows that are not where their slot says.
 *
 * Looked at for a new flow, and for an existing one that has no entry here. Where a session of this director's own
 * says otherwise, the later of the two counts: the client was elsewhere meanwhile.
 */

#include "work.h"

enum hint_state {
	HINT_NONE = 0,
	HINT_SESSION, /* where the client's session is; newer than what is known here */
	HINT_FLOW,    /* where just this flow is */
};

static __always_inline const struct exception *directory_find(struct work *w, const __u64 client[2], __u32 range,
							      __u32 kind)
{
	/* On the stack: kernels before 6.6 take no key from the memory of a caller. */
	const struct exception_key key = {.client = {client[0], client[1]},
					  .range = range,
					  .vip = (__u16)w->choice.vip,
					  .kind = (__u16)kind};
	const struct exception *e = bpf_map_lookup_elem(&directory, &key);

	if (!e)
		return 0;
	w->hint.is_known = 1;
	return (__s32)(e->until - tick_now()) < 0 ? 0 : e;
}

static __always_inline const struct exception *directory_find_session(struct work *w, const struct vip *vip,
								      const struct packet *p, __u32 range)
{
	const __u64 client[2] = {p->client[0] & vip->affinity_mask[0], p->client[1] & vip->affinity_mask[1]};

	return directory_find(w, client, range, EXCEPTION_SESSION);
}

/* The client was split by another director: its flows belong to the session of their range, here as there. */
static __always_inline const struct exception *
directory_split(struct work *w, const struct vip *vip, const struct packet *p, const struct idle_limits *limits)
{
	w->seat = (struct seat){.range = affinity_split_range(vip, p->client_port), .split = FLOW_SESSION_RANGE};
	session_name(&w->key, vip, w->choice.vip, p->client, w->seat.range);
	seat_look(&w->seat, &w->key, p, tick_now(), limits);
	w->seat.session |= FLOW_SESSION_RANGE;
	return directory_find_session(w, vip, p, w->seat.range);
}

/* The session here goes on as if this packet had not refreshed it: what was told is newer. */
static __always_inline void directory_overrule(struct work *w, const struct vip *vip, const struct packet *p)
{
	__u32 *seen;

	session_name(&w->key, vip, w->choice.vip, p->client, w->seat.range);
	seen = session_seen_at(&w->key, w->seat.session);
	if (seen)
		WRITE_ONCE(*seen, w->seat.seen);
}

static __always_inline void directory_look_for_flow(struct work *w, const struct packet *p)
{
	const __u32 ports = (__u32)p->client_port << 16 | p->vip_port;
	const struct exception *e = directory_find(w, p->client, ports, EXCEPTION_FLOW);

	if (!e)
		return;
	w->hint.is_orphan = (e->flags & EXCEPTION_ORPHAN) != 0;
	if (w->hint.is_orphan && (packet_is_new(p) || !(e->flags & EXCEPTION_ANSWER)))
		return;
	w->hint.state = HINT_FLOW;
	w->hint.backend = e->backend;
	w->hint.is_answer = (e->flags & EXCEPTION_ANSWER) != 0;
}

/* Fill in w->hint, and w->seat anew if the client was split elsewhere. */
__noinline int directory_look(struct work *w, const struct packet *p)
{
	const struct idle_limits *limits = idle_limits_get();
	const struct exception *e;
	struct vip *vip;
	__u32 vip_id;
	int is_newer;

	if (!w || !p || !limits)
		return 0;
	w->hint = (struct hint){};
	vip_id = w->choice.vip;
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	if (!vip)
		return 0;
	if (p->kind != KIND_LATER_FRAGMENT && (p->kind != KIND_FIRST || vip->affinity == AFFINITY_FLOW))
		directory_look_for_flow(w, p);
	if (vip->affinity == AFFINITY_FLOW)
		return 0;
	e = directory_find_session(w, vip, p, w->seat.range);
	if (e && e->flags & EXCEPTION_SPLIT && vip->affinity == AFFINITY_CLIENT && !w->seat.range &&
	    p->kind != KIND_LATER_FRAGMENT) {
		w->hint.flags = e->flags;
		e = directory_split(w, vip, p, limits);
	}
	if (!e)
		return 0;
	w->hint.flags |= e->flags;
	is_newer = w->seat.state != SEAT_LIVE ||
		   (w->seat.backend != e->backend && (__s32)(e->since - w->seat.seen) > 0);
	if (w->seat.state == SEAT_LIVE && is_newer)
		directory_overrule(w, vip, p);
	if (w->hint.state == HINT_FLOW) {
		w->hint.is_apart = e->backend != w->hint.backend;
		w->hint.is_newer = is_newer;
		return 0;
	}
	if (!is_newer)
		return 0;
	w->hint.state = HINT_SESSION;
	w->hint.backend = e->backend;
	return 0;
}

/* Whether what was told names a backend without a row here: nobody can follow that. */
static __always_inline int directory_is_gone(const struct work *w)
{
	return w->hint.state != HINT_NONE && !backend_at(w->hint.backend);
}

#endif
