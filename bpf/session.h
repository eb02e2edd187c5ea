/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_SESSION_H
#define LIMPET_SESSION_H

/* The session table: VIP and affinity key -> backend, set-associative, in a plain array.
 *
 * A session may live in two buckets; the second is looked at only if the first is marked. `word` is taken by
 * compare-and-exchange to SESSION_BUSY while an entry is written, so there is no lock, and a half-written
 * entry matches nobody. A live session is never evicted.
 *
 * Traffic refreshes when a session was seen by a plain store to where the flow's entry says that it is: no
 * read of a line that is not in the cache. Even that store costs more than all else that a packet does, so a
 * flow makes it only so many times in a long idle limit; the exact time is in the flow's entry, and the
 * sweeper passes it on when it begins to matter.
 *
 * The store cannot hit another session: its flow is open, and by what that told it the session lives; so it never
 * makes room, and its entry is still its own.
 */

#include "affinity.h"
#include "hash.h"
#include "maps.h"
#include "packet.h"

#define SESSION_FIELD(name)     (((1ULL << SESSION_##name##_BITS) - 1) << SESSION_##name##_SHIFT)
#define SESSION_GET(word, name) (((word) & SESSION_FIELD(name)) >> SESSION_##name##_SHIFT)
#define SESSION_MATCH           (SESSION_FIELD(VIP) | SESSION_FIELD(RANGE))
#define SESSION_PLACE(word)     ((__u64)(word) << SESSION_LIFE_SHIFT)
#define SESSION_TRIES           4
#define SESSION_NOWHERE         0xffffffffU

_Static_assert(sizeof(struct session_bucket) == 128, "two cache lines");
_Static_assert(SESSION_SINCE_SHIFT + SESSION_SINCE_BITS == 64, "the word is full");
_Static_assert(LIMIT_SESSION_WAYS == FLOW_SESSION_WAY + 1, "a flow's entry can name every way");

struct session_key {
	__u64 client[2];
	__u64 match; /* VIP and range: what the word of its entry carries */
	__u32 first; /* bucket */
	__u32 second;
};

static __always_inline __u32 tick_now(void)
{
	return bpf_jiffies64() >> settings.tick_shift;
}

static __always_inline const struct idle_limits *idle_limits_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&idle_limits, &zero);
}

static __always_inline void session_name(struct session_key *k, const struct vip *vip, __u32 vip_id,
					 const __u64 client[2], __u32 range)
{
	__u64 hash;

	k->client[0] = client[0] & vip->affinity_mask[0];
	k->client[1] = client[1] & vip->affinity_mask[1];
	k->match = (__u64)vip_id << SESSION_VIP_SHIFT | (__u64)range << SESSION_RANGE_SHIFT;
	hash = hash_pair(k->client[0], k->client[1], settings.flow_key[0], settings.flow_key[1]);
	hash = hash_mix(hash ^ ((__u64)vip_id << SESSION_RANGE_BITS | range));
	k->first = hash & settings.session_mask;
	k->second = hash >> 24 & settings.session_mask;
	if (k->second == k->first)
		k->second ^= 1 & settings.session_mask;
}

static __always_inline struct session_bucket *session_bucket_at(__u32 bucket)
{
	return bpf_map_lookup_elem(&sessions, &bucket);
}

/* Begin to fetch the lines where the session of a client would be, while the flow's own is on its way. */
static __always_inline void session_fetch(const struct packet *p, __u32 vip_id)
{
	struct vip *vip = bpf_map_lookup_elem(&vips, &vip_id);
	struct session_bucket *bucket;
	struct session_key key;

	if (!vip || vip->affinity == AFFINITY_FLOW)
		return;
	session_name(&key, vip, vip_id, p->client, affinity_range(vip, p->client_port));
	bucket = session_bucket_at(key.first);
	if (!bucket)
		return;
	READ_ONCE(bucket->entries[0].word);
	READ_ONCE(bucket->entries[LIMIT_SESSION_WAYS - 1].word);
}

static __always_inline __u32 session_life(__u64 word)
{
	return SESSION_GET(word, LIFE);
}

/* Whether it counts in `loads`. */
static __always_inline int session_is_counted(__u64 word)
{
	return session_life(word) == SESSION_OPENING || session_life(word) == SESSION_LIVE;
}

/* 1 or 0, without a branch. Another CPU may have stored a tick that this one has not reached yet: that is no
 * age. */
static __always_inline __u32 session_has_expired(__u64 word, __u32 seen, __u32 tick,
						 const struct idle_limits *limits)
{
	const __u32 is_other = -(session_life(word) ^ SESSION_OPENING) >> 31;
	const __u32 row = LIFE_OPENING + (LIFE_SESSION - LIFE_OPENING) * is_other;
	const __s32 age = tick - seen;

	return (__u64)((__s64)limits->ticks[SESSION_GET(word, VIP)][row] - age) >> 63;
}

/* Another CPU may set a mark, move it or end it meanwhile: it is the same session still. */
static __always_inline int session_matches(const struct session *s, const struct session_key *k)
{
	const __u64 same = SESSION_MATCH | SESSION_FIELD(SINCE), word = READ_ONCE(s->word);
	__u64 after;

	if ((word & SESSION_MATCH) != k->match || session_life(word) < SESSION_OPENING ||
	    READ_ONCE(s->client[1]) != k->client[1] || READ_ONCE(s->client[0]) != k->client[0])
		return 0;
	after = READ_ONCE(s->word);
	return !((word ^ after) & same) && session_life(after) >= SESSION_OPENING;
}

/* The session's entry in a bucket, live or not, and its place for a flow's entry. */
static __always_inline struct session *session_find_in(struct session_bucket *bucket, const struct session_key *k,
						       __u32 *place)
{
#pragma unroll
	for (int i = 0; i < LIMIT_SESSION_WAYS; i++)
		if (session_matches(&bucket->entries[i], k)) {
			*place = i;
			return &bucket->entries[i];
		}
	return 0;
}

static __always_inline struct session *session_find(const struct session_key *k, __u32 *place)
{
	struct session_bucket *bucket = session_bucket_at(k->first);
	struct session *found;

	if (!bucket)
		return 0;
	found = session_find_in(bucket, k, place);
	if (found || !(READ_ONCE(bucket->entries[0].word) & SESSION_FIELD(SPILLED)))
		return found;
	bucket = session_bucket_at(k->second);
	if (!bucket)
		return 0;
	found = session_find_in(bucket, k, place);
	*place |= FLOW_SESSION_SECOND;
	return found;
}

/* When the session at this place was last seen, or NULL. */
static __always_inline __u32 *session_seen_at(const struct session_key *k, __u32 place)
{
	__u32 bucket = place & FLOW_SESSION_SECOND ? k->second : k->first;
	struct session_times *times = bpf_map_lookup_elem(&session_seen, &bucket);

	return times ? &times->seen[place & FLOW_SESSION_WAY] : 0;
}

/* Ticks between two refreshes of a session by the same flow. */
static __always_inline __u32 session_period(__u32 limit)
{
	return limit <= SESSION_SHORT_TICKS ? FLOW_REFRESH_TICKS : limit / SESSION_REFRESHES;
}

/* Counters of live sessions, shared by all CPUs. */
static __always_inline void load_add(__u32 backend, __s32 change)
{
	__u32 zero = 0;
	struct loads *all = bpf_map_lookup_elem(&loads, &zero);

	if (!all)
		return;
	backend &= LIMIT_BACKENDS - 1;
	if (change > 0 || READ_ONCE(all->sessions[backend]))
		__sync_fetch_and_add(&all->sessions[backend], change);
}

/* One open flow more or less. For a moment less than none, if the CPU that sees its end is the faster one. */
static __always_inline void session_count_flow(struct session *s, __s32 change)
{
	__u64 word, after;

	__sync_fetch_and_add(&s->flows, change);
	if (change < 0)
		return;
	/* Again if another CPU marked or moved it just then: a session with an open flow must not make room. */
	for (int i = 0; i < SESSION_TRIES; i++) {
		word = READ_ONCE(s->word);
		after = word + SESSION_PLACE(SESSION_LIVE - SESSION_OPENING);
		if (session_life(word) != SESSION_OPENING ||
		    __sync_val_compare_and_swap(&s->word, word, after) == word)
			return;
	}
}

#endif
