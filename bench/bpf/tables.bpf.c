// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Two connection tables under the same traffic: ours (bpf/flow.h, bpf/room.h) and the kernel's LRU hash.
 *
 * Both programs read an IPv4/TCP header at fixed offsets, look the flow up, create it if it is missing, and keep
 * the time of its last packet. Neither does anything else, so the difference between them is the table.
 */

#include "../../bpf/parse.h"
#include "../../bpf/room.h"

struct lru_key {
	__be32 client;
	__be16 client_port;
	__be16 vip_port;
	__u32 vip;
	__u32 reserved;
};

struct lru_value {
	__u32 backend;
	__u32 life;
	__u64 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct lru_key);
	__type(value, struct lru_value);
} lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64[2]); /* hits, creations */
} outcomes SEC(".maps");

static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 __u64 flags) = (void *)BPF_FUNC_map_update_elem;

static __always_inline void outcome(const int which)
{
	__u32 zero = 0;
	__u64 *counts = bpf_map_lookup_elem(&outcomes, &zero);

	if (counts)
		counts[which]++;
}

static __always_inline enum verdict read(struct xdp_md *ctx, struct packet *p)
{
	struct cursor c = cursor_open(ctx);

	return parse_link(&c, p) ?: parse_ip4(&c, p) ?: parse_tcp(&c, p);
}

SEC("xdp.frags")
int table_own(struct xdp_md *ctx)
{
	struct flow_state state = {.backend = 7, .life = LIFE_OPENING, .session = FLOW_ALONE};
	const struct idle_limits *limits = idle_limits_get();
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct membership ended;
	struct packet p = {};
	struct flow_entry *entry;
	struct flow flow;
	__u64 word;

	if (read(ctx, &p) || !limits || !counts)
		return XDP_ABORTED;
	flow_name(&flow, &p);
	flow_name_vip(&flow, 1);
	entry = flow_find(&flow);
	if (entry) {
		word = READ_ONCE(entry->word);
		if (flow_is_usable(word, &flow, &p, limits)) {
			flow_touch(entry, word, &flow, &p, limits);
			outcome(0);
			return XDP_TX;
		}
	}
	if (flow_create(&flow, &p, &state, limits, counts, &ended))
		outcome(1);
	return XDP_TX;
}

SEC("xdp.frags")
int table_lru(struct xdp_md *ctx)
{
	struct lru_value *found, fresh = {.backend = 7, .life = LIFE_OPENING};
	struct lru_key key = {.vip = 1};
	struct packet p = {};
	__u64 now = bpf_jiffies64();

	if (read(ctx, &p))
		return XDP_ABORTED;
	key.client = swap32(p.client[1]);
	key.client_port = p.client_port;
	key.vip_port = p.vip_port;
	found = bpf_map_lookup_elem(&lru, &key);
	if (found) {
		if (now - found->seen > 125)
			found->seen = now;
		outcome(0);
		return XDP_TX;
	}
	fresh.seen = now;
	if (!bpf_map_update_elem(&lru, &key, &fresh, 0))
		outcome(1);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
