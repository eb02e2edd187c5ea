// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The director's own way to its backends: health checks and resets travel as packets of clients do.
 *
 * Runs where packets leave through a device of its own, to which a rule routes all that bear the mark: so it
 * does not depend on where VIPs are routed to, and no other packet meets it.
 */

#include "outbound.h"

#define TC_ACT_OK   0
#define TC_ACT_SHOT 2

SEC("tc")
int outbound(struct __sk_buff *skb)
{
	__u32 egress = 0;
	enum outbound outcome = outbound_send(skb, &egress);

	outbound_count(outcome);
	if (outcome == OUTBOUND_SENT)
		return bpf_redirect(egress, 0);
	if (outcome == OUTBOUND_VIA_KERNEL)
		skb->mark = 0; /* else the same rule would bring it back */
	return outcome == OUTBOUND_PASS || outcome == OUTBOUND_VIA_KERNEL ? TC_ACT_OK : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
