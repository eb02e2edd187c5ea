/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ADMIT_H
#define LIMPET_ADMIT_H

/* A session begins, or gets another backend: its entry is found or made.
 *
 * A session stays in its first bucket while three places are free there; else it goes where more are. So both fill
 * evenly, and practically none overflows up to half of the table (docs/adr/0007-session-table.md). Who makes room,
 * best first: nobody, an expired session, one of which no flow was ever established; among equals the first way.
 */

#include "session.h"

#define SEAT_NEAR_WANTED 3 /* free places in its first bucket with which a session stays there */

enum seat_rank {
	SEAT_FREE = 0,
	SEAT_OPENING,
	SEAT_TAKEN,
};

/* Rank by life, four bits each. */
#define SEAT_RANKS                                                                                                \
	(SEAT_TAKEN << 4 * SESSION_BUSY | SEAT_OPENING << 4 * SESSION_OPENING | SEAT_TAKEN << 4 * SESSION_LIVE)

struct seats {
	__u32 best; /* rank << 2 | way: the lowest is taken */
	__u32 free; /* how many places are */
};

/* Without branches, as the choice of a victim among flows: more paths than the verifier follows. */
static __always_inline __u32 seat_rank(__u64 word, __u32 seen, __u32 tick, const struct idle_limits *limits)
{
	__u32 life = session_life(word), rank = SEAT_RANKS >> 4 * life & 0xf;
	__u32 has_expired = session_has_expired(word, seen, tick, limits) & -(life ^ SESSION_BUSY) >> 31;

	opaque(has_expired);
	return rank & (has_expired - 1);
}

static __always_inline void seats_look(struct seats *seats, __u32 number, __u32 tick,
				       const struct idle_limits *limits)
{
	struct session_times *times = bpf_map_lookup_elem(&session_seen, &number);
	struct session_bucket *bucket = session_bucket_at(number);

	seats->best = SEAT_TAKEN << 2;
	seats->free = 0;
	if (!times || !bucket)
		return;
#pragma unroll
	for (__u32 i = 0; i < LIMIT_SESSION_WAYS; i++) {
		__u32 rank =
			seat_rank(READ_ONCE(bucket->entries[i].word), READ_ONCE(times->seen[i]), tick, limits);
		__s32 difference = (rank << 2 | i) - seats->best;
		__u32 is_lower = difference >> 31;

		opaque(is_lower);
		seats->best += difference & is_lower;
		seats->free += (rank - 1) >> 31;
	}
}

static __always_inline int seats_are_better(const struct seats *second, const struct seats *first)
{
	if (second->free || first->free)
		return second->free > first->free;
	return second->best >> 2 < first->best >> 2;
}

/* What comes of an attempt to begin or move a session: bits of enum flow_session, these, and the backend that the
 * session has then. Another CPU may have been faster, with another backend. */
enum admission {
	ADMISSION_BEGUN = 1 << 8, /* it began here */
	ADMISSION_LOST = 1 << 9,  /* another CPU was in the way: worth another try */
	ADMISSION_BACKEND_SHIFT = 16,
};

#define ADMISSION(bits, backend) ((int)((bits) | (backend) << ADMISSION_BACKEND_SHIFT))
#define GUARD_TRIES              64 /* much longer than a beginning takes, unless the other CPU stands still */

/* Of sessions that prefer a bucket, one begins at a time: two CPUs that see the first packets of a client at once
 * must not make two sessions of it. */
static __always_inline int guard_take(struct session_bucket *first)
{
	for (int i = 0; i < GUARD_TRIES; i++)
		if (!__sync_val_compare_and_swap(&first->entries[0].guard, 0, 1))
			return 1;
	return 0;
}

static __always_inline void guard_leave(struct session_bucket *first)
{
	__sync_lock_test_and_set(&first->entries[0].guard, 0);
}

/* Write a new session over an entry of no higher rank than this. 0 if another CPU was faster. Loads go up before
 * others can see the session, who may let them go down again. */
static __always_inline int session_write(struct session *s, __u32 *seen, const struct session_key *k,
					 __u32 backend, __u32 tick, __u32 rank, const struct idle_limits *limits)
{
	__u64 old = READ_ONCE(s->word), fresh;
	const int is_same =
		(old & SESSION_MATCH) == k->match && s->client[1] == k->client[1] && s->client[0] == k->client[0];

	if (seat_rank(old, READ_ONCE(*seen), tick, limits) > rank)
		return 0;
	if (__sync_val_compare_and_swap(&s->word, old,
					(old & SESSION_FIELD(SPILLED)) | SESSION_PLACE(SESSION_BUSY)) != old)
		return 0;
	load_add(backend, 1);
	if (session_is_counted(old))
		load_add(old & SESSION_FIELD(BACKEND), -1);
	/* Flows of the same session that nobody has seen to end yet will be taken off. */
	if (!is_same || (__s32)s->flows < 0)
		s->flows = 0;
	s->client[0] = k->client[0];
	s->client[1] = k->client[1];
	WRITE_ONCE(*seen, tick);
	fresh = k->match | backend | SESSION_PLACE(SESSION_OPENING - SESSION_BUSY) |
		(__u64)(tick >> SESSION_SINCE_UNIT) << SESSION_SINCE_SHIFT;
	/* Not a store: a mark that was set meanwhile must stay. */
	__sync_fetch_and_add(&s->word, fresh);
	return 1;
}

static __always_inline struct session *session_seat(const struct session_key *k, __u32 *place, __u32 *rank,
						    __u32 tick, const struct idle_limits *limits,
						    struct counters *counts)
{
	struct session_bucket *first = session_bucket_at(k->first), *second = session_bucket_at(k->second);
	struct seats near, far;

	if (!first || !second)
		return 0;
	seats_look(&near, k->first, tick, limits);
	if (near.free < SEAT_NEAR_WANTED) {
		seats_look(&far, k->second, tick, limits);
		if (seats_are_better(&far, &near)) {
			__sync_fetch_and_or(&first->entries[0].word, SESSION_FIELD(SPILLED));
			counts->events[EVENT_SESSION_SPILLED]++;
			counts->events[EVENT_SESSION_EVICTED] += far.best >> 2 == SEAT_OPENING;
			*rank = far.best >> 2;
			*place = (far.best & FLOW_SESSION_WAY) | FLOW_SESSION_SECOND;
			return &second->entries[far.best & FLOW_SESSION_WAY];
		}
	}
	if (near.best >> 2 >= SEAT_TAKEN)
		return 0;
	counts->events[EVENT_SESSION_EVICTED] += near.best >> 2 == SEAT_OPENING;
	*rank = near.best >> 2;
	*place = near.best & FLOW_SESSION_WAY;
	return &first->entries[near.best & FLOW_SESSION_WAY];
}

static __always_inline int session_begin_guarded(const struct session_key *k, __u32 backend)
{
	const struct idle_limits *limits = idle_limits_get();
	__u32 tick = tick_now(), place = 0, zero = 0, rank = SEAT_FREE;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct session *s;
	__u32 *seen;
	__u64 word;

	if (!limits || !counts)
		return ADMISSION(FLOW_ALONE, backend);
	s = session_find(k, &place);
	seen = session_seen_at(k, place);
	word = s ? READ_ONCE(s->word) : 0;
	if (seen && session_is_counted(word) && !session_has_expired(word, READ_ONCE(*seen), tick, limits))
		return ADMISSION(FLOW_IN_SESSION | place, (__u32)(word & SESSION_FIELD(BACKEND)));
	if (!s)
		s = session_seat(k, &place, &rank, tick, limits, counts);
	seen = session_seen_at(k, place);
	if (!s || !seen) {
		counts->events[EVENT_SESSION_FULL]++;
		return ADMISSION(FLOW_ALONE, backend);
	}
	if (!session_write(s, seen, k, backend, tick, rank, limits)) {
		counts->events[EVENT_RACE_LOST]++;
		return ADMISSION(FLOW_ALONE | ADMISSION_LOST, backend);
	}
	counts->events[EVENT_SESSION_CREATED]++;
	return ADMISSION(FLOW_IN_SESSION | place | ADMISSION_BEGUN, backend);
}

/* A session of this key begins at a backend, unless it has begun. ADMISSION; FLOW_ALONE: it has no entry. */
__noinline int session_begin(const struct session_key *k, __u32 backend)
{
	struct session_bucket *first;
	int found;

	backend &= LIMIT_BACKENDS - 1;
	if (!k)
		return FLOW_ALONE;
	first = session_bucket_at(k->first);
	if (!first || !guard_take(first))
		return ADMISSION(FLOW_ALONE | ADMISSION_LOST, backend);
	found = session_begin_guarded(k, backend);
	guard_leave(first);
	return found;
}

/* A live session leaves a backend for another, unless it has left. As above. */
__noinline int session_move(const struct session_key *k, __u32 from, __u32 to)
{
	__u32 place = 0, zero = 0, now;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct session *s;
	__u64 word;

	from &= LIMIT_BACKENDS - 1;
	to &= LIMIT_BACKENDS - 1;
	if (!k || !counts)
		return ADMISSION(FLOW_ALONE, to);
	s = session_find(k, &place);
	word = s ? READ_ONCE(s->word) : 0;
	now = word & SESSION_FIELD(BACKEND);
	if (!s || !session_is_counted(word) || now != from) {
		counts->events[EVENT_RACE_LOST]++;
		return session_is_counted(word) ? ADMISSION(FLOW_IN_SESSION | place, now)
						: ADMISSION(FLOW_ALONE, to);
	}
	load_add(to, 1);
	if (__sync_val_compare_and_swap(&s->word, word, (word & ~SESSION_FIELD(BACKEND)) | to) != word) {
		load_add(to, -1);
		counts->events[EVENT_RACE_LOST]++;
		return ADMISSION(FLOW_ALONE | ADMISSION_LOST, to);
	}
	load_add(from, -1);
	counts->events[EVENT_SESSION_MOVED]++;
	return ADMISSION(FLOW_IN_SESSION | place, to);
}

#endif
