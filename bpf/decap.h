/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_DECAP_H
#define LIMPET_DECAP_H

/* Encapsulated frame -> the frame that the client sent, but for its MAC addresses.
 *
 * What is not readable, or not for a VIP, is somebody else's: passed. What is for a VIP must come from a
 * director. The agent is the tunnel's end: it leaves the hop limit alone, and joins the ECN field of both
 * headers as RFC 6040 (section 4.2) says, so that congestion marked on the backbone reaches the session.
 */

#include "agent_maps.h"
#include "agent_way.h"
#include "csum.h"
#include "parse.h"

enum ecn { ECN_NONE = 0, ECN_ECT1, ECN_ECT0, ECN_CE, ECN_MASK = 3 };

/* ECN field after decapsulation, or -1: drop. */
static __always_inline int ecn_join(__u8 outer, __u8 inner)
{
	if (inner == ECN_NONE)
		return outer == ECN_CE ? -1 : ECN_NONE;
	if (outer == ECN_CE)
		return ECN_CE;
	return inner == ECN_ECT0 && outer == ECN_ECT1 ? ECN_ECT1 : inner;
}

static __always_inline void ecn_write4(struct iphdr *ip, __u8 ecn)
{
	const __u16 *word = (const void *)ip;
	__u16 before = *word;

	ip->tos = (ip->tos & ~ECN_MASK) | ecn;
	ip->check = csum_replace(ip->check, before, *word);
}

static __always_inline void ecn_write6(struct ipv6hdr *ip, __u8 ecn)
{
	ip->flow_lbl[0] = (ip->flow_lbl[0] & ~(ECN_MASK << 4)) | ecn << 4;
}

/* Join the ECN fields and write the result into the inner header, where `at` stands. */
static __always_inline enum agent_verdict decap_congestion(struct cursor at, const struct packet *outer,
							   const struct packet *inner)
{
	__u8 before = inner->traffic_class & ECN_MASK;
	int ecn = ecn_join(outer->traffic_class & ECN_MASK, before);
	void *ip;

	if (ecn < 0)
		return AGENT_DROP_ECN;
	if (likely(ecn == before))
		return AGENT_DECAPSULATED;
	if (inner->family == 4) {
		ip = cursor_take(&at, sizeof(struct iphdr));
		if (ip)
			ecn_write4(ip, ecn);
	} else {
		ip = cursor_take(&at, sizeof(struct ipv6hdr));
		if (ip)
			ecn_write6(ip, ecn);
	}
	return ip ? AGENT_DECAPSULATED : AGENT_DROP_MALFORMED;
}

/* Copy `length` bytes of link header over the end of the outer header, and give them the inner ethertype. */
static __always_inline enum agent_verdict link_copy(struct xdp_md *ctx, __u32 distance, __be16 ethertype,
						    const __u32 length)
{
	struct cursor from = cursor_open(ctx), to = from;
	__u8 *source = cursor_take(&from, length);
	__u8 bytes[sizeof(struct ethhdr) + LIMIT_VLAN_TAGS * sizeof(struct vlan_tag)];
	__u8 *target;

	cursor_skip(&to, distance);
	/* VERIFIER(all): the compiler sees that `to` is never before `from` and drops the bound of the latter. */
	opaque(to.pos);
	target = cursor_take(&to, length);
	if (!source || !target)
		return AGENT_DROP_MALFORMED;
	/* The two may overlap. */
	__builtin_memcpy(bytes, source, length);
	__builtin_memcpy(target, bytes, length - sizeof(ethertype));
	__builtin_memcpy(target + length - sizeof(ethertype), &ethertype, sizeof(ethertype));
	return AGENT_DECAPSULATED;
}

/* Move the link header, VLAN tags included, behind the outer IP header, and cut off what is before it. */
static __always_inline enum agent_verdict decap_pull(struct xdp_md *ctx, const struct packet *outer,
						     const struct packet *inner)
{
	const __u32 eth = sizeof(struct ethhdr), tag = sizeof(struct vlan_tag);
	enum agent_verdict copied;

	if (likely(!outer->tag_count))
		copied = link_copy(ctx, outer->header_length, inner->ethertype, eth);
	else if (outer->tag_count == 1)
		copied = link_copy(ctx, outer->header_length, inner->ethertype, eth + tag);
	else
		copied = link_copy(ctx, outer->header_length, inner->ethertype, eth + 2 * tag);
	if (copied != AGENT_DECAPSULATED)
		return copied;
	return bpf_xdp_adjust_head(ctx, outer->header_length) ? AGENT_DROP_HEADROOM : AGENT_DECAPSULATED;
}

/* Each length must fit into what is around it. */
static __always_inline int decap_fits(struct xdp_md *ctx, const struct packet *outer, const struct packet *inner)
{
	return inner->header_length <= inner->length && outer->header_length + inner->length <= outer->length &&
	       outer->link_length + outer->length <= bpf_xdp_get_buff_len(ctx);
}

static __always_inline enum agent_verdict decapsulate(struct xdp_md *ctx)
{
	/* In both headers `client` is the source and `vip_address` the destination. */
	struct packet outer = {}, inner = {};
	struct cursor c = cursor_open(ctx), at;
	enum agent_verdict verdict;
	const __u32 *vip;
	__u32 trusted;

	if (parse_link(&c, &outer) || parse_network(&c, &outer) || outer.is_fragment)
		return AGENT_PASS;
	if (outer.protocol == IPPROTO_IPIP)
		inner.ethertype = swap16(ETH_P_IP);
	else if (outer.protocol == IPPROTO_IPV6)
		inner.ethertype = swap16(ETH_P_IPV6);
	else
		return AGENT_PASS;
	at = c;
	trusted = agent_trusts(outer.client);
	if (parse_network(&c, &inner))
		return trusted ? AGENT_DROP_MALFORMED : AGENT_PASS;
	vip = agent_settings.is_exit ? agent_vip(inner.client) : agent_vip(inner.vip_address);
	if (!vip)
		return AGENT_PASS;
	if (!trusted)
		return AGENT_DROP_SOURCE;
	/* Trust changes here: a director sent this for a VIP, or a backend as one. */
	if (!decap_fits(ctx, &outer, &inner))
		return AGENT_DROP_MALFORMED;
	if (agent_settings.exits)
		way_learn(&inner, *vip, trusted - 1);
	verdict = decap_congestion(at, &outer, &inner);
	return verdict == AGENT_DECAPSULATED ? decap_pull(ctx, &outer, &inner) : verdict;
}

#endif
