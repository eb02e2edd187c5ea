// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* A storm of packets for BPF_PROG_TEST_RUN: each round sends one of many frames, at random, through the program
 * under test. Two CPUs may run it at once, over the same frames.
 */

#include "../../bpf/abi.h"
#include "../../bpf/bpf.h"

#define FRAME_WORDS 16
#define FRAMES_MAX  16384

struct frame {
	__u64 words[FRAME_WORDS];
};

/* Which frames are sent now: so many, from this one on. Written while the storm goes on. */
struct window {
	__u32 first;
	__u32 count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FRAMES_MAX);
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window);
} windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} subject SEC(".maps");

static long (*const bpf_tail_call)(void *ctx, void *map, __u32 index) = (void *)BPF_FUNC_tail_call;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;

SEC("xdp.frags")
int storm(struct xdp_md *ctx)
{
	long length = ctx->data_end - ctx->data, wanted = sizeof(struct frame);
	__u32 zero = 0, number;
	struct window *window = bpf_map_lookup_elem(&windows, &zero);
	struct frame *frame;
	__u64 *words;

	if (!window || !window->count)
		return XDP_ABORTED;
	number = (window->first + bpf_get_prandom_u32() % window->count) % FRAMES_MAX;
	frame = bpf_map_lookup_elem(&frames, &number);
	/* The frame of the round before may have an outer header. */
	if (!frame || (length != wanted && bpf_xdp_adjust_head(ctx, (int)(length - wanted))))
		return XDP_ABORTED;
	words = (void *)(long)ctx->data;
	if ((void *)(words + FRAME_WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < FRAME_WORDS; i++)
		words[i] = frame->words[i];
	bpf_tail_call(ctx, &subject, 0);
	return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
