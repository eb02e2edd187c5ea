/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_NEWS_H
#define LIMPET_NEWS_H

/* Tell the daemon, and through it the other directors, of what they would not find: a session or flow that is not
 * at the home of its slot, that has moved, or of which they may know something older.
 */

#include "work.h"

/* Whether others would look elsewhere for what was chosen just now. */
static __always_inline int news_is_worth(const struct work *w)
{
	return w->choice.id != (w->choice.home & SLOT_BACKEND) || w->choice.home & SLOT_TELL || w->hint.is_known ||
	       w->seat.state == SEAT_RETURNING;
}

static __always_inline void news_submit(const struct exception_key *key, __u32 backend, __u32 flags)
{
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct news *record = bpf_ringbuf_reserve(&news, sizeof(*record), 0);

	if (!record) {
		if (counts)
			counts->events[EVENT_NEWS_LOST]++;
		return;
	}
	record->key = *key;
	record->tick = tick_now();
	record->backend = backend;
	record->flags = flags;
	record->reserved = 0;
	bpf_ringbuf_submit(record, 0);
}

/* Of the session that w->key names. */
__noinline int news_of_session(struct work *w, __u32 backend, __u32 flags)
{
	if (!w)
		return 0;
	news_submit(&(struct exception_key){.client = {w->key.client[0], w->key.client[1]},
					    .range = (w->key.match & SESSION_FIELD(RANGE)) >> SESSION_RANGE_SHIFT,
					    .vip = (__u16)w->choice.vip,
					    .kind = EXCEPTION_SESSION},
		    backend, flags);
	return 0;
}

/* That flows of this client have sessions by the range of their ports from now on. */
static __always_inline void news_of_split(struct work *w, const struct vip *vip, const struct packet *p)
{
	session_name(&w->key, vip, w->choice.vip, p->client, 0);
	news_of_session(w, w->seat.parted, EXCEPTION_SPLIT | EXCEPTION_ASK);
}

/* Of the flow in hand. */
__noinline int news_of_flow(struct work *w, const struct packet *p)
{
	if (!w || !p)
		return 0;
	news_submit(&(struct exception_key){.client = {p->client[0], p->client[1]},
					    .range = (__u32)p->client_port << 16 | p->vip_port,
					    .vip = (__u16)w->choice.vip,
					    .kind = EXCEPTION_FLOW},
		    w->choice.id, 0);
	return 0;
}

#endif
