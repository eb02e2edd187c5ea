/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_RATE_H
#define LIMPET_RATE_H

/* Token buckets, one per CPU, so no CPU waits for another. Tokens are kept times 16. */

#include "maps.h"

static __always_inline int rate_allow(__u32 limit, __u64 per_jiffy_16, __u64 burst)
{
	struct rate *rate;
	__u64 now, tokens;

	if (!per_jiffy_16)
		return 1;
	rate = bpf_map_lookup_elem(&rates, &limit);
	if (!rate)
		return 0;
	now = bpf_jiffies64();
	tokens = rate->tokens;
	if (now != rate->refilled) {
		tokens += (now - rate->refilled) * per_jiffy_16;
		if (tokens > burst * 16)
			tokens = burst * 16;
		rate->refilled = now;
	}
	if (tokens < 16) {
		rate->tokens = tokens;
		return 0;
	}
	rate->tokens = tokens - 16;
	return 1;
}

#endif
