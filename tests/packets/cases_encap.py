# SPDX-License-Identifier: Apache-2.0
"""How a packet travels to its backend: outer headers, MAC rewrite, next hops, hop limits."""

from scapy.all import (
    IP,
    TCP,
    UDP,
    Ether,
    IPOption_NOP,
    IPOption_RR,
    IPOption_Timestamp,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    Raw,
)

from limpet.datapath.abi import Event, Verdict
from packets.case import LINK, Case, Expression, dropped, forwarded, ip, tcp, udp
from packets.world import (
    IPIP4,
    IPIP6,
    L2,
    L2_NO_HOP,
    NO_HOP,
    REDIRECTED,
    SILENT_HOP,
    VIP4,
    VIP6,
    Switches,
)

SYN = TCP(sport=1234, dport=80, flags="S")
V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
PAD = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
HOP_PAD = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])


def with_checksum(packet: Expression, wanted: int) -> Expression:
    """The packet with an identification that gives its IPv4 header this checksum."""
    packet[IP].id = 0
    rest = Ether(bytes(packet))[IP].chksum ^ 0xFFFF
    packet[IP].id = ((wanted ^ 0xFFFF) - rest) % 0xFFFF
    assert Ether(bytes(packet))[IP].chksum == wanted
    return packet


FORMS = [
    forwarded("TCP goes 4-in-4", tcp(V4)),
    forwarded("UDP goes 4-in-4", udp(V4)),
    forwarded("TCP goes 6-in-4", tcp(V6)),
    forwarded("UDP goes 6-in-4", udp(V6)),
    forwarded("TCP goes 4-in-6", tcp(VIP4[IPIP6]), IPIP6),
    forwarded("UDP goes 4-in-6", udp(VIP4[IPIP6]), IPIP6),
    forwarded("TCP goes 6-in-6", tcp(VIP6[IPIP6]), IPIP6),
    forwarded("UDP goes 6-in-6", udp(VIP6[IPIP6]), IPIP6),
    forwarded("MAC rewrite leaves IPv4 as it is, but for the TTL", tcp(VIP4[L2]), L2),
    forwarded("MAC rewrite leaves IPv6 as it is, but for the hop limit", udp(VIP6[L2]), L2),
]

NEXT_HOPS = [
    forwarded(
        "A backend behind another interface is reached by redirect", tcp(VIP4[REDIRECTED]), 6
    ),
    forwarded("IPv6 to a backend behind another interface is redirected", udp(VIP6[REDIRECTED]), 6),
    forwarded(
        "Where XDP_TX cannot work, all goes by redirect",
        tcp(V4),
        switches=Switches(redirect_always=True),
        verdict=Verdict.REDIRECT,
    ),
    forwarded(
        "Without a next hop the kernel forwards, and the frame is addressed to it",
        tcp(VIP4[NO_HOP]),
        NO_HOP,
    ),
    forwarded("IPv6 without a next hop: the kernel forwards", udp(VIP6[NO_HOP]), NO_HOP),
    dropped(
        "A backend on the same segment whose MAC is not known gets nothing",
        tcp(VIP4[L2_NO_HOP]),
        Verdict.DROP_NEXT_HOP,
        events=(Event.FLOW_CREATED, Event.SESSION_CREATED),
    ),
    dropped(
        "IPv6 to a backend on the same segment whose MAC is not known",
        udp(VIP6[L2_NO_HOP]),
        Verdict.DROP_NEXT_HOP,
        events=(Event.FLOW_CREATED, Event.SESSION_CREATED),
    ),
    forwarded(
        "A next hop that has not told its MAC is no next hop", tcp(VIP4[SILENT_HOP]), SILENT_HOP
    ),
    forwarded("IPv6 to a next hop that has not told its MAC", udp(VIP6[SILENT_HOP]), SILENT_HOP),
]

CLASSES = [
    forwarded("4-in-4 copies DSCP and ECN", tcp(V4, tos=0xB9)),
    forwarded("6-in-4 copies DSCP and ECN", tcp(V6, tc=0xBA)),
    forwarded("4-in-6 copies DSCP and ECN", tcp(VIP4[IPIP6], tos=0x2B), IPIP6),
    forwarded("6-in-6 copies DSCP and ECN", tcp(VIP6[IPIP6], tc=0xFF), IPIP6),
    forwarded("MAC rewrite leaves DSCP and ECN", tcp(VIP4[L2], tos=0x03), L2),
    forwarded("The flow label of an inner header stays inside", udp(V6, fl=0xABCDE)),
    forwarded("6-in-6 has a flow label of its own", udp(VIP6[IPIP6], fl=0xABCDE), IPIP6),
]

HOPS = [
    forwarded("A TTL of 2 becomes 1", tcp(V4, hops=2)),
    forwarded("A hop limit of 2 becomes 1", tcp(V6, hops=2)),
    forwarded("A TTL of 255 becomes 254", tcp(V4, hops=255)),
    forwarded("A hop limit of 255 becomes 254", udp(VIP6[IPIP6], hops=255), IPIP6),
    *(
        forwarded(
            f"The IPv4 checksum after a hop is right, {wanted:04x} before",
            with_checksum(udp(V4, size=0), wanted),
        )
        for wanted in (0x0001, 0x00FF, 0x0100, 0xFE00, 0xFEFF, 0xFF00, 0xFFFE)
    ),
]

FRAMES = [
    forwarded(
        "Padding of a short frame stays behind the packet, and is in no length",
        bytes(udp(V4, size=0)) + bytes(18),
        named=udp(V4),
    ),
    forwarded(
        "IPv6: padding stays behind the packet", bytes(udp(V6, size=0)) + b"\xaa" * 9, named=udp(V6)
    ),
    forwarded(
        "4-in-6 of a padded frame",
        bytes(udp(VIP4[IPIP6], size=0)) + bytes(18),
        IPIP6,
        named=udp(VIP4[IPIP6]),
    ),
    forwarded(
        "MAC rewrite keeps padding",
        bytes(udp(VIP4[L2], size=0)) + bytes(18),
        L2,
        named=udp(VIP4[L2]),
    ),
    forwarded("IPv4 options are carried along", tcp(V4, options=[IPOption_RR(), IPOption_NOP()])),
    forwarded(
        "A full IPv4 header of 60 bytes is carried along", tcp(V4, options=[IPOption_NOP()] * 40)
    ),
    forwarded(
        "UDP behind IPv4 options goes 4-in-6",
        udp(VIP4[IPIP6], options=[IPOption_Timestamp()]),
        IPIP6,
    ),
    forwarded("DF of the packet is clear, of the outer header it is set", udp(V4, flags=0, id=77)),
    forwarded("DF of the packet stays", udp(V4, flags="DF", id=0)),
    forwarded(
        "A broadcast frame for a VIP is forwarded",
        Ether(src="02:00:00:00:00:02", dst="ff:ff:ff:ff:ff:ff") / ip(V4) / SYN,
    ),
]

EXTENSIONS = [
    forwarded("TCP behind a hop-by-hop header is balanced", LINK / ip(V6) / HOP_PAD / SYN),
    forwarded("TCP behind destination options is balanced", LINK / ip(V6) / PAD / SYN),
    forwarded(
        "UDP behind both goes 6-in-6",
        LINK / ip(VIP6[IPIP6]) / HOP_PAD / PAD / UDP(sport=1, dport=2),
        IPIP6,
    ),
    forwarded("An atomic fragment is no fragment", LINK / ip(V6) / IPv6ExtHdrFragment(id=7) / SYN),
    forwarded(
        "Six extension headers are walked",
        LINK / ip(V6) / HOP_PAD / PAD / PAD / PAD / IPv6ExtHdrFragment(id=7) / PAD / SYN,
    ),
    dropped(
        "Seven extension headers are too many",
        LINK / ip(V6) / HOP_PAD / PAD / PAD / PAD / PAD / IPv6ExtHdrFragment(id=7) / PAD / SYN,
        Verdict.DROP_MALFORMED,
    ),
    forwarded(
        "The longest extension header is walked",
        LINK / ip(VIP6[L2], nh=0) / Raw(bytes([6, 100]) + bytes(806)) / SYN,
        L2,
    ),
]

CASES: list[Case] = [*FORMS, *NEXT_HOPS, *CLASSES, *HOPS, *FRAMES, *EXTENSIONS]
