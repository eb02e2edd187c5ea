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
_Static_assert(sizeof(struct control) == 8, "the live half is read as one word");
_Static_assert(LIMIT_VIP_ADDRESSES == 1 << 12, "bits of a place");
_Static_assert(LIMIT_VIP_SERVICES == 1 << 13, "bits of a place");

/* Read once a packet, in one load: seed and half belong together, and so do the rows of both tables, whose
 * address ids mean something in one half only. */
static __always_inline struct control vip_live_half(void)
{
	__u32 zero = 0;
	const __u64 *row = bpf_map_lookup_elem(&control, &zero);
	__u64 word = row ? READ_ONCE(*row) : 0;

	return (struct control){.vip_half = (__u16)word, .vip_seed = word >> 32};
}

/* Place of a row: one multiplication is enough, since user space takes another seed if rows crowd. */
static __always_inline __u32 vip_place(__u64 high, __u64 low, __u32 seed, const __u32 bits)
{
	__u64 word = (high ^ seed) * HASH_MULTIPLIER ^ low;

	return (word ^ word >> 32) * HASH_MULTIPLIER >> (64 - bits);
}

/* The row of the destination, or NULL if it is no VIP address. */
static __always_inline const struct vip_address *vip_address_find(const struct control *live,
								  const struct packet *p)
{
	__u64 high = swap64(p->vip_address[0]), low = swap64(p->vip_address[1]);
	__u32 place = vip_place(p->vip_address[0], p->vip_address[1], live->vip_seed, 12);
	__u32 base = live->vip_half ? LIMIT_VIP_ADDRESSES : 0;

	for (int i = 0; i < LIMIT_VIP_PROBES; i++) {
		__u32 key = base + ((place + i) & (LIMIT_VIP_ADDRESSES - 1));
		struct vip_address *row = bpf_map_lookup_elem(&vip_addresses, &key);
		const __u64 *words = (const void *)row;

		if (!row || !row->id)
			return 0;
		if (words[0] == high && words[1] == low)
			return row;
	}
	return 0;
}

static __always_inline __u32 vip_service_find(const struct control *live, __u64 wanted)
{
	__u32 place = vip_place(0, wanted, live->vip_seed, 13);
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

/* VIP id for an address and the port that the packet asks for, 0 if none. One port wins over all ports. */
static __always_inline __u32 vip_find(const struct control *live, const struct vip_address *address,
				      const struct packet *p)
{
	__u32 id = address->id, vip;

	if (address->services & 1 << SERVICE_PORT) {
		vip = vip_service_find(live, vip_service_key(id, p->vip_port, p->protocol, SERVICE_PORT));
		if (vip)
			return vip;
	}
	return vip_service_find(live, vip_service_key(id, 0, p->protocol, SERVICE_ALL_PORTS));
}

/* The same for a packet without ports: any VIP of the one pool that serves the protocol, 0 if there are more. */
static __always_inline __u32 vip_find_fragment(const struct control *live, const struct vip_address *address,
					       const struct packet *p)
{
	return vip_service_find(live, vip_service_key(address->id, 0, p->protocol, SERVICE_FRAGMENT));
}

#endif
