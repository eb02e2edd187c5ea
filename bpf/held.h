/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_HELD_H
#define LIMPET_HELD_H

/* A packet of an existing flow that nothing here explains waits while the daemon asks the other directors. How
 * many may wait is limited, for each client and for all together: a flood of such packets ends at home, by count.
 */

#include "rate.h"
#include "work.h"

#define ASKER_TICKS 4 /* about a second: then a client may ask as often again */

static __always_inline int held_is_allowed(const struct packet *p)
{
	__u32 place = hash_pair(p->client[0], p->client[1], settings.flow_key[1], settings.flow_key[0]);
	__u64 now = tick_now();
	struct rate *asker;

	if (!settings.client_queries_burst)
		return rate_allow(RATE_QUERIES, settings.queries_per_jiffy_16, settings.queries_burst);
	place &= LIMIT_ASKERS - 1;
	asker = bpf_map_lookup_elem(&askers, &place);
	if (!asker)
		return 0;
	if (now - asker->refilled >= ASKER_TICKS) {
		asker->refilled = now;
		asker->tokens = settings.client_queries_burst;
	}
	if (!asker->tokens)
		return 0;
	asker->tokens--;
	return rate_allow(RATE_QUERIES, settings.queries_per_jiffy_16, settings.queries_burst);
}

/* 1 if the packet waits now; else why it does not is counted. */
__noinline int held_keep(struct xdp_md *ctx, struct work *w, const struct packet *p)
{
	__u32 zero = 0, length;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct held *record;

	if (!w || !p || !counts)
		return 0;
	length = bpf_xdp_get_buff_len(ctx);
	opaque(length); /* the verifier forgets the upper half, which is 0 */
	if (length > LIMIT_HELD_FRAME) {
		counts->events[EVENT_ORPHAN_TOO_LONG]++;
		return 0;
	}
	opaque(length); /* two checks, not one of a difference: kernels before 6.2 learn only from the former */
	if (length < sizeof(struct ethhdr)) /* never: it was parsed */
		return 0;
	if (!held_is_allowed(p)) {
		counts->events[EVENT_ORPHAN_RATE]++;
		return 0;
	}
	record = bpf_ringbuf_reserve(&held, sizeof(*record), 0);
	if (!record) {
		counts->events[EVENT_ORPHAN_FULL]++;
		return 0;
	}
	record->client[0] = p->client[0];
	record->client[1] = p->client[1];
	record->vip_address[0] = p->vip_address[0];
	record->vip_address[1] = p->vip_address[1];
	record->ifindex = ctx->ingress_ifindex;
	record->tick = tick_now();
	record->client_port = p->client_port;
	record->vip_port = p->vip_port;
	record->vip = w->choice.vip;
	record->length = length;
	record->protocol = p->protocol;
	record->family = p->family;
	record->is_error = p->kind == KIND_ICMP_ERROR;
	__builtin_memset(record->reserved, 0, sizeof(record->reserved));
	if (bpf_xdp_load_bytes(ctx, 0, record->frame, length)) {
		bpf_ringbuf_discard(record, 0);
		counts->events[EVENT_ORPHAN_TOO_LONG]++;
		return 0;
	}
	bpf_ringbuf_submit(record, 0);
	return 1;
}

#endif
