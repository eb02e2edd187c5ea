/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_VIP_H
#define LIMPET_VIP_H

/* Destination -> VIP, by two open-addressing tables in arrays (linear probing, an empty row ends a search).
 *
 * The address comes first, so that a packet which is not ours costs one cache line. User space builds both
 * tables in the half that is not live and switches one word; see src/limpet/datapath/viptable.py.
 */

#include "hash.h"
#include "maps.h"
#include "packet.h"

#define VIP_SERVICE_KEY 0xffffffffffffULL

_Static_assert(sizeof(struct vip_service) == 8, "a service is compared as one word");
_Static_assert(sizeof(struct vip_address) == 24, "matches abi.py");

/* Address id of the destination, 0 if it is no VIP address. */
static __always_inline __u32 vip_address_find(const struct control *live, const struct packet *p)
{
	__u64 high = swap64(p->vip_address[0]), low = swap64(p->vip_address[1]);
	__u32 place = hash_pair(p->vip_address[0], p->vip_address[1], live->vip_seed, 0) >> 52;
	__u32 base = live->vip_half ? LIMIT_VIP_ADDRESSES : 0;

	for (int i = 0; i < LIMIT_VIP_PROBES; i++) {
		__u32 key = base + ((place + i) & (LIMIT_VIP_ADDRESSES - 1));
		struct vip_address *row = bpf_map_lookup_elem(&vip_addresses, &key);
		const __u64 *words = (const void *)row;

		if (!row || !row->id)
			return 0;
		if (words[0] == high && words[1] == low)
			return row->id;
	}
	return 0;
}

static __always_inline __u32 vip_service_find(const struct control *live, __u64 wanted)
{
	__u32 place = hash_mix(wanted ^ (__u64)live->vip_seed << 32) >> 51;
	__u32 base = live->vip_half ? LIMIT_VIP_SERVICES : 0;

	for (int i = 0; i < LIMIT_VIP_PROBES; i++) {
		__u32 key = base + ((place + i) & (LIMIT_VIP_SERVICES - 1));
		__u64 *row = bpf_map_lookup_elem(&vip_services, &key);

		if (!row || !*row)
			return 0;
		if ((*row & VIP_SERVICE_KEY) == wanted)
			return *row >> 48;
	}
	return 0;
}

static __always_inline __u64 vip_service_key(__u32 address_id, __u16 port, __u8 protocol, enum service service)
{
	return (__u64)service << 40 | (__u64)protocol << 32 | (__u64)port << 16 | address_id;
}

/* VIP id for an address and what the packet asks for there, 0 if none. One port wins over all ports. */
static __always_inline __u32 vip_find(const struct control *live, __u32 address_id, const struct packet *p)
{
	__u32 vip;

	if (unlikely(p->kind == KIND_LATER_FRAGMENT))
		return vip_service_find(live, vip_service_key(address_id, 0, p->protocol, SERVICE_FRAGMENT));
	vip = vip_service_find(live, vip_service_key(address_id, p->vip_port, p->protocol, SERVICE_PORT));
	if (vip)
		return vip;
	return vip_service_find(live, vip_service_key(address_id, 0, p->protocol, SERVICE_ALL_PORTS));
}

#endif
