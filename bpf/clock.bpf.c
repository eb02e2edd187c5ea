// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* The kernel's tick counter, for user space: ages in the connection table are counted in ticks of it.
 * Test runs return 32 bits; high, low, high again gives all 64.
 */

#include "bpf.h"

SEC("xdp")
int clock_high(struct xdp_md *ctx __attribute__((unused)))
{
	return bpf_jiffies64() >> 32;
}

SEC("xdp")
int clock_low(struct xdp_md *ctx __attribute__((unused)))
{
	return bpf_jiffies64();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
