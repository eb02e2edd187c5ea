// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* A slow link in a lab: frames take a way round by a process that keeps each for a while.
 *
 * `away` stands at an interface and sends frames into a TAP device of that process; `back` stands at the TAP and
 * sends what the process has let go to where it was taken from, with a mark, so that it is not taken twice. It is
 * there because small kernels have no netem. No part of a director.
 */

#include "bpf.h"

#include <linux/pkt_cls.h>

#define PEERS_MAX  64
#define MAC_OFFSET 0
#define MAC_SIZE   6
#define DELAYED    0x6c64 /* in the mark, between `back` and `away`, which clears it */

/* Filled by limpet.lab.relay. */
struct delay {
	__u32 tap;
	__u32 interface;
	__u32 flags;           /* BPF_F_INGRESS: frames that come in at the interface, else those that leave */
	__u32 peers;           /* so many; 0: every frame is delayed */
	__u64 peer[PEERS_MAX]; /* destination MAC addresses, as they are in memory */
};

const volatile struct delay delay = {};

static long (*const bpf_skb_load_bytes)(const struct __sk_buff *skb, __u32 offset, void *to,
					__u32 len) = (void *)BPF_FUNC_skb_load_bytes;

static __always_inline int is_for_peer(struct __sk_buff *skb)
{
	__u64 mac = 0;

	if (!delay.peers)
		return 1;
	if (bpf_skb_load_bytes(skb, MAC_OFFSET, &mac, MAC_SIZE))
		return 0;
	for (__u32 i = 0; i < PEERS_MAX; i++)
		if (i < delay.peers && delay.peer[i] == mac)
			return 1;
	return 0;
}

SEC("tc")
int away(struct __sk_buff *skb)
{
	if (skb->mark == DELAYED) {
		skb->mark = 0;
		return TC_ACT_OK;
	}
	return is_for_peer(skb) ? bpf_redirect(delay.tap, 0) : TC_ACT_OK;
}

SEC("tc")
int back(struct __sk_buff *skb)
{
	skb->mark = DELAYED;
	return bpf_redirect(delay.interface, delay.flags);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
