/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_BPF_H
#define LIMPET_BPF_H

/* What the compiler and the kernel agree on: section names, map declarations, helper calls. */

#include <linux/bpf.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline /* <linux/stddef.h> has a weaker one */
#define __always_inline     inline __attribute__((always_inline))
#define __noinline          __attribute__((noinline))
#define __uint(name, value) int (*name)[value]
#define __type(name, type)  typeof(type) *name
#define likely(x)           __builtin_expect(!!(x), 1)
#define unlikely(x)         __builtin_expect(!!(x), 0)

/* VERIFIER(all): the compiler drops a bound that it can prove and the verifier cannot; hide the value from it. */
#define opaque(x) asm volatile("" : "+r"(x))

/* One load or store of a word that other CPUs write as well. */
#define READ_ONCE(x)         (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile typeof(x) *)&(x) = (value))

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*const bpf_jiffies64)(void) = (void *)BPF_FUNC_jiffies64;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;
static void *(*const bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*const bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_discard;
static long (*const bpf_xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *buf,
					__u32 len) = (void *)BPF_FUNC_xdp_load_bytes;
static void (*const bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static long (*const bpf_loop)(__u32 count, void *callback, void *context, __u64 flags) = (void *)BPF_FUNC_loop;
static __s64 (*const bpf_csum_diff)(__be32 *from, __u32 from_size, __be32 *to, __u32 to_size,
				    __u32 seed) = (void *)BPF_FUNC_csum_diff;

static __always_inline __u16 swap16(__u16 x)
{
	return __builtin_bswap16(x);
}
static __always_inline __u32 swap32(__u32 x)
{
	return __builtin_bswap32(x);
}
static __always_inline __u64 swap64(__u64 x)
{
	return __builtin_bswap64(x);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are compared as little-endian words");

#endif
