// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The agent's programs: on the way in, take off what the director put around a packet; on the way out, keep
 * the MSS small enough that it fits around the next one. Everything else passes untouched.
 */

#include "agent_maps.h"
#include "decap.h"
#include "mss.h"

#define TC_ACT_UNSPEC -1

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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
