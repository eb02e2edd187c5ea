/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef LIMPET_PARSE_H
#define LIMPET_PARSE_H

/* Cursor -> struct packet. No helper calls: also compiled for the host in tests.
 *
 * parse_link and parse_network run before the packet is known to be for a VIP, so what they cannot read is
 * passed on. parse_transport runs after it, so what it cannot read is dropped, by name.
 */

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "cursor.h"
#include "packet.h"

#define IP4_FRAGMENT_MORE   0x2000
#define IP4_FRAGMENT_OFFSET 0x1fff
#define IP6_FRAGMENT_OFFSET 0xfff8
#define IP6_FRAGMENT_MORE   0x0001
#define ADDRESS_MAPPED      0xffff00000000ULL /* ::ffff:0:0, low word */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

struct ip6_fragment {
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 identification;
};

/* Like struct icmphdr and struct icmp6hdr, which share this shape. */
struct icmp {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 rest;
};

struct transport {
	__be16 source;
	__be16 dest;
	__be32 rest;
};

static __always_inline int ethertype_is_vlan(__be16 ethertype)
{
	return ethertype == swap16(ETH_P_8021Q) || ethertype == swap16(ETH_P_8021AD);
}

/* One VLAN tag, if there is one. */
static __always_inline enum verdict parse_tag(struct cursor *c, struct packet *p, const int index)
{
	struct vlan_tag *tag;

	if (!ethertype_is_vlan(p->ethertype))
		return VERDICT_CONTINUE;
	tag = cursor_take(c, sizeof(*tag));
	if (!tag)
		return VERDICT_PASS_MALFORMED;
	p->tags[index] = p->ethertype | (__u32)tag->tci << 16;
	p->tag_count = index + 1;
	p->ethertype = tag->ethertype;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_link(struct cursor *c, struct packet *p)
{
	struct ethhdr *eth = cursor_take(c, sizeof(*eth));

	if (!eth)
		return VERDICT_PASS_MALFORMED;
	p->ethertype = eth->h_proto;
	if (parse_tag(c, p, 0) || parse_tag(c, p, 1))
		return VERDICT_PASS_MALFORMED;
	p->link_length = sizeof(*eth) + p->tag_count * sizeof(struct vlan_tag);
	return VERDICT_CONTINUE;
}

static __always_inline __u64 word_at(const void *bytes)
{
	const __be32 *half = bytes;

	return (__u64)swap32(half[0]) << 32 | swap32(half[1]);
}

static __always_inline enum verdict parse_ip4(struct cursor *c, struct packet *p)
{
	struct iphdr *ip = cursor_take(c, sizeof(*ip));
	__u16 fragment;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return VERDICT_PASS_MALFORMED;
	p->family = 4;
	p->client[0] = 0;
	p->client[1] = ADDRESS_MAPPED | swap32(ip->saddr);
	p->vip_address[0] = 0;
	p->vip_address[1] = ADDRESS_MAPPED | swap32(ip->daddr);
	p->length = swap16(ip->tot_len);
	p->header_length = ip->ihl * 4;
	p->protocol = ip->protocol;
	p->hop_limit = ip->ttl;
	p->traffic_class = ip->tos;
	fragment = swap16(ip->frag_off);
	if (unlikely(fragment & (IP4_FRAGMENT_MORE | IP4_FRAGMENT_OFFSET))) {
		p->is_fragment = 1;
		p->datagram = swap16(ip->id);
		if (fragment & IP4_FRAGMENT_OFFSET)
			p->kind = KIND_LATER_FRAGMENT;
	}
	if (unlikely(ip->ihl > 5))
		cursor_skip(c, ip->ihl * 4 - sizeof(*ip));
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_ip6(struct cursor *c, struct packet *p)
{
	struct ipv6hdr *ip = cursor_take(c, sizeof(*ip));

	if (!ip || ip->version != 6)
		return VERDICT_PASS_MALFORMED;
	p->family = 6;
	p->client[0] = word_at(&ip->saddr.in6_u.u6_addr8[0]);
	p->client[1] = word_at(&ip->saddr.in6_u.u6_addr8[8]);
	p->vip_address[0] = word_at(&ip->daddr.in6_u.u6_addr8[0]);
	p->vip_address[1] = word_at(&ip->daddr.in6_u.u6_addr8[8]);
	p->length = swap16(ip->payload_len) + sizeof(*ip);
	p->header_length = sizeof(*ip);
	p->protocol = ip->nexthdr;
	p->hop_limit = ip->hop_limit;
	p->traffic_class = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_network(struct cursor *c, struct packet *p)
{
	if (likely(p->ethertype == swap16(ETH_P_IP)))
		return parse_ip4(c, p);
	if (p->ethertype == swap16(ETH_P_IPV6))
		return parse_ip6(c, p);
	return VERDICT_NOT_IP;
}

/* One IPv6 extension header; afterwards `p->protocol` is what follows it. */
static __always_inline enum verdict parse_extension(struct cursor *c, struct packet *p)
{
	struct ip6_fragment *header = cursor_take(c, sizeof(*header));
	__u32 length = sizeof(*header);

	if (!header)
		return VERDICT_DROP_MALFORMED;
	if (p->protocol == IPPROTO_FRAGMENT) {
		p->datagram = swap32(header->identification);
		p->is_fragment = !!(header->offset & swap16(IP6_FRAGMENT_OFFSET | IP6_FRAGMENT_MORE));
		if (header->offset & swap16(IP6_FRAGMENT_OFFSET))
			p->kind = KIND_LATER_FRAGMENT;
	} else {
		/* `reserved` is where these headers keep their length, in 8 bytes beyond the first 8. */
		cursor_skip(c, header->reserved * 8);
		length += header->reserved * 8;
	}
	p->protocol = header->next_header;
	p->header_length += length;
	return p->header_length > LIMIT_HEADERS ? VERDICT_DROP_MALFORMED : VERDICT_CONTINUE;
}

static __always_inline int protocol_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT;
}

static __always_inline enum verdict parse_extensions(struct cursor *c, struct packet *p)
{
	for (int i = 0; i < LIMIT_EXTENSION_HEADERS; i++) {
		if (!protocol_is_extension(p->protocol) || p->kind == KIND_LATER_FRAGMENT)
			return VERDICT_CONTINUE;
		if (parse_extension(c, p))
			return VERDICT_DROP_MALFORMED;
	}
	return protocol_is_extension(p->protocol) ? VERDICT_DROP_MALFORMED : VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_tcp(struct cursor *c, struct packet *p)
{
	struct tcphdr *tcp = cursor_take(c, sizeof(*tcp));
	__u8 flags;

	if (!tcp || tcp->doff < 5 || p->length < p->header_length + sizeof(*tcp))
		return VERDICT_DROP_MALFORMED;
	p->client_port = swap16(tcp->source);
	p->vip_port = swap16(tcp->dest);
	flags = ((__u8 *)tcp)[13];
	if (flags & (TCP_FIN | TCP_RST))
		p->kind = KIND_LAST;
	else if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		p->kind = KIND_FIRST;
	else
		p->kind = KIND_EXISTING;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_udp(struct cursor *c, struct packet *p)
{
	struct udphdr *udp = cursor_take(c, sizeof(*udp));

	if (!udp || swap16(udp->len) < sizeof(*udp) || p->length < p->header_length + sizeof(*udp))
		return VERDICT_DROP_MALFORMED;
	p->client_port = swap16(udp->source);
	p->vip_port = swap16(udp->dest);
	p->kind = KIND_ANY;
	return VERDICT_CONTINUE;
}

static __always_inline int protocol_is_icmp(const struct packet *p)
{
	return p->protocol == (p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
}

/* ICMP errors that a flow's backend must hear of (RFC 792, RFC 4443). */
static __always_inline int icmp_is_error(const struct packet *p, __u8 type)
{
	if (p->family == 4)
		return type == 3 || type == 11 || type == 12;
	return type >= 1 && type <= 4;
}

/* The packet that an ICMP error quotes went from the VIP to the client: turn it round to name the flow.
 * Routers must quote 8 bytes beyond the IP header (RFC 792) and need not quote more. */
static __always_inline enum verdict parse_quote(struct cursor *c, struct packet *p)
{
	struct packet quoted = {};
	struct transport *transport;

	if (p->family == 4 ? parse_ip4(c, &quoted) : parse_ip6(c, &quoted))
		return VERDICT_DROP_ICMP_QUOTE;
	if (p->family == 6 && parse_extensions(c, &quoted))
		return VERDICT_DROP_ICMP_QUOTE;
	if (quoted.kind == KIND_LATER_FRAGMENT)
		return VERDICT_DROP_ICMP_QUOTE;
	if (quoted.protocol != IPPROTO_TCP && quoted.protocol != IPPROTO_UDP)
		return VERDICT_DROP_ICMP_QUOTE;
	if (quoted.client[0] != p->vip_address[0] || quoted.client[1] != p->vip_address[1])
		return VERDICT_DROP_ICMP_QUOTE;
	transport = cursor_take(c, sizeof(*transport));
	if (!transport ||
	    p->length < p->header_length + sizeof(struct icmp) + quoted.header_length + sizeof(*transport))
		return VERDICT_DROP_ICMP_QUOTE;
	p->client[0] = quoted.vip_address[0];
	p->client[1] = quoted.vip_address[1];
	p->vip_port = swap16(transport->source);
	p->client_port = swap16(transport->dest);
	p->protocol = quoted.protocol;
	p->kind = KIND_ICMP_ERROR;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_icmp(struct cursor *c, struct packet *p)
{
	struct icmp *icmp;

	if (p->is_fragment)
		return VERDICT_DROP_FRAGMENT;
	icmp = cursor_take(c, sizeof(*icmp));
	if (!icmp || p->length < p->header_length + sizeof(*icmp))
		return VERDICT_DROP_MALFORMED;
	if (icmp_is_error(p, icmp->type))
		return parse_quote(c, p);
	if (icmp->type != (p->family == 4 ? 8 : 128) || icmp->code)
		return VERDICT_DROP_ICMP_TYPE;
	p->kind = KIND_ECHO_REQUEST;
	return VERDICT_CONTINUE;
}

static __always_inline enum verdict parse_ports(struct cursor *c, struct packet *p)
{
	if (unlikely(p->kind == KIND_LATER_FRAGMENT))
		return p->length < p->header_length ? VERDICT_DROP_MALFORMED : VERDICT_CONTINUE;
	return p->protocol == IPPROTO_TCP ? parse_tcp(c, p) : parse_udp(c, p);
}

static __always_inline int protocol_has_ports(const struct packet *p)
{
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP;
}

/* Anything but TCP or UDP directly behind the IP header. */
static __always_inline enum verdict parse_behind_extensions(struct cursor *c, struct packet *p)
{
	if (p->family == 6 && parse_extensions(c, p))
		return VERDICT_DROP_MALFORMED;
	if (protocol_is_icmp(p))
		return parse_icmp(c, p);
	return protocol_has_ports(p) ? parse_ports(c, p) : VERDICT_NO_SERVICE;
}

/* A global function, opening its own cursor: the verifier looks at it once, not once for every way in which
 * its caller may have come here. */
__noinline int parse_uncommon(struct xdp_md *ctx, struct packet *p)
{
	struct cursor c = cursor_open(ctx);

	if (!p)
		return VERDICT_DROP_MALFORMED;
	cursor_skip(&c, p->link_length);
	cursor_skip(&c, p->header_length);
	return parse_behind_extensions(&c, p);
}

/* Transport header of a packet whose destination is a VIP address. */
static __always_inline enum verdict parse_transport(struct xdp_md *ctx, struct cursor *c, struct packet *p)
{
	if (p->length < p->header_length)
		return VERDICT_DROP_MALFORMED;
	return likely(protocol_has_ports(p)) ? parse_ports(c, p) : parse_uncommon(ctx, p);
}

#endif
