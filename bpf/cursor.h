/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_CURSOR_H
#define LIMPET_CURSOR_H

/* Bounded reads: the only file that compares with data_end. */

#include "bpf.h"

struct cursor {
	void *pos;
	void *end;
};

static __always_inline struct cursor cursor_open(const struct xdp_md *ctx)
{
	return (struct cursor){
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
}

/* Take `len` bytes, or NULL if the packet is shorter. `len` is a constant, so the verifier knows the range. */
static __always_inline void *cursor_take(struct cursor *c, const __u32 len)
{
	void *taken = c->pos;

	if (taken + len > c->end)
		return 0;
	c->pos = taken + len;
	return taken;
}

/* Look at `len` bytes without moving on, or NULL. */
static __always_inline void *cursor_peek(const struct cursor *c, const __u32 len)
{
	void *seen = c->pos + len > c->end ? 0 : c->pos;

	opaque(seen); /* so that callers compare the pointer that they use */
	return seen;
}

/* Move on over `len` bytes, up to 4095; what lies there is not looked at. */
static __always_inline void cursor_skip(struct cursor *c, __u32 len)
{
	c->pos += len & 0xfff;
}

/* Bytes between two points of a packet. */
static __always_inline __u32 cursor_between(const void *from, const void *to)
{
	return (__u32)(to - from);
}

#endif
