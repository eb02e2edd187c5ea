// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The director's XDP program: one packet, top to bottom.
 *
 * Until the destination is known to be a VIP address, doubt means XDP_PASS; after that, doubt means drop and
 * a counter. Every packet ends in exactly one verdict, and verdict.h is where it is counted.
 */

#include "abi.h"
#include "answer.h"
#include "bpf.h"
#include "cursor.h"
#include "encap.h"
#include "maps.h"
#include "parse.h"
#include "reset.h"
#include "select.h"
#include "verdict.h"
#include "vip.h"

/* The IP packet must lie in the frame whole; of a frame in several buffers only the first is in sight. */
static __always_inline enum verdict frame_holds(struct xdp_md *ctx, const struct packet *p)
{
	__u32 length = ctx->data_end - ctx->data;

	if (likely(p->link_length + p->length <= length))
		return VERDICT_CONTINUE;
	if (p->link_length + p->length <= bpf_xdp_get_buff_len(ctx))
		return VERDICT_CONTINUE;
	return VERDICT_DROP_MALFORMED;
}

static __always_inline struct vip *vip_at(__u32 id)
{
	return id ? bpf_map_lookup_elem(&vips, &id) : 0;
}

/* From "for a VIP" to a backend. */
static __always_inline enum verdict choose(struct xdp_md *ctx, const struct control *live,
					   const struct vip_address *address, const struct packet *p,
					   struct choice *choice, struct backend **backend,
					   struct counters *counters)
{
	enum verdict verdict;
	struct flow flow;

	if (unlikely(p->kind == KIND_LATER_FRAGMENT)) {
		choice->vip = vip_find_fragment(live, address, p);
		return select_fragment(address->id, vip_at(choice->vip), p, choice, backend);
	}
	flow_name(&flow, p);
	flow_fetch(&flow);
	choice->vip = vip_find(live, address, p);
	if (unlikely(!choice->vip))
		return p->kind == KIND_ICMP_ERROR ? VERDICT_DROP_ICMP_QUOTE : VERDICT_NO_SERVICE;
	flow_name_vip(&flow, choice->vip);
	verdict = select_flow(&flow, p, choice, backend);
	if (unlikely(verdict == VERDICT_RESET))
		return reset_report(ctx, &flow, p, choice->id);
	if (unlikely(p->is_fragment) && !verdict)
		fragment_remember(p, address->id, choice->id, counters);
	return verdict;
}

static __always_inline enum verdict forward(struct xdp_md *ctx, struct packet *p, struct choice *choice,
					    struct counters *counters)
{
	struct cursor c = cursor_open(ctx);
	const struct vip_address *address;
	struct backend *backend = 0;
	struct control live;
	enum verdict verdict;

	verdict = parse_link(&c, p) ?: parse_network(&c, p);
	if (verdict)
		return verdict;
	live = vip_live_half();
	address = vip_address_find(&live, p);
	if (!address)
		return VERDICT_NOT_VIP;
	/* Trust changes here: the packet is for a VIP address. */
	verdict = frame_holds(ctx, p) ?: parse_transport(ctx, &c, p);
	if (verdict)
		return verdict;
	if (unlikely(p->kind == KIND_ECHO_REQUEST))
		return answer_echo(ctx, p);
	verdict = choose(ctx, &live, address, p, choice, &backend, counters);
	if (verdict)
		return verdict;
	verdict = encapsulate(ctx, p, choice, backend);
	if (unlikely(verdict == VERDICT_TOO_BIG))
		return answer_too_big(ctx, p, backend);
	if (unlikely(verdict == VERDICT_HOP_LIMIT))
		return answer_hop_limit(ctx, p);
	return verdict;
}

SEC("xdp.frags")
int director(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct choice choice = {};
	struct packet packet = {};
	__u32 verdict, rung;

	if (!counts)
		return XDP_PASS;
	verdict = forward(ctx, &packet, &choice, counts);
	opaque(verdict);
	if (verdict < VERDICT_MAX)
		counts->verdicts[verdict]++;
	if (choice.vip)
		verdict_count_vip(verdict, &packet, &choice);
	if (verdict_is_forwarded(verdict)) {
		rung = choice.rung;
		opaque(rung);
		if (rung < RUNG_MAX)
			counts->rungs[rung]++;
		verdict_count_backend(&packet, &choice);
	}
	return verdict_act(ctx, verdict, &choice);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
