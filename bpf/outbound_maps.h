/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_OUTBOUND_MAPS_H
#define LIMPET_OUTBOUND_MAPS_H

/* Every map of the program for the director's own packets. */

#include "abi.h"
#include "bpf.h"

/* The director's (bpf/maps.h), shared by its pin: written by the daemon, read per packet here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* 0 -> counters. Written here, read by user space, never reset. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct outbound_counters);
} outbound_counters SEC(".maps");

/* Switches: set before load, constants afterwards. */
const volatile struct outbound_settings outbound_settings = {};

_Static_assert(sizeof(struct outbound_settings) == 24, "matches abi.py");

static __always_inline void outbound_count(__u32 outcome)
{
	__u32 zero = 0;
	struct outbound_counters *counters = bpf_map_lookup_elem(&outbound_counters, &zero);

	opaque(outcome);
	if (counters && outcome < OUTBOUND_MAX)
		counters->outcomes[outcome]++;
}

#endif
