/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_POLICY_H
#define LIMPET_POLICY_H

/* Where a new session goes, by its pool's policy; and what sessions may do with the backends of a pool.
 *
 * The choice is made here and now, and counted before the next one is made: clients that come back all at
 * once are spread like any others. Two CPUs that choose in the same instant may choose alike.
 */

#include "abi.h"
#include "maps.h"

/* A backend, and by which rung. One word, as the answer of a function that the verifier looks at once. */
#define LOOK_STEP             8
#define CHOSEN(rung, backend) ((rung) << 16 | (backend))

static __always_inline __u32 pool_place(__u32 pool_id)
{
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_id);

	return pool ? READ_ONCE(pool->table) : ~0U;
}

/* With its marks, enum slot. */
static __always_inline __u32 home_marked(__u32 pool_id, __u32 slot)
{
	__u32 place = pool_place(pool_id);
	struct slot_table *slots = bpf_map_lookup_elem(&slot_tables, &place);

	return slots ? slots->home[slot & (LIMIT_SLOTS - 1)] : 0;
}

static __always_inline __u32 home(__u32 pool_id, __u32 slot)
{
	return home_marked(pool_id, slot) & SLOT_BACKEND;
}

/* Bits of enum standing, of a backend that has one somewhere. */
static __always_inline __u32 standing_of(__u32 pool_id, __u32 backend)
{
	__u32 place = pool_place(pool_id);
	struct member_table *table = bpf_map_lookup_elem(&member_tables, &place);

	return table ? table->standing[backend & (LIMIT_BACKENDS - 1)] : 0;
}

/* A look at some members of a pool, one after the other. */
struct look {
	const struct member_table *table;
	const struct loads *loads;
	__u64 least; /* what the best so far would weigh with one session more */
	__u32 best;
	__u32 at;
};

/* Some more members. Without branches but for the way round: with them the verifier would follow every path. */
static long look_on(__u32 i, struct look *look)
{
	(void)i;
	if (!look->table || !look->loads)
		return 1;
#pragma unroll
	for (int k = 0; k < LOOK_STEP; k++) {
		const struct member *member = &look->table->members[look->at & (LIMIT_BACKENDS - 1)];
		const __u32 backend = member->backend & (LIMIT_BACKENDS - 1);
		const __u64 weighs = (READ_ONCE(look->loads->sessions[backend]) + 1ULL) * member->inverse;
		__u64 is_less = (__s64)(weighs - look->least) >> 63;

		opaque(is_less);
		look->least ^= (look->least ^ weighs) & is_less;
		look->best ^= (look->best ^ backend) & is_less;
		look->at = look->at + 1 < look->table->count ? look->at + 1 : 0;
	}
	return 0;
}

/* Of all members, or as many as are looked at, the one with the fewest sessions per weight. Who is looked at, and
 * who wins among equals, moves on with every turn. Who is looked at twice changes nothing. */
static __always_inline __u32 freest(const struct member_table *table, __u32 turn)
{
	const __u32 count = table->count;
	struct look look = {.table = table, .least = ~0ULL >> 1};
	__u32 zero = 0;

	if (!count)
		return 0;
	look.loads = bpf_map_lookup_elem(&loads, &zero);
	look.at = turn % count;
	bpf_loop(((count < LIMIT_CANDIDATES ? count : LIMIT_CANDIDATES) + LOOK_STEP - 1) / LOOK_STEP, look_on,
		 &look, 0);
	return look.best;
}

/* CHOSEN; the backend is 0 if none is eligible. `returning`: the client had a session that expired. */
__noinline int policy_choose(__u32 pool_id, __u32 slot, __u32 returning)
{
	__u32 place = pool_place(pool_id), policy, turn;
	struct member_table *table = bpf_map_lookup_elem(&member_tables, &place);
	struct turn_table *order;
	__u64 *count;

	if (!table)
		return 0;
	policy = returning ? table->reassign : table->policy;
	if (policy == POLICY_HASH)
		return CHOSEN(RUNG_HOME_NEW, home(pool_id, slot));
	count = bpf_map_lookup_elem(&turns, &pool_id);
	if (!count)
		return 0;
	turn = __sync_fetch_and_add(count, 1);
	if (policy == POLICY_LEAST_SESSIONS)
		return CHOSEN(RUNG_FREEST, freest(table, turn));
	order = bpf_map_lookup_elem(&turn_tables, &place);
	return CHOSEN(RUNG_ROUND_ROBIN, order ? order->backend[turn & (LIMIT_SLOTS - 1)] : 0);
}

#endif
