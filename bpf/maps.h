/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_MAPS_H
#define LIMPET_MAPS_H

/* Every map of the director: key -> value, who writes, who reads, what when full.
 *
 * Only array types, whose lookup is inlined to an address computation, but for those that few packets meet:
 * `proxies`, `directory` and the rings. All are pinned, so they outlive the daemon. Sizes marked (load) are set
 * by the loader from the configuration before the maps are made.
 */

#include "abi.h"
#include "bpf.h"

/* 0 -> which half of the VIP tables is live. Written by user space in one word, read per packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* half * LIMIT_VIP_ADDRESSES + place -> VIP address. User space writes the half that is not live; when the
 * VIPs do not fit the probe limit, it takes another seed. Read per packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * LIMIT_VIP_ADDRESSES);
	__type(key, __u32);
	__type(value, struct vip_address);
} vip_addresses SEC(".maps");

/* half * LIMIT_VIP_SERVICES + place -> what is served at a VIP address. As above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * LIMIT_VIP_SERVICES);
	__type(key, __u32);
	__type(value, struct vip_service);
} vip_services SEC(".maps");

/* VIP id -> how it is balanced. Written by user space before a service names it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_VIPS);
	__type(key, __u32);
	__type(value, struct vip);
} vips SEC(".maps");

/* 0 -> idle limits of all VIPs. Written by user space before a VIP is live, and when its timeouts change. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct idle_limits);
} idle_limits SEC(".maps");

/* pool id -> place of its tables. One word: written by user space after the tables are complete. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_POOLS);
	__type(key, __u32);
	__type(value, struct pool);
} pools SEC(".maps");

/* place -> slot table (load). User space writes a place that no pool names, and reuses one only after an RCU
 * grace period. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot_table);
} slot_tables SEC(".maps");

/* place -> members of a pool (load). As above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct member_table);
} member_tables SEC(".maps");

/* place -> order of round robin (load). As above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct turn_table);
} turn_tables SEC(".maps");

/* pool id -> new sessions placed by turn or freest so far. Counted here, by all CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_POOLS);
	__type(key, __u32);
	__type(value, __u64);
} turns SEC(".maps");

/* 0 -> live sessions of each backend. Counted here, by all CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct loads);
} loads SEC(".maps");

/* prefix of clients -> 1: known mega-proxies. Written by user space; read for new flows of VIPs that look
 * at it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, LIMIT_PROXIES);
	__type(key, struct proxy);
	__type(value, __u8);
} proxies SEC(".maps");

/* backend id -> where it is. Written by user space before a table names it, cleared after no flow does. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LIMIT_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* The connection table (load): bucket -> 8 flows. Written here, scanned by user space. When a flow's two
 * buckets hold nothing but live established flows, it gets no entry (EVENT_REFUSED_FULL). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_bucket);
} flows SEC(".maps");

/* bucket * 8 + way -> client of an IPv6 flow (load). Written here with the entry, read by user space only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_client);
} flow_clients SEC(".maps");

/* The session table (load): bucket -> 4 sessions. Written here, scanned by user space. When a session's two
 * buckets hold nothing but live sessions, it gets no entry (EVENT_SESSION_FULL). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct session_bucket);
} sessions SEC(".maps");

/* bucket -> when each of its sessions was last seen (load). Written here, read by user space too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct session_times);
} session_seen SEC(".maps");

/* Flows that are being reset: struct reset records for the daemon. When full, VERDICT_DROP_RESET. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LIMIT_RESETS);
} resets SEC(".maps");

/* name of an exception -> where it is (load). Written by user space only, by what other directors tell and answer;
 * memory is taken as it fills. When full, user space counts what it could not put. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct exception_key);
	__type(value, struct exception);
} directory SEC(".maps");

/* Exceptions that arise here: struct news records for the daemon. When full, EVENT_NEWS_LOST. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LIMIT_NEWS);
} news SEC(".maps");

/* Packets that wait: struct held records for the daemon. When full, EVENT_ORPHAN_FULL. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LIMIT_HELD);
} held SEC(".maps");

/* hash of a client -> how many of its packets may wait yet, on this CPU. Clients that share a place share it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LIMIT_ASKERS);
	__type(key, __u32);
	__type(value, struct rate);
} askers SEC(".maps");

/* 0 -> counters without a label. Written here, read by user space, never reset. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* VIP id -> counters. As above. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LIMIT_VIPS);
	__type(key, __u32);
	__type(value, struct vip_stats);
} vip_stats SEC(".maps");

/* backend id -> counters. As above. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LIMIT_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend_stats);
} backend_stats SEC(".maps");

/* enum rate_limit -> token bucket of this CPU. Written and read here only. */
enum rate_limit { RATE_FLOWS = 0, RATE_ICMP, RATE_QUERIES, RATE_MAX };
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RATE_MAX);
	__type(key, __u32);
	__type(value, struct rate);
} rates SEC(".maps");

/* Switches: set before load, constants afterwards. */
const volatile struct settings settings = {};

#endif
