/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AFFINITY_H
#define LIMPET_AFFINITY_H

/* Packet -> slot, by the VIP's affinity rule. The same on every director: src/limpet/core/affinity.py. */

#include "hash.h"
#include "maps.h"
#include "packet.h"

/* The part of a session's key that its ports make: 0 is none, the whole client. */
static __always_inline __u32 affinity_range(const struct vip *vip, __u16 client_port)
{
	return vip->affinity == AFFINITY_CLIENT_PORTS ? 1 + (client_port >> (vip->range_shift & 15)) : 0;
}

/* The same for a mega-proxy. */
static __always_inline __u32 affinity_split_range(const struct vip *vip, __u16 client_port)
{
	return 1 + (client_port >> (vip->split_shift & 15));
}

/* `range`: of the session, 0 for the whole client. */
static __always_inline __u32 affinity_slot(const struct vip *vip, const struct packet *p, __u32 range)
{
	__u64 hash = hash_pair(p->client[0] & vip->affinity_mask[0], p->client[1] & vip->affinity_mask[1],
			       settings.slot_key[0], settings.slot_key[1]);

	if (vip->affinity == AFFINITY_FLOW) {
		__u64 ports = (__u64)p->protocol << 32 | (__u32)p->client_port << 16 | p->vip_port;

		hash = hash_pair(hash, p->vip_address[0] ^ p->vip_address[1] ^ ports, settings.slot_key[1],
				 settings.slot_key[0]);
	} else if (range) {
		hash = hash_pair(hash, range, settings.slot_key[1], settings.slot_key[0]);
	}
	return hash & (LIMIT_SLOTS - 1);
}

#endif
