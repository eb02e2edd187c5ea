/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AGENT_MAPS_H
#define LIMPET_AGENT_MAPS_H

/* Every map of the agent. Each load has its own sources and VIPs, filled before the programs are attached, so
 * that a packet sees the old configuration or the new one, whole. The counters outlive the load.
 */

#include "abi.h"
#include "bpf.h"

/* prefix -> 1 + way (enum agent_way) of the director. Written by user space before attaching, read per
 * encapsulated packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LIMIT_AGENT_SOURCES);
	__type(key, struct agent_source);
	__type(value, __u32);
} agent_sources SEC(".maps");

/* VIP address, 16 bytes -> its place in the configuration. As above; also read per SYN sent. */
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

/* Exits, by their number. Written by user space before attaching, read per reply that goes there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LIMIT_AGENT_EXITS);
	__type(key, __u32);
	__type(value, struct agent_exit);
} agent_exits SEC(".maps");

/* Client -> its way, for those that came by another PoP. Written per change, read per packet and reply; few
 * entries where no exits are configured. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LIMIT_AGENT_CLIENTS);
	__type(key, struct agent_client);
	__type(value, __u32);
} agent_clients SEC(".maps");

/* Place of a VIP -> when its clients were heard. Written at most every few jiffies, read per reply. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LIMIT_AGENT_VIPS);
	__type(key, __u32);
	__type(value, struct agent_heard);
} agent_heard SEC(".maps");

/* Switches: set before load, constants afterwards. */
const volatile struct agent_settings agent_settings = {};

_Static_assert(sizeof(struct agent_source) == 20, "matches abi.py");
_Static_assert(sizeof(struct agent_settings) == 16, "matches abi.py");

/* 1 + way of the prefix that the address, in host order words, is inside of; 0: no director's. */
static __always_inline __u32 agent_trusts(const __u64 *address)
{
	struct agent_source key = {.bits = 128};
	__u64 words[2] = {swap64(address[0]), swap64(address[1])};
	const __u32 *way;

	__builtin_memcpy(key.address, words, sizeof(words));
	way = bpf_map_lookup_elem(&agent_sources, &key);
	return way ? *way : 0;
}

/* Place of the VIP with this address, or NULL. */
static __always_inline const __u32 *agent_vip(const __u64 *address)
{
	__u64 key[2] = {swap64(address[0]), swap64(address[1])};

	return bpf_map_lookup_elem(&agent_vips, key);
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
