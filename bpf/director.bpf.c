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
#include "fragment.h"
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

/* From "for a VIP" to a backend. */
static __always_inline enum verdict choose(struct xdp_md *ctx, const struct control *live,
					   const struct vip_address *address, const struct packet *p,
					   struct work *w, struct backend **backend)
{
	enum verdict verdict;

	if (unlikely(p->kind == KIND_LATER_FRAGMENT)) {
		w->choice.vip = vip_find_fragment(live, address, p);
		verdict = select_fragment(w, p, address->id);
		*backend = backend_at(w->choice.id);
		return verdict ?: *backend ? VERDICT_CONTINUE : VERDICT_DROP_UNKNOWN_BACKEND;
	}
	flow_name(&w->flow, p);
	flow_fetch(&w->flow);
	w->choice.vip = vip_find(live, address, p);
	if (unlikely(!w->choice.vip))
		return p->kind == KIND_ICMP_ERROR ? VERDICT_DROP_ICMP_QUOTE : VERDICT_NO_SERVICE;
	flow_name_vip(&w->flow, w->choice.vip);
	verdict = select_flow(ctx, w, p, backend);
	if (unlikely(verdict == VERDICT_RESET))
		return reset_report(ctx, &w->flow, p, w->choice.id);
	if (unlikely(p->is_fragment) && !verdict) {
		w->ended.vip = 0;
		fragment_remember(w, p, address->id);
		if (w->ended.vip)
			session_tell(&w->ended);
	}
	return verdict;
}

static __always_inline enum verdict forward(struct xdp_md *ctx, struct packet *p, struct work *w)
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
	verdict = choose(ctx, &live, address, p, w, &backend);
	if (verdict)
		return verdict;
	/* VERIFIER(<= 6.1): it forgets the verdict on the stack, and with that, that there is a backend. */
	opaque(backend);
	if (unlikely(!backend))
		return VERDICT_DROP_UNKNOWN_BACKEND;
	verdict = encapsulate(ctx, p, &w->choice, backend);
	if (unlikely(verdict == VERDICT_TOO_BIG))
		return answer_too_big(ctx, p, backend);
	if (unlikely(verdict == VERDICT_HOP_LIMIT))
		return answer_hop_limit(ctx, p);
	return verdict;
}

SEC("xdp.frags")
int director(struct xdp_md *ctx)
{
	__u32 zero = 0, verdict, rung;
	struct counters *counts = bpf_map_lookup_elem(&counters, &zero);
	struct work *w = bpf_map_lookup_elem(&works, &zero);
	struct packet packet = {};

	if (!counts || !w)
		return XDP_PASS;
	w->choice = (struct choice){};
	verdict = forward(ctx, &packet, w);
	opaque(verdict);
	if (verdict < VERDICT_MAX)
		counts->verdicts[verdict]++;
	if (w->choice.vip)
		verdict_count_vip(verdict, &packet, &w->choice);
	if (verdict_is_forwarded(verdict)) {
		rung = w->choice.rung;
		if (rung < RUNG_MAX)
			counts->rungs[rung]++;
		verdict_count_backend(&packet, &w->choice);
	}
	return verdict_act(ctx, verdict, &w->choice);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
