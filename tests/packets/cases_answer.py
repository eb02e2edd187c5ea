# SPDX-License-Identifier: Apache-2.0
"""Packets that do not fit or whose hop limit is used up: the sender is told, where it may be told.

MTU is 1500 everywhere. Expected answers are built by scapy in layers, checksums included.
"""

from typing import Any

from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
    Raw,
)
from scapy.packet import Packet

from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import LINK, Case, Expression, dropped, forwarded, ip, link_length, tcp, udp
from packets.cases_icmp import error4, error6, quote4, quote6
from packets.world import (
    DIRECTOR,
    IPIP4,
    IPIP6,
    L2,
    NO_HOP,
    REDIRECTED,
    ROUTER,
    USUAL,
    VIP4,
    VIP6,
    Switches,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
OWN = Switches(icmp_source4="203.0.113.1", icmp_source6="2001:db8:f::1")
LIMITED = Switches(answers_are_refused=True)
QUOTE_MAX = {4: 548, 6: 1232}  # RFC 1812: 576 bytes in all; RFC 4443: 1280
TUNNELLED = {IPIP4: 1480, IPIP6: 1460, L2: 1500, REDIRECTED: 1480}  # what fits
PAD = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])


def sized(vip: str, length: int, flags: str = "A") -> Packet:
    """A TCP packet of this many bytes from the IP header on."""
    header = 40 if "." in vip else 60
    packet = tcp(vip, flags) / Raw(bytes(i % 251 for i in range(length - header)))
    if "." in vip:
        packet[IP].flags, packet[IP].id = "DF", 4711
    return packet


def told(packet: Expression, icmp4: Packet, icmp6: Packet, own: Switches = OWN) -> Expression:
    """The ICMP error about a packet, from the VIP (or an address of the director) to the client."""
    frame = bytes(packet)
    link = Ether(frame[: link_length(frame)])
    link[Ether].src, link[Ether].dst = DIRECTOR, ROUTER
    original = frame[link_length(frame) :]
    if original[0] >> 4 == 4:
        header = IP(original)
        source = header.dst if own is not OWN else own.icmp_source4
        answer = IP(src=source, dst=header.src, ttl=64, id=0) / icmp4
        length = header.len
    else:
        header6 = IPv6(original)
        source = header6.dst if own is not OWN else own.icmp_source6
        answer = IPv6(src=source, dst=header6.src, hlim=64) / icmp6
        length = header6.plen + 40
    quote = original[: min(length, QUOTE_MAX[original[0] >> 4]) & ~3]
    return bytes(link) + bytes(answer / Raw(quote))


BEGUN = (Event.FLOW_CREATED, Event.SESSION_CREATED)


def too_big(name: str, packet: Expression, fits: int, own: Switches = USUAL, **more: Any) -> Case:
    icmp4 = ICMP(type=3, code=4, nexthopmtu=fits)
    expected = told(packet, icmp4, ICMPv6PacketTooBig(mtu=fits), own)
    events: dict[str, Any] = {"events": BEGUN} | more
    return Case(name, packet, Verdict.TOO_BIG, expected, switches=own, **events)


def spent(name: str, packet: Expression, own: Switches = USUAL, **more: Any) -> Case:
    expected = told(packet, ICMP(type=11, code=0), ICMPv6TimeExceeded(code=0), own)
    events: dict[str, Any] = {"events": BEGUN} | more
    return Case(name, packet, Verdict.HOP_LIMIT, expected, switches=own, **events)


NEW: dict[str, Any] = {"rung": Rung.HOME_EXISTING}
FITS = [
    forwarded("4-in-4: 1480 bytes just fit", sized(V4, 1480), **NEW),
    forwarded("6-in-4: 1480 bytes just fit", sized(V6, 1480), **NEW),
    forwarded("4-in-6: 1460 bytes just fit", sized(VIP4[IPIP6], 1460), IPIP6, **NEW),
    forwarded("6-in-6: 1460 bytes just fit", sized(VIP6[IPIP6], 1460), IPIP6, **NEW),
    forwarded("MAC rewrite: 1500 bytes just fit", sized(VIP4[L2], 1500), L2, **NEW),
    forwarded(
        "VLAN tags are no part of the MTU", LINK / Dot1Q(vlan=5) / sized(V4, 1480)[IP], **NEW
    ),
    forwarded(
        "Padding is no part of the MTU", bytes(sized(V4, 1480)) + bytes(9), named=tcp(V4), **NEW
    ),
    forwarded(
        "Without a next hop the MTU is the kernel's to know",
        sized(VIP4[NO_HOP], 1500),
        NO_HOP,
        **NEW,
    ),
]

TOO_BIG = [
    too_big("4-in-4: 1481 bytes are too many", sized(V4, 1481), 1480),
    too_big("6-in-4: 1481 bytes are too many", sized(V6, 1481), 1480),
    too_big("4-in-6: 1461 bytes are too many", sized(VIP4[IPIP6], 1461), 1460),
    too_big("6-in-6: 1461 bytes are too many", sized(VIP6[IPIP6], 1461), 1460),
    too_big("MAC rewrite: 1501 bytes are too many", sized(VIP4[L2], 1501), 1500),
    too_big("MAC rewrite of IPv6: 1501 bytes are too many", sized(VIP6[L2], 1501), 1500),
    too_big(
        "Too big for an interface that is not the ingress: the answer goes back all the same",
        sized(VIP4[REDIRECTED], 1500),
        1480,
    ),
    too_big("A frame of 2000 bytes is answered too", sized(V4, 2000), 1480),
    too_big("A frame of 9000 bytes, in several buffers, is answered too", sized(V6, 9000), 1480),
    too_big(
        "DF is clear: the sender is told, since the director does not fragment",
        LINK / ip(V4, id=4711) / UDP(sport=5, dport=6) / Raw(bytes(1460)),
        1480,
    ),
    too_big(
        "A first fragment that is too big is answered",
        LINK / ip(V4, id=4711, flags="MF") / UDP(sport=5, dport=6) / Raw(bytes(1464)),
        1480,
        events=(*BEGUN, Event.FLOW_CREATED),
    ),
    too_big(
        "An answer about a tagged packet is tagged",
        LINK / Dot1Q(vlan=5, prio=3) / sized(V4, 1481)[IP],
        1480,
    ),
    too_big(
        "An IPv6 answer about a packet with two tags has two tags",
        LINK / Dot1Q(vlan=5) / Dot1Q(vlan=6) / sized(V6, 1481)[IPv6],
        1480,
    ),
    too_big("An answer comes from the address that is set for it", sized(V4, 1481), 1480, OWN),
    too_big("An IPv6 answer comes from the address that is set for it", sized(V6, 1481), 1480, OWN),
    too_big(
        "Where XDP_TX cannot work, an error goes back by redirect",
        sized(V4, 1481),
        1480,
        Switches(redirect_always=True),
    ),
    too_big(
        "A quote carries IPv4 options",
        LINK / ip(V4, options=[IPOption_NOP()] * 40) / UDP(sport=1, dport=2) / Raw(bytes(1430)),
        1480,
    ),
    too_big(
        "A flow that is known is told the same",
        sized(V4, 1481),
        1480,
        events=(),
        before=(tcp(V4), tcp(V4, "A")),
    ),
    dropped(
        "A later fragment that is too big: nobody is told",
        LINK / ip(V4, id=7, frag=185, proto=17) / Raw(bytes(1480)),
        Verdict.DROP_TOO_BIG,
    ),
    dropped(
        "An IPv6 later fragment that is too big: nobody is told",
        LINK / ip(V6) / IPv6ExtHdrFragment(nh=17, offset=9, id=7) / Raw(bytes(1440)),
        Verdict.DROP_TOO_BIG,
    ),
    dropped(
        "An ICMP error that is too big: nobody is told",
        error4(quote4(size=1040)) / Raw(bytes(500)),
        Verdict.DROP_TOO_BIG,
    ),
    dropped(
        "An ICMPv6 error that is too big: nobody is told",
        error6(quote6(size=1440)),
        Verdict.DROP_TOO_BIG,
    ),
    dropped(
        "Too big, and over the rate limit of answers",
        sized(V4, 1481),
        Verdict.DROP_ICMP_LIMITED,
        events=BEGUN,
        switches=LIMITED,
    ),
    dropped(
        "IPv6, too big, and over the rate limit of answers",
        sized(V6, 1481),
        Verdict.DROP_ICMP_LIMITED,
        events=BEGUN,
        switches=LIMITED,
    ),
]

SPENT = [
    spent("A TTL of 1 ends here", tcp(V4, hops=1)),
    spent("A TTL of 0 should not have come this far", tcp(V4, hops=0)),
    spent("A hop limit of 1 ends here", tcp(V6, hops=1)),
    spent("A hop limit of 0 should not have come this far", udp(VIP6[IPIP6], hops=0)),
    spent("A traceroute by UDP is answered from the VIP", udp(VIP4[L2], dport=33434, hops=1)),
    spent("The smallest datagram is quoted whole", udp(V4, size=0, hops=1)),
    spent("A quote has a multiple of four bytes", udp(V4, size=3, hops=1)),
    spent("A packet of 300 bytes is quoted whole", udp(V4, size=272, hops=1)),
    spent("Of a long packet 548 bytes are quoted", udp(V4, size=1400, hops=1)),
    spent("Of a long IPv6 packet 1232 bytes are quoted", udp(V6, size=1400, hops=1)),
    spent(
        "The quote of a packet with options holds its ports",
        tcp(V4, hops=1, options=[IPOption_NOP()] * 40),
    ),
    spent(
        "The quote of an IPv6 packet with extension headers holds its ports",
        LINK / ip(V6, hops=1) / PAD / PAD / UDP(sport=5, dport=6),
    ),
    spent("Padding is not quoted", bytes(udp(V4, size=0, hops=1)) + bytes(18)),
    spent(
        "An answer about a spent TTL comes from the address that is set for it",
        tcp(V4, hops=1),
        OWN,
    ),
    spent("A spent TTL behind a VLAN tag", LINK / Dot1Q(vlan=5) / ip(V4, hops=1) / TCP(dport=80)),
    spent(
        "A spent hop limit comes before a packet that is too big",
        LINK / ip(V4, hops=1) / UDP(sport=5, dport=6) / Raw(bytes(1460)),
    ),
    dropped(
        "A later fragment with a spent TTL: nobody is told",
        LINK / ip(V4, hops=1, id=7, frag=185, proto=17) / Raw(bytes(8)),
        Verdict.DROP_HOP_LIMIT,
    ),
    dropped(
        "A later IPv6 fragment with a spent hop limit: nobody is told",
        LINK / ip(V6, hops=1) / IPv6ExtHdrFragment(nh=17, offset=9, id=7) / Raw(bytes(8)),
        Verdict.DROP_HOP_LIMIT,
    ),
    dropped(
        "An ICMP error with a spent TTL: nobody is told",
        LINK / IP(src="203.0.113.9", dst=V4, ttl=1) / ICMP(type=11) / quote4(),
        Verdict.DROP_HOP_LIMIT,
    ),
    dropped(
        "A spent TTL over the rate limit of answers",
        tcp(V4, hops=1),
        Verdict.DROP_ICMP_LIMITED,
        events=BEGUN,
        switches=LIMITED,
    ),
]

CASES: list[Case] = [*FITS, *TOO_BIG, *SPENT]
