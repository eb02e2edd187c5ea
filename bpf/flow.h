/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_FLOW_H
#define LIMPET_FLOW_H

/* The connection table: flow -> backend, set-associative, in a plain array (docs/adr/0001-connection-table.md).
 *
 * A flow may live in two buckets, and prefers one half, one cache line, of the first. The rest is looked at
 * only if that half has spilled. An entry is two words. `word` is published by compare-and-exchange, so there
 * is no lock: whoever loses the race writes nothing. `id` follows it; until then the entry matches no flow,
 * since `word` carries a check of the id.
 *
 * An expired flow is remembered as long as nobody needs the room, for the packet that comes late. Who makes room
 * for a new one is in room.h.
 */

#include "hash.h"
#include "maps.h"
#include "packet.h"
#include "ties.h"

#define FLOW_FIELD(name)     (((1ULL << FLOW_##name##_BITS) - 1) << FLOW_##name##_SHIFT)
#define FLOW_GET(word, name) (((word) & FLOW_FIELD(name)) >> FLOW_##name##_SHIFT)
#define FLOW_MATCH           (FLOW_FIELD(VIP) | FLOW_FIELD(CHECK))
#define FLOW_SESSION_MASK    ((1U << FLOW_SESSION_BITS) - 1)
#define FLOW_SEEN_MASK       ((1ULL << FLOW_SEEN_BITS) - 1)
#define FLOW_HALF            (LIMIT_FLOW_WAYS / 2)
#define FLOW_NEAR_WANTED     2 /* free entries in its half with which a flow stays there, without a further look */
#define FLOW_FREE_WANTED     4 /* free entries in its first bucket with which it stays in that */
#define FRAGMENT_TWEAK       0x667261676d656e74ULL /* keeps hashes of fragments apart from those of flows */

_Static_assert(sizeof(struct flow_bucket) == 128, "two cache lines");
_Static_assert(FLOW_CHECK_SHIFT + FLOW_CHECK_BITS == 64, "the word is full");
_Static_assert(LIFE_MAX <= 1 << FLOW_LIFE_BITS, "every life has a code");
_Static_assert(LIMIT_BACKENDS == 1 << FLOW_BACKEND_BITS, "every backend has a code");
_Static_assert(LIMIT_VIPS == 1 << FLOW_VIP_BITS, "every VIP has a code");

struct flow {
	__u64 id;
	__u64 match; /* VIP and check: what the word of its entry carries */
	__u64 hash;
	__u32 first;  /* bucket */
	__u32 second; /* bucket */
	__u32 now;    /* tick */
};

static __always_inline __u64 flow_digest(const __u64 address[2], __u64 rest)
{
	return hash_mix(hash_pair(address[0], address[1], settings.flow_key[0], settings.flow_key[1]) ^ rest);
}

static __always_inline void flow_place(struct flow *f, __u64 tweak)
{
	f->hash = hash_mix(f->id ^ settings.flow_key[0] ^ tweak);
	f->match |= f->hash & FLOW_FIELD(CHECK);
	f->first = f->hash & settings.bucket_mask;
	f->second = f->hash >> 24 & settings.bucket_mask;
	if (f->second == f->first)
		f->second ^= 1 & settings.bucket_mask;
	f->now = tick_now() & FLOW_SEEN_MASK;
}

/* IPv4 flows have an exact id. IPv6 flows have a keyed digest of 64 bits: beside the VIP and the check.
 * The place does not depend on the VIP, so that the entry can be fetched before the VIP is known. */
static __always_inline void flow_name(struct flow *f, const struct packet *p)
{
	__u64 ports = (__u32)p->client_port << 16 | p->vip_port;

	f->id = p->family == 4 ? p->client[1] << 32 | ports : flow_digest(p->client, ports);
	f->match = 0;
	flow_place(f, 0);
}

static __always_inline void flow_name_vip(struct flow *f, __u32 vip)
{
	f->match |= (__u64)vip << FLOW_VIP_SHIFT;
}

/* All fragments of a datagram share a name; VIP 0 keeps it apart from flows. */
static __always_inline void flow_name_fragment(struct flow *f, const struct packet *p, __u32 address_id)
{
	__u64 kin = (address_id << 5 | (p->protocol & 0x1f)) & 0xffff;

	f->id = p->family == 4 ? p->client[1] << 32 | p->datagram << 16 | kin
			       : flow_digest(p->client, (__u64)p->datagram << 16 | kin);
	f->match = 1ULL << FLOW_CHECK_SHIFT; /* never the check of an empty entry */
	flow_place(f, FRAGMENT_TWEAK);
}

/* Idle ticks. Another CPU may have stored a tick that this one has not reached yet: that is no age. */
static __always_inline __u32 flow_age(__u64 word, __u32 now)
{
	__u32 ahead = (now - (__u32)FLOW_GET(word, SEEN) + FLOW_SKEW_TICKS) & FLOW_SEEN_MASK;
	__s32 age = ahead - FLOW_SKEW_TICKS;

	return age & ~(age >> 31);
}

/* 1 or 0. Without a branch: the choice of a victim asks it of eight entries. */
static __always_inline __u32 flow_has_expired(__u64 word, __u32 now, const struct idle_limits *limits)
{
	return (__u64)((__s64)limits->ticks[FLOW_GET(word, VIP)][FLOW_GET(word, LIFE)] - flow_age(word, now)) >>
	       63;
}

static __always_inline struct flow_bucket *flow_bucket_at(__u32 bucket)
{
	return bpf_map_lookup_elem(&flows, &bucket);
}

static __always_inline int flow_entry_matches(struct flow_entry *e, const struct flow *f)
{
	return READ_ONCE(e->id) == f->id && (READ_ONCE(e->word) & FLOW_MATCH) == f->match;
}

/* Each flow prefers one half of its bucket, one cache line. */
static __always_inline __u32 flow_half(const struct flow *f)
{
	return f->hash >> 48 & FLOW_HALF;
}

/* Begin to fetch the line that most likely holds the flow: it comes from memory while the VIP is looked up. */
static __always_inline void flow_fetch(const struct flow *f)
{
	struct flow_bucket *bucket = flow_bucket_at(f->first);

	if (bucket)
		READ_ONCE(bucket->entries[flow_half(f)].word);
}

static __always_inline struct flow_entry *flow_find_in(struct flow_entry *half, const struct flow *f)
{
#pragma unroll
	for (int i = 0; i < FLOW_HALF; i++)
		if (flow_entry_matches(&half[i], f))
			return &half[i];
	return 0;
}

/* One line of memory, unless flows that prefer it have been placed elsewhere. */
static __always_inline struct flow_entry *flow_find(const struct flow *f)
{
	struct flow_bucket *bucket = flow_bucket_at(f->first);
	__u32 near = flow_half(f), far = near ^ FLOW_HALF;
	struct flow_entry *entry;

	if (!bucket)
		return 0;
	entry = flow_find_in(&bucket->entries[near], f);
	if (likely(entry) || !(READ_ONCE(bucket->entries[near].word) & FLOW_FIELD(SPILLED)))
		return entry;
	entry = flow_find_in(&bucket->entries[far], f);
	if (entry)
		return entry;
	bucket = flow_bucket_at(f->second);
	if (!bucket)
		return 0;
	entry = flow_find_in(&bucket->entries[near], f);
	return entry ? entry : flow_find_in(&bucket->entries[far], f);
}

/* Life of a flow after one more packet. */
static __always_inline __u32 flow_life_after(__u32 life, const struct packet *p)
{
	if (p->kind == KIND_LAST)
		return LIFE_CLOSING;
	if (life != LIFE_OPENING)
		return life;
	if (p->kind == KIND_EXISTING)
		return LIFE_ESTABLISHED;
	return p->kind == KIND_ANY ? LIFE_DATAGRAM : life;
}

/* Whether a flow of this life counts as open. */
static __always_inline int flow_is_open(__u32 life)
{
	return life == LIFE_ESTABLISHED || life == LIFE_DATAGRAM;
}

/* Whether a flow is a session of its own, by its bits of enum flow_session. */
static __always_inline int flow_is_session(__u32 session)
{
	return (session & ~FLOW_ORPHAN) == FLOW_IS_SESSION;
}

/* Whether such a flow counts in `loads`. */
static __always_inline int flow_is_counted(__u32 life)
{
	return life == LIFE_OPENING || flow_is_open(life);
}

/* What an entry says beside the flow's name and the time. */
struct flow_state {
	__u32 backend;
	__u32 life;
	__u32 session; /* bits of enum flow_session */
};

static __always_inline __u64 flow_word(const struct flow *f, const struct flow_state *state, __u64 old)
{
	return f->match | state->backend | (__u64)state->life << FLOW_LIFE_SHIFT |
	       (__u64)state->session << FLOW_SESSION_SHIFT | (__u64)f->now << FLOW_SEEN_SHIFT |
	       (old & FLOW_FIELD(SPILLED));
}

/* Whether an entry decides where a packet goes: live, and not closed and now opened anew. */
static __always_inline int flow_is_usable(__u64 word, const struct flow *f, const struct packet *p,
					  const struct idle_limits *limits)
{
	const __u32 life = FLOW_GET(word, LIFE);

	if ((word & FLOW_MATCH) != f->match || life == LIFE_LATE || flow_has_expired(word, f->now, limits))
		return 0;
	return p->kind != KIND_FIRST || life != LIFE_CLOSING;
}

/* What its session has to hear of a flow: it opened, closed, or just had a packet. 1 if there is something to
 * tell; `m` lies in a map, since the stack is short. */
static __always_inline int flow_has_news(struct membership *m, const struct flow *f, const struct packet *p,
					 __u64 word, __u32 life_after, const struct idle_limits *limits)
{
	const __u32 life = FLOW_GET(word, LIFE), was_open = flow_is_open(life), is_open = flow_is_open(life_after);
	const __u32 session = FLOW_GET(word, SESSION), vip = FLOW_GET(word, VIP);
	__u32 limit, period;

	if (flow_is_session(session)) {
		if (flow_is_counted(life) != flow_is_counted(life_after))
			load_add(FLOW_GET(word, BACKEND), flow_is_counted(life) ? -1 : 1);
		return 0;
	}
	if (!(session & FLOW_IN_SESSION))
		return 0;
	m->client[0] = p->client[0];
	m->client[1] = p->client[1];
	m->vip = vip;
	m->session = session;
	m->client_port = p->client_port;
	m->step = is_open > was_open ? STEP_OPENED : is_open < was_open ? STEP_CLOSED : STEP_REFRESH;
	limit = limits->ticks[vip][LIFE_SESSION];
	period = session_period(limit);
	m->is_certain = was_open && flow_age(word, f->now) + period <= limit;
	return !(life_after == life && m->is_certain && FLOW_GET(word, SEEN) / period == f->now / period);
}

/* Tell it. Bits of enum flow_session for the flow's entry. */
static __always_inline __u32 flow_tell(struct membership *m, const struct flow *f, const struct packet *p,
				       __u64 word, __u32 life_after, const struct idle_limits *limits)
{
	return flow_has_news(m, f, p, word, life_after, limits) ? (__u32)session_tell(m) : FLOW_GET(word, SESSION);
}

/* A use refreshes the entry and its session, but not more often than every FLOW_REFRESH_TICKS: a write per
 * packet costs. An ICMP error about a flow is no sign of life. 1 if the flow opened and its session is gone: it
 * made room for another. */
static __always_inline int flow_touch(struct membership *m, struct flow_entry *entry, __u64 word,
				      const struct flow *f, const struct packet *p,
				      const struct idle_limits *limits)
{
	const __u32 life = FLOW_GET(word, LIFE);
	struct flow_state after = {
		.backend = word & FLOW_FIELD(BACKEND),
		.life = flow_life_after(life, p),
		.session = FLOW_GET(word, SESSION),
	};
	__u64 touched;
	__u32 session;

	if (likely(after.life == life && flow_age(word, f->now) < FLOW_REFRESH_TICKS) ||
	    p->kind == KIND_ICMP_ERROR)
		return 0;
	touched = flow_word(f, &after, word);
	if (__sync_val_compare_and_swap(&entry->word, word, touched) != word)
		return 0;
	session = flow_tell(m, f, p, word, after.life, limits) & FLOW_SESSION_MASK;
	if (unlikely(session != after.session && session != FLOW_ALONE)) {
		after.session = session;
		__sync_val_compare_and_swap(&entry->word, touched, flow_word(f, &after, touched));
	}
	return session != after.session;
}

/* The flow of an entry, as its session knows it. m->vip is 0 if it has none. Before the place is written anew: it
 * holds the client. */
static __always_inline void flow_member(struct membership *m, __u64 word, __u64 id, __u32 place)
{
	struct flow_client *client;
	struct vip *vip;
	__u32 vip_id;

	m->vip = 0;
	if (!(FLOW_GET(word, SESSION) & FLOW_IN_SESSION))
		return;
	vip_id = FLOW_GET(word, VIP);
	vip = bpf_map_lookup_elem(&vips, &vip_id);
	client = bpf_map_lookup_elem(&flow_clients, &place);
	if (!vip || !client)
		return;
	m->vip = vip_id;
	m->session = FLOW_GET(word, SESSION);
	if (vip->family == 4) {
		m->client[0] = 0;
		m->client[1] = 0xffff00000000ULL | id >> 32;
		m->client_port = id >> 16;
	} else {
		m->client[0] = swap64(((__u64 *)client->address)[0]);
		m->client[1] = swap64(((__u64 *)client->address)[1]);
		m->client_port = client->client_port;
	}
}

/* A flow's entry makes room, or its time is over. If a session still counts it, `m` says what to tell that with
 * session_tell; else m->vip is 0. */
static __always_inline void flow_end(struct membership *m, __u64 word, __u64 id, __u32 place)
{
	const __u32 life = FLOW_GET(word, LIFE), session = FLOW_GET(word, SESSION);

	m->vip = 0;
	if (flow_is_session(session) && flow_is_counted(life))
		load_add(FLOW_GET(word, BACKEND), -1);
	if (!flow_is_open(life))
		return;
	flow_member(m, word, id, place);
	m->step = STEP_ENDED;
}

/* Give the entry that a flow has already to another backend, or another life. `ended` as in flow_end. */
static __always_inline int flow_renew(struct flow_entry *entry, const struct flow *f, const struct packet *p,
				      const struct flow_state *state, const struct idle_limits *limits,
				      struct counters *counters, struct membership *ended)
{
	__u64 word = READ_ONCE(entry->word);

	ended->vip = 0;
	if ((word & FLOW_MATCH) != f->match ||
	    __sync_val_compare_and_swap(&entry->word, word, flow_word(f, state, word)) != word) {
		counters->events[EVENT_RACE_LOST]++;
		return 0;
	}
	if (!flow_has_news(ended, f, p, word, LIFE_EMPTY, limits))
		ended->vip = 0;
	counters->events[EVENT_FLOW_CREATED]++;
	return 1;
}

#endif
