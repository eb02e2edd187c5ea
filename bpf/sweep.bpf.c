// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The sweeper: ends flows and sessions whose idle time is over, so that they count no more and free their places.
 *
 * It changes nothing for packets: an expired entry is not used, swept or not. Run by the daemon, some buckets at
 * a time; every write is a compare-and-exchange against what was read, so traffic that comes meanwhile wins.
 */

#include "abi.h"
#include "bpf.h"
#include "flow.h"
#include "maps.h"
#include "session.h"

struct progress {
	const struct idle_limits *limits;
	struct counters *counts;
	struct sweep sweep;
	__u32 tick;
};

/* A flow that may soon end, or whose session may: the session hears when it was seen last. */
static __always_inline void sweep_pass_on(__u64 word, __u64 id, __u32 place, const struct progress *at)
{
	const __u32 life = FLOW_GET(word, LIFE), vip = FLOW_GET(word, VIP);
	const __u32 own = at->limits->ticks[vip][life], limit = at->limits->ticks[vip][LIFE_SESSION];
	const __u32 age = flow_age(word, at->tick & FLOW_SEEN_MASK), last = own < limit ? own : limit;
	struct membership m = {};

	if (age + session_period(limit) + SESSION_SWEEP_TICKS < last)
		return;
	flow_member(&m, word, id, place);
	m.step = STEP_SEEN;
	m.seen = at->tick - age;
	if (m.vip)
		session_tell(&m);
}

static __always_inline void sweep_flow(struct flow_entry *entry, __u32 place, struct progress *at)
{
	const __u64 word = READ_ONCE(entry->word), id = READ_ONCE(entry->id);
	const __u32 life = FLOW_GET(word, LIFE);
	__u64 after = word & FLOW_FIELD(SPILLED);
	struct membership m = {};

	if (life == LIFE_EMPTY)
		return;
	if (life != LIFE_LATE && FLOW_GET(word, SESSION) & FLOW_IN_SESSION)
		sweep_pass_on(word, id, place, at);
	if (!flow_has_expired(word, at->tick & FLOW_SEEN_MASK, at->limits))
		return;
	if (life == LIFE_ESTABLISHED)
		after = (word & ~FLOW_FIELD(LIFE)) | (__u64)LIFE_LATE << FLOW_LIFE_SHIFT;
	if (__sync_val_compare_and_swap(&entry->word, word, after) != word)
		return;
	if (life == LIFE_LATE) {
		at->sweep.forgotten++;
		return;
	}
	at->sweep.expired++;
	at->counts->events[EVENT_FLOW_EXPIRED] += life != LIFE_FRAGMENT;
	flow_end(&m, word, id, place);
	if (m.vip)
		session_tell(&m);
}

static long sweep_flow_bucket(__u32 i, struct progress *at)
{
	__u32 number = at->sweep.first + i;
	struct flow_bucket *bucket = flow_bucket_at(number);

	if (!bucket || !at->limits || !at->counts)
		return 1;
#pragma unroll
	for (__u32 way = 0; way < LIMIT_FLOW_WAYS; way++)
		sweep_flow(&bucket->entries[way], number * LIMIT_FLOW_WAYS + way, at);
	return 0;
}

static __always_inline void sweep_session(struct session *s, const __u32 *last, struct progress *at)
{
	const __u32 seen = READ_ONCE(*last);
	const __u64 word = READ_ONCE(s->word);
	const __u32 life = session_life(word);
	__u64 after = word & SESSION_FIELD(SPILLED);

	if (life == SESSION_EMPTY || life == SESSION_BUSY)
		return;
	if (life == SESSION_PAST) {
		if ((__s32)(at->tick - seen) <= (__s32)at->limits->ticks[SESSION_GET(word, VIP)][LIFE_LATE])
			return;
		at->sweep.forgotten += __sync_val_compare_and_swap(&s->word, word, after) == word;
		return;
	}
	if (!session_has_expired(word, seen, at->tick, at->limits))
		return;
	if (life == SESSION_LIVE)
		after = word + SESSION_PLACE(SESSION_PAST - SESSION_LIVE);
	if (__sync_val_compare_and_swap(&s->word, word, after) != word)
		return;
	/* A packet came just now, which its word does not show: the session lives on, if nobody took its place. */
	if (READ_ONCE(*last) != seen && __sync_val_compare_and_swap(&s->word, after, word) == after)
		return;
	load_add(word & SESSION_FIELD(BACKEND), -1);
	at->sweep.expired++;
	at->counts->events[EVENT_SESSION_EXPIRED]++;
}

static long sweep_session_bucket(__u32 i, struct progress *at)
{
	__u32 number = at->sweep.first + i;
	struct session_times *times = bpf_map_lookup_elem(&session_seen, &number);
	struct session_bucket *bucket = session_bucket_at(number);

	if (!bucket || !times || !at->limits || !at->counts)
		return 1;
#pragma unroll
	for (__u32 way = 0; way < LIMIT_SESSION_WAYS; way++)
		sweep_session(&bucket->entries[way], &times->seen[way], at);
	return 0;
}

static __always_inline int sweep(struct sweep *asked, void *of_bucket)
{
	__u32 zero = 0;
	struct progress at = {
		.limits = idle_limits_get(),
		.counts = bpf_map_lookup_elem(&counters, &zero),
		.sweep = *asked,
		.tick = tick_now(),
	};

	if (!at.limits || !at.counts)
		return 1;
	bpf_loop(asked->count, of_bucket, &at, 0);
	asked->expired = at.sweep.expired;
	asked->forgotten = at.sweep.forgotten;
	return 0;
}

SEC("syscall")
int sweep_flows(struct sweep *asked)
{
	return sweep(asked, sweep_flow_bucket);
}

SEC("syscall")
int sweep_sessions(struct sweep *asked)
{
	return sweep(asked, sweep_session_bucket);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
