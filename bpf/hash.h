/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_HASH_H
#define LIMPET_HASH_H

/* Keyed hashes, the same bit for bit in src/limpet/core/hashing.py.
 *
 * Two rounds of xor-shift and multiply by an odd constant, keyed by xor before each word. Well mixed, and
 * not predictable without the key; not a cryptographic function (docs/adr/0003-hash.md says why that is
 * enough). No helper calls: also compiled for the host in tests.
 */

#include <linux/types.h>

#define HASH_MULTIPLIER 0xd6e8feb86659fd93ULL

static inline __attribute__((always_inline)) __u64 hash_mix(__u64 x)
{
	x ^= x >> 32;
	x *= HASH_MULTIPLIER;
	x ^= x >> 32;
	x *= HASH_MULTIPLIER;
	x ^= x >> 32;
	return x;
}

/* Two words under a key of two words. */
static inline __attribute__((always_inline)) __u64 hash_pair(__u64 high, __u64 low, __u64 key0, __u64 key1)
{
	return hash_mix(hash_mix(high ^ key0) ^ low ^ key1);
}

#endif
