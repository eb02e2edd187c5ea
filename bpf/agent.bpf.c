// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The agent's programs: on the way in, take off what the director put around a packet; on the way out, keep
 * the MSS small enough that it fits around the next one. Everything else passes untouched. Where replies follow
 * the PoP by which their clients' packets come in, they leave by a device and a program of their own.
 */

#include "agent_maps.h"
#include "agent_reply.h"
#include "decap.h"
#include "mss.h"

#define TC_ACT_UNSPEC -1
#define TC_ACT_SHOT   2

SEC("xdp.frags")
int agent(struct xdp_md *ctx)
{
	enum agent_verdict verdict = decapsulate(ctx);

	agent_count(verdict);
	return verdict == AGENT_PASS || verdict == AGENT_DECAPSULATED ? XDP_PASS : XDP_DROP;
}

/* Egress of the same interface. Other filters there go on to see the packet. */
SEC("tc")
int agent_egress(struct __sk_buff *skb)
{
	mss_clamp(skb);
	return TC_ACT_UNSPEC;
}

/* Egress of the device to which replies are routed. None of them leaves by it. */
SEC("tc")
int agent_reply(struct __sk_buff *skb)
{
	struct hop hop = {};
	enum agent_verdict verdict;

	mss_clamp(skb);
	verdict = reply_send(skb, &hop);
	agent_count(verdict);
	if (verdict == AGENT_PASS)
		return TC_ACT_UNSPEC;
	if (verdict != AGENT_REPLY_DIRECT && verdict != AGENT_REPLY_EXIT)
		return TC_ACT_SHOT;
	return hop_send(skb, &hop);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
