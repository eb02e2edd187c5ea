/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_AFFINITY_H
#define LIMPET_AFFINITY_H

/* Packet -> slot, by the VIP's affinity rule. The same on every director: src/limpet/core/affinity.py. */

#include "hash.h"
#include "maps.h"
#include "packet.h"

static __always_inline __u32 affinity_slot(const struct vip *vip, const struct packet *p)
{
	__u64 hash = hash_pair(p->client[0] & vip->affinity_mask[0], p->client[1] & vip->affinity_mask[1],
			       settings.slot_key[0], settings.slot_key[1]);

	if (vip->affinity == AFFINITY_FLOW) {
		__u64 ports = (__u64)p->protocol << 32 | (__u32)p->client_port << 16 | p->vip_port;

		hash = hash_pair(hash, p->vip_address[0] ^ p->vip_address[1] ^ ports, settings.slot_key[1],
				 settings.slot_key[0]);
	}
	return hash & (LIMIT_SLOTS - 1);
}

#endif
