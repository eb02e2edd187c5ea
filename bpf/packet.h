/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_PACKET_H
#define LIMPET_PACKET_H

/* What the director knows of a packet once it is parsed. Host byte order, but for `tags`.
 *
 * Addresses are two words of the 16 byte form (IPv4 as ::ffff:a.b.c.d), so that everything between parse and
 * encap has one path for both families.
 */

#include "abi.h"

enum kind {
	KIND_FIRST = 0,      /* TCP SYN: first packet of a flow */
	KIND_ANY,            /* UDP: may be the first packet of a flow or not */
	KIND_EXISTING,       /* TCP without SYN */
	KIND_LAST,           /* TCP FIN or RST */
	KIND_LATER_FRAGMENT, /* no ports */
	KIND_ECHO_REQUEST,
	KIND_ICMP_ERROR, /* client, ports and protocol are those of the flow that the quoted packet names */
};

struct packet {
	__u64 client[2];
	__u64 vip_address[2];
	__u32 datagram; /* identification, when is_fragment */
	__u16 client_port;
	__u16 vip_port;
	__u16 link_length;   /* bytes before the IP header */
	__u16 header_length; /* bytes from the IP header to the transport header */
	__u16 length;        /* bytes from the IP header on, as it says itself */
	__be16 ethertype;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 kind;        /* enum kind */
	__u8 is_fragment; /* first or later */
	__u8 hop_limit;
	__u8 traffic_class;
	__u8 tag_count;
	__be32 tags[LIMIT_VLAN_TAGS]; /* TPID and TCI */
};

#endif
