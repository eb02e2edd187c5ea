/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_ROOM_H
#define LIMPET_ROOM_H

/* Room for a new flow in the connection table: in which bucket, and who has to go.
 *
 * A live established flow is never evicted: not by a flood of handshakes, not by anything. The choice has no
 * branches, since eight entries with five outcomes each are more paths than the verifier follows
 * (docs/adr/0004-verifier-paths.md).
 */

#include "flow.h"

/* Who makes room, best first; a live established flow never does. */
enum victim_rank {
	VICTIM_EMPTY = 0,
	VICTIM_EXPIRED,
	VICTIM_OPENING,
	VICTIM_CLOSING,
	VICTIM_NONE,
};

/* Rank by life, four bits each. */
#define VICTIM_RANKS                                                                                              \
	(VICTIM_OPENING << 4 * LIFE_OPENING | VICTIM_NONE << 4 * LIFE_ESTABLISHED |                               \
	 VICTIM_NONE << 4 * LIFE_DATAGRAM | VICTIM_CLOSING << 4 * LIFE_CLOSING |                                  \
	 VICTIM_OPENING << 4 * LIFE_FRAGMENT | VICTIM_EXPIRED << 4 * LIFE_LATE)
#define VICTIM_WAY_BITS 3

struct victim {
	__u64 score; /* rank, freshness, way in order of preference: the lowest goes */
	__u32 free;  /* entries of the bucket that are empty or expired */
};

static __always_inline __u32 victim_rank(__u64 word, __u32 now, const struct idle_limits *limits)
{
	__u32 rank = VICTIM_RANKS >> 4 * FLOW_GET(word, LIFE) & 0xf;
	__u32 expired = flow_has_expired(word, now, limits);

	opaque(expired);
	return rank ^ ((rank ^ VICTIM_EXPIRED) & -expired);
}

static __always_inline __u32 victim_rank_of(const struct victim *v)
{
	return v->score >> (FLOW_SEEN_BITS + VICTIM_WAY_BITS);
}

/* The lower of two scores, both far below 2^63. */
static __always_inline __u64 score_min(__u64 a, __u64 b)
{
	__u64 difference = b - a;
	__u64 b_is_lower = (__s64)difference >> 63;

	opaque(b_is_lower);
	return a + (difference & b_is_lower);
}

/* Look at the first `ways` of a bucket, counted from the flow's half of it. */
static __always_inline void victim_choose(struct victim *v, struct flow_bucket *bucket, const struct flow *f,
					  const struct idle_limits *limits, const __u32 ways)
{
	__u32 half = flow_half(f);

	v->score = (__u64)VICTIM_NONE << (FLOW_SEEN_BITS + VICTIM_WAY_BITS);
	v->free = 0;
#pragma unroll
	for (__u32 i = 0; i < ways; i++) {
		__u32 way = i ^ half;
		__u64 word = READ_ONCE(bucket->entries[way].word);
		__u32 rank = victim_rank(word, f->now, limits);
		__u64 score = (__u64)rank << FLOW_SEEN_BITS | (FLOW_SEEN_MASK - flow_age(word, f->now));

		score = score << VICTIM_WAY_BITS | i;
		v->free += ((rank >> 1) - 1) >> 31;
		v->score = score_min(v->score, score);
	}
}

/* Whether the second bucket is the better place. A flow leaves its first bucket before that is full: then
 * both fill evenly, and practically none overflows up to 5/8 of the table (docs/adr/0001-connection-table.md). */
static __always_inline int victim_is_better(const struct victim *second, const struct victim *first)
{
	if (second->free || first->free)
		return second->free > first->free;
	return victim_rank_of(second) < victim_rank_of(first);
}

static __always_inline void flow_count_victim(struct counters *counts, __u32 rank)
{
	counts->events[EVENT_FLOW_CREATED]++;
	if (rank == VICTIM_EXPIRED)
		counts->events[EVENT_EVICTED_EXPIRED]++;
	else if (rank == VICTIM_OPENING)
		counts->events[EVENT_EVICTED_OPENING]++;
	else if (rank == VICTIM_CLOSING)
		counts->events[EVENT_EVICTED_CLOSING]++;
}

/* Write down the client of an IPv6 flow beside its entry. */
static __always_inline void flow_note_client(__u32 place, const struct packet *p)
{
	struct flow_client *client = bpf_map_lookup_elem(&flow_clients, &place);

	if (!client)
		return;
	((__u64 *)client->address)[0] = swap64(p->client[0]);
	((__u64 *)client->address)[1] = swap64(p->client[1]);
	client->client_port = p->client_port;
	client->vip_port = p->vip_port;
}

/* Where a new flow goes. */
struct room {
	struct flow_bucket *bucket;
	__u32 place; /* of the bucket */
	struct victim victim;
};

/* The flow's half of its first bucket if there is room, else the best of both its buckets. */
static __always_inline int flow_room(struct room *room, const struct flow *f, const struct idle_limits *limits)
{
	struct flow_bucket *second;
	struct victim other;

	room->place = f->first;
	room->bucket = flow_bucket_at(f->first);
	if (!room->bucket)
		return 0;
	victim_choose(&room->victim, room->bucket, f, limits, FLOW_HALF);
	if (room->victim.free >= FLOW_NEAR_WANTED)
		return 1;
	victim_choose(&room->victim, room->bucket, f, limits, LIMIT_FLOW_WAYS);
	if (room->victim.free >= FLOW_FREE_WANTED)
		return 1;
	second = flow_bucket_at(f->second);
	if (!second)
		return 0;
	victim_choose(&other, second, f, limits, LIMIT_FLOW_WAYS);
	if (victim_is_better(&other, &room->victim)) {
		room->place = f->second;
		room->bucket = second;
		room->victim = other;
	}
	return 1;
}

/* A flow that is not in its half of its first bucket leaves a mark there, for those who look for it. */
static __always_inline void flow_mark_spilled(const struct room *room, const struct flow *f,
					      struct counters *counts)
{
	const int is_second = room->place != f->first;
	struct flow_bucket *first;

	if (!is_second && !(room->victim.score & FLOW_HALF))
		return;
	first = flow_bucket_at(f->first);
	if (first)
		__sync_fetch_and_or(&first->entries[flow_half(f)].word, FLOW_FIELD(SPILLED));
	counts->events[EVENT_FLOW_SPILLED] += is_second;
}

/* Find room for a flow and write it there; 0 if there is none. */
static __always_inline int flow_create(const struct flow *f, const struct packet *p,
				       const struct flow_state *state, const struct idle_limits *limits,
				       struct counters *counts, struct membership *ended)
{
	struct flow_entry *entry;
	__u64 old, old_id;
	struct room room;
	__u32 way;

	if (!flow_room(&room, f, limits))
		return 0;
	if (victim_rank_of(&room.victim) >= VICTIM_NONE) {
		counts->events[EVENT_REFUSED_FULL]++;
		return 0;
	}
	flow_mark_spilled(&room, f, counts);
	/* VERIFIER(<= 6.1): the range is lost in the exclusive or, so the mask comes after it. */
	way = room.victim.score ^ flow_half(f);
	opaque(way);
	way &= LIMIT_FLOW_WAYS - 1;
	entry = &room.bucket->entries[way];
	old = READ_ONCE(entry->word);
	old_id = READ_ONCE(entry->id);
	if (victim_rank(old, f->now, limits) != victim_rank_of(&room.victim) ||
	    __sync_val_compare_and_swap(&entry->word, old, flow_word(f, state, old)) != old) {
		counts->events[EVENT_RACE_LOST]++;
		return 0;
	}
	WRITE_ONCE(entry->id, f->id);
	if (FLOW_GET(old, SESSION))
		flow_end(ended, old, old_id, room.place * LIMIT_FLOW_WAYS + way);
	flow_count_victim(counts, victim_rank_of(&room.victim));
	if (p->family == 6)
		flow_note_client(room.place * LIMIT_FLOW_WAYS + way, p);
	return 1;
}

#endif
