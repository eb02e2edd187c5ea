/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AGENT_MAPS_H
#define LIMPET_AGENT_MAPS_H

/* Every map of the agent. Each load has its own sources and VIPs, filled before the programs are attached, so
 * that a packet sees the old configuration or the new one, whole. The counters outlive the load.
 */

#include "abi.h"
#include "bpf.h"

/* prefix -> 1. Written by user space before attaching, read per encapsulated packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LIMIT_AGENT_SOURCES);
	__type(key, struct agent_source);
	__type(value, __u32);
} agent_sources SEC(".maps");

/* VIP address, 16 bytes -> 1. As above; also read per SYN sent. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LIMIT_AGENT_VIPS);
	__type(key, __u64[2]);
	__type(value, __u32);
} agent_vips SEC(".maps");

/* 0 -> counters. Written here, read by user space, never reset. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agent_counters);
} agent_counters SEC(".maps");

/* Switches: set before load, constants afterwards. */
const volatile struct agent_settings agent_settings = {};

_Static_assert(sizeof(struct agent_source) == 20, "matches abi.py");
_Static_assert(sizeof(struct agent_settings) == 4, "matches abi.py");

/* True if the address, in host order words, is inside a director's prefix. */
static __always_inline int agent_trusts(const __u64 *address)
{
	struct agent_source key = {.bits = 128};
	__u64 words[2] = {swap64(address[0]), swap64(address[1])};

	__builtin_memcpy(key.address, words, sizeof(words));
	return !!bpf_map_lookup_elem(&agent_sources, &key);
}

static __always_inline int agent_has_vip(const __u64 *address)
{
	__u64 key[2] = {swap64(address[0]), swap64(address[1])};

	return !!bpf_map_lookup_elem(&agent_vips, key);
}

static __always_inline void agent_count(__u32 verdict)
{
	__u32 zero = 0;
	struct agent_counters *counters = bpf_map_lookup_elem(&agent_counters, &zero);

	opaque(verdict);
	if (counters && verdict < AGENT_MAX)
		counters->verdicts[verdict]++;
}

#endif
