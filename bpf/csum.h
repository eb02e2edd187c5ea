/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_CSUM_H
#define LIMPET_CSUM_H

/* Internet checksum (RFC 1071, RFC 1624). No helper calls: also compiled for the host in tests. */

#include <linux/types.h>

/* Fold a sum of 16 bit words to 16 bits, without inverting it. */
static inline __attribute__((always_inline)) __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Checksum after the 16 bit word `from` became `to` (RFC 1624, equation 3). */
static inline __attribute__((always_inline)) __u16 csum_replace(__u16 check, __u16 from, __u16 to)
{
	return ~csum_fold((__u64)(__u16)~check + (__u16)~from + to);
}

#endif
