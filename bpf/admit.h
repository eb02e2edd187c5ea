/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ADMIT_H
#define LIMPET_ADMIT_H

/* A session begins, or gets another backend: its entry is found or made.
 *
 * Who makes room, best first: nobody, an expired session, one of which no flow was ever established. Among
 * equals the first way; the second bucket only if the first has none that is free.
 */

#include "session.h"

enum seat_rank {
	SEAT_FREE = 0,
	SEAT_OPENING,
	SEAT_TAKEN,
};

static __always_inline enum seat_rank seat_rank(const struct session *s, __u32 seen, __u32 tick,
						const struct idle_limits *limits)
{
	__u64 word = READ_ONCE(s->word);
	__u32 life = session_life(word);

	if (life == SESSION_EMPTY || life == SESSION_PAST)
		return SEAT_FREE;
	if (life == SESSION_BUSY)
		return SEAT_TAKEN;
	if (session_has_expired(word, seen, tick, limits))
		return SEAT_FREE;
	return life == SESSION_OPENING ? SEAT_OPENING : SEAT_TAKEN;
}

/* rank << 2 | way of the best entry of a bucket. */
static __always_inline __u32 seat_best(__u32 number, __u32 tick, const struct idle_limits *limits)
{
	struct session_times *times = bpf_map_lookup_elem(&session_seen, &number);
	struct session_bucket *bucket = session_bucket_at(number);
	__u32 best = SEAT_TAKEN << 2;

	if (!times || !bucket)
		return best;
#pragma unroll
	for (__u32 i = 0; i < LIMIT_SESSION_WAYS; i++) {
		__u32 score = seat_rank(&bucket->entries[i], READ_ONCE(times->seen[i]), tick, limits) << 2 | i;

		if (score < best)
			best = score;
	}
	return best;
}

/* Write a new session over an entry. 0 if another CPU was faster. */
static __always_inline int session_write(struct session *s, __u32 *seen, const struct session_key *k,
					 __u32 backend, __u32 tick)
{
	__u64 old = READ_ONCE(s->word), fresh;
	const int is_same =
		(old & SESSION_MATCH) == k->match && s->client[1] == k->client[1] && s->client[0] == k->client[0];

	if (session_life(old) == SESSION_BUSY)
		return 0;
	if (__sync_val_compare_and_swap(&s->word, old,
					(old & SESSION_FIELD(SPILLED)) | SESSION_PLACE(SESSION_BUSY)) != old)
		return 0;
	if (session_is_counted(old))
		load_add(old & SESSION_FIELD(BACKEND), -1);
	/* Flows of the same session that nobody has seen to end yet will be taken off. */
	if (!is_same)
		s->flows = 0;
	s->client[0] = k->client[0];
	s->client[1] = k->client[1];
	WRITE_ONCE(*seen, tick);
	fresh = k->match | backend | SESSION_PLACE(SESSION_OPENING - SESSION_BUSY) |
		(__u64)(tick >> SESSION_SINCE_UNIT) << SESSION_SINCE_SHIFT;
	/* Not a store: a mark that was set meanwhile must stay. */
	__sync_fetch_and_add(&s->word, fresh);
	load_add(backend, 1);
	return 1;
}

static __always_inline struct session *session_seat(const struct session_key *k, __u32 *place, __u32 tick,
						    const struct idle_limits *limits, struct counters *counts)
{
	struct session_bucket *first = session_bucket_at(k->first), *second = session_bucket_at(k->second);
	__u32 near, far;

	if (!first || !second)
		return 0;
	near = seat_best(k->first, tick, limits);
	if (near >> 2 != SEAT_FREE) {
		far = seat_best(k->second, tick, limits);
		if (far >> 2 < near >> 2) {
			__sync_fetch_and_or(&first->entries[0].word, SESSION_FIELD(SPILLED));
			counts->events[EVENT_SESSION_SPILLED]++;
			counts->events[EVENT_SESSION_EVICTED] += far >> 2 == SEAT_OPENING;
			*place = (far & FLOW_SESSION_WAY) | FLOW_SESSION_SECOND;
			return &second->entries[far & FLOW_SESSION_WAY];
		}
	}
	if (near >> 2 >= SEAT_TAKEN)
		return 0;
	counts->events[EVENT_SESSION_EVICTED] += near >> 2 == SEAT_OPENING;
	*place = near & FLOW_SESSION_WAY;
	return &first->entries[near & FLOW_SESSION_WAY];
}

/* A session of this key begins. What a flow's entry says of it (enum flow_session); FLOW_ALONE: it has none. */
__noinline int session_begin(const struct session_key *k, __u32 backend)
{
	const struct idle_limits *limits = idle_limits_get();
	__u32 tick = tick_now(), place = 0, zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct session *s;
	__u32 *seen;

	if (!k || !limits || !counts)
		return FLOW_ALONE;
	s = session_find(k, &place);
	seen = session_seen_at(k, place);
	if (s && seen && session_is_counted(READ_ONCE(s->word)) &&
	    !session_has_expired(READ_ONCE(s->word), READ_ONCE(*seen), tick, limits)) {
		/* Another CPU has begun it just now. */
		counts->events[EVENT_RACE_LOST]++;
		return (s->word & SESSION_FIELD(BACKEND)) == backend ? (int)(FLOW_IN_SESSION | place) : FLOW_ALONE;
	}
	if (!s)
		s = session_seat(k, &place, tick, limits, counts);
	seen = session_seen_at(k, place);
	if (!s || !seen) {
		counts->events[EVENT_SESSION_FULL]++;
		return FLOW_ALONE;
	}
	if (!session_write(s, seen, k, backend, tick)) {
		counts->events[EVENT_RACE_LOST]++;
		return FLOW_ALONE;
	}
	counts->events[EVENT_SESSION_CREATED]++;
	return FLOW_IN_SESSION | place;
}

/* A live session gets another backend. As above. */
__noinline int session_move(const struct session_key *k, __u32 backend)
{
	__u32 place = 0, zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct session *s;
	__u64 word;

	if (!k || !counts)
		return FLOW_ALONE;
	s = session_find(k, &place);
	if (!s)
		return FLOW_ALONE;
	word = READ_ONCE(s->word);
	backend &= LIMIT_BACKENDS - 1;
	if (!session_is_counted(word) ||
	    __sync_val_compare_and_swap(&s->word, word, (word & ~SESSION_FIELD(BACKEND)) | backend) != word) {
		counts->events[EVENT_RACE_LOST]++;
		return FLOW_ALONE;
	}
	load_add(word & SESSION_FIELD(BACKEND), -1);
	load_add(backend, 1);
	counts->events[EVENT_SESSION_MOVED]++;
	return FLOW_IN_SESSION | place;
}

#endif
