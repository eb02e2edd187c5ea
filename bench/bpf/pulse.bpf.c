// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Load for BPF_PROG_TEST_RUN: makes each round's packet afresh, then tail-calls the program under test.
 *
 * A test run with repeat does not restore the packet, so without this the second round would see the
 * encapsulated packet of the first. Every round costs the same here; `nothing` and `pushes` measure how much.
 */

#include "../../bpf/abi.h"
#include "../../bpf/bpf.h"
#include "../../bpf/hash.h"

#define HEAD_WORDS 14 /* 112 bytes: the longest head of any case, an ICMPv6 error with its quote */

struct pulse {
	__u64 head[HEAD_WORDS]; /* first bytes of every frame */
	__u64 count;            /* rounds so far */
	__u32 length;           /* of the frame */
	__u32 mask;             /* number of flows - 1 */
	__u32 multiplier;       /* odd: flow order is count * multiplier & mask; 1 is sequential */
	__u32 address_at;       /* byte offset of the 4 bytes of the address that vary */
	__u32 port_at;          /* byte offset of the 2 bytes of the port that vary */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pulse);
} pulses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} subject SEC(".maps");

static long (*const bpf_tail_call)(void *ctx, void *map, __u32 index) = (void *)BPF_FUNC_tail_call;

SEC("xdp.frags")
int pulse(struct xdp_md *ctx)
{
	__u32 zero = 0, flow;
	struct pulse *p = bpf_map_lookup_elem(&pulses, &zero);
	long length = ctx->data_end - ctx->data;
	__u32 *address;
	__u16 *port;
	__u64 *words;
	void *data;

	if (!p)
		return XDP_ABORTED;
	if (length != p->length && bpf_xdp_adjust_head(ctx, (int)(length - p->length)))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	words = data;
	if (data + HEAD_WORDS * 8 > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < HEAD_WORDS; i++)
		words[i] = p->head[i];
	flow = p->count++ * p->multiplier & p->mask;
	address = data + (p->address_at & 127);
	port = data + (p->port_at & 127);
	if ((void *)(address + 1) > (void *)(long)ctx->data_end ||
	    (void *)(port + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*address ^= swap32(flow >> 4);
	*port ^= swap16(flow & 15);
	bpf_tail_call(ctx, &subject, 0);
	return XDP_ABORTED;
}

/* Baselines. */
SEC("xdp.frags")
int nothing(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_TX;
}

SEC("xdp.frags")
int pushes(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -20) ? XDP_ABORTED : XDP_TX;
}

/* One read at a random place of 32 MiB: what memory costs here, whatever program asks for it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 18);
	__type(key, __u32);
	__type(value, struct flow_bucket);
} memory SEC(".maps");

SEC("xdp.frags")
int reads(struct xdp_md *ctx)
{
	__u64 *words = (void *)(long)ctx->data;
	struct flow_bucket *bucket;
	__u32 key;

	if ((void *)(words + 5) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	key = hash_mix(words[3] ^ words[4]) & ((1 << 18) - 1);
	bucket = bpf_map_lookup_elem(&memory, &key);
	if (!bucket || bucket->entries[0].id)
		return XDP_ABORTED;
	return XDP_TX;
}

/* A fixed mix of arithmetic, branches and small-map traffic: how fast the machine is just now. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} paces SEC(".maps");

SEC("xdp.frags")
int pace(struct xdp_md *ctx)
{
	__u64 a = bpf_xdp_get_buff_len(ctx), b = 1, c = 2, d = 3;

	for (int i = 0; i < 40; i++) {
		__u32 key = (a ^ i) & 255;
		__u64 *value = bpf_map_lookup_elem(&paces, &key);

		if (!value)
			return XDP_ABORTED;
		a = a * 3 + *value;
		b = (b << 5 | b >> 59) ^ i;
		c += b & 1 ? 7 : 11;
		d ^= c * 5;
		*value = a ^ d;
	}
	return a + b + c + d == 0 ? XDP_ABORTED : XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
