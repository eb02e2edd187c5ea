// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "abi.h"
#include "bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LIMIT_AGENT_SOURCES);
	__type(key, __u32);
	__type(value, struct agent_source);
} agent_sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct agent_counters);
} agent_counters SEC(".maps");

const volatile struct agent_settings agent_settings = {};

SEC("xdp")
int agent(struct xdp_md *ctx)
{
	return XDP_PASS + (ctx->data > agent_settings.sources);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
