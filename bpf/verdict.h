/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_VERDICT_H
#define LIMPET_VERDICT_H

/* The closing switch: the only place that counts a verdict and turns it into an XDP action. */

#include "select.h"

static __always_inline int verdict_is_forwarded(enum verdict verdict)
{
	return verdict == VERDICT_TRANSMIT || verdict == VERDICT_REDIRECT || verdict == VERDICT_VIA_KERNEL;
}

static __always_inline void verdict_count_vip(enum verdict verdict, const struct packet *p,
					      const struct choice *choice)
{
	__u32 vip = choice->vip;
	struct vip_stats *stats = bpf_map_lookup_elem(&vip_stats, &vip);

	if (!stats)
		return;
	if (likely(verdict_is_forwarded(verdict))) {
		stats->packets++;
		stats->bytes += p->length;
	} else if (verdict >= VERDICT_DROP_MALFORMED) {
		stats->dropped++;
	}
	stats->flows += choice->created;
	stats->sessions += choice->began;
}

static __always_inline void verdict_count_backend(const struct packet *p, const struct choice *choice)
{
	__u32 id = choice->id;
	struct backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);

	if (!stats)
		return;
	stats->packets++;
	stats->bytes += p->length;
	stats->flows += choice->created;
	stats->sessions += choice->began;
}

/* Back where the packet came from. On a veth, XDP_TX reaches only a peer with an XDP program of its own. */
static __always_inline int verdict_return(struct xdp_md *ctx)
{
	return settings.redirect_always ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

static __always_inline int verdict_act(struct xdp_md *ctx, enum verdict verdict, const struct choice *choice)
{
	switch (verdict) {
	case VERDICT_NOT_IP:
	case VERDICT_NOT_VIP:
	case VERDICT_NO_SERVICE:
	case VERDICT_PASS_MALFORMED:
	case VERDICT_VIA_KERNEL:
		return XDP_PASS;
	case VERDICT_TRANSMIT:
		return XDP_TX;
	case VERDICT_ECHO_REPLY:
	case VERDICT_TOO_BIG:
	case VERDICT_HOP_LIMIT:
		return verdict_return(ctx);
	case VERDICT_REDIRECT:
		return bpf_redirect(choice->egress, 0);
	default:
		return XDP_DROP;
	}
}

#endif
