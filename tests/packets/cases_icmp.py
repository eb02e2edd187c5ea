# SPDX-License-Identifier: Apache-2.0
"""ICMP to a VIP: echo requests are answered, errors about a flow go to its backend."""

from typing import Any

from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1Q,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPOption_NOP,
    IPOption_RR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
    Raw,
)
from scapy.packet import Packet

from limpet.datapath.abi import Rung, Verdict
from packets.case import (
    LINK,
    Age,
    Case,
    Expression,
    dropped,
    existing,
    forwarded,
    ip,
    tcp,
    udp,
)
from packets.world import (
    ALONE4,
    CLIENT4,
    CLIENT6,
    DIRECTOR,
    IPIP4,
    IPIP6,
    L2,
    MIXED4,
    NOT_VIP4,
    NOT_VIP6,
    REDIRECTED,
    ROUTER,
    VIP4,
    VIP6,
    Switches,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
HOP4, HOP6 = "203.0.113.9", "2001:db8:f::9"  # a router on the way
PAD = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])


# --- Echo -----------------------------------------------------------------------------------------


def echo4(vip: str = V4, size: int = 8, **fields: Any) -> Packet:
    return LINK / ip(vip, **fields) / ICMP(id=7, seq=1) / Raw(bytes(range(size)))


def echo6(vip: str = V6, size: int = 8, **fields: Any) -> Packet:
    return LINK / ip(vip, **fields) / ICMPv6EchoRequest(id=7, seq=1, data=bytes(range(size)))


def reply(request: Packet) -> Packet:
    """The request turned round in layers, checksums by scapy."""
    answer = request.copy()
    answer.src, answer.dst = DIRECTOR, ROUTER
    network = answer[IP] if IP in answer else answer[IPv6]
    network.src, network.dst = network.dst, network.src
    if IP in answer:
        network.ttl, answer[ICMP].type = 64, 0
    else:
        network.hlim, answer[ICMPv6EchoRequest].type = 64, 129
    return answer


def answered(name: str, request: Packet, **more: Any) -> Case:
    return Case(name, request, Verdict.ECHO_REPLY, reply(request), **more)


def refused(name: str, packet: Expression) -> Case:
    return dropped(name, packet, Verdict.DROP_ICMP_TYPE)


LIMITED = Switches(answers_are_refused=True)
ECHO = [
    answered("A ping of a VIP is answered", echo4()),
    answered("An IPv6 ping of a VIP is answered", echo6()),
    answered("A ping without data is answered", echo4(size=0)),
    answered("A ping of odd length is answered", echo4(size=11)),
    answered("A ping of an address that serves one UDP port is answered", echo4(MIXED4)),
    answered("A ping with TTL 1 has arrived, and is answered with a fresh one", echo4(hops=1)),
    answered("A ping with hop limit 1 has arrived", echo6(hops=1)),
    answered("A ping keeps its DSCP, identification and DF", echo4(tos=0xB8, id=77, flags="DF")),
    answered(
        "A ping with IPv4 options is answered with them",
        echo4(options=[IPOption_RR(), IPOption_NOP()]),
    ),
    answered(
        "A ping behind an extension header is answered",
        LINK / ip(V6) / PAD / ICMPv6EchoRequest(id=7, data=b"abc"),
    ),
    answered(
        "A ping behind a VLAN tag is answered behind it", LINK / Dot1Q(vlan=5) / ip(V4) / ICMP(id=9)
    ),
    answered(
        "An IPv6 ping behind a VLAN tag is answered behind it",
        LINK / Dot1Q(vlan=5) / ip(V6) / ICMPv6EchoRequest(id=9),
    ),
    answered("A ping of a VIP that encapsulates in IPv6 is answered", echo4(VIP4[IPIP6])),
    Case(
        "Padding behind a ping stays",
        bytes(echo4(size=0)) + bytes(18),
        Verdict.ECHO_REPLY,
        bytes(reply(echo4(size=0))) + bytes(18),
    ),
    Case(
        "A ping with a wrong checksum gets a reply that is wrong as well",
        bytes(echo4())[:-1] + b"\xff",
        Verdict.ECHO_REPLY,
        bytes(reply(echo4()))[:-1] + b"\xff",
    ),
    *(
        answered(
            f"The checksum of a reply carries: {wanted:04x} in the request",
            LINK / ip(V4) / ICMP(id=(0xF7FF - wanted) % 0xFFFF, seq=0),
        )
        for wanted in (0xF7FE, 0xF7FF, 0xF800, 0xF801, 0xF8FF, 0xFFFE, 0x0000, 0x0001)
    ),
    answered(
        "Where XDP_TX cannot work, an answer goes back by redirect",
        echo4(),
        switches=Switches(redirect_always=True),
    ),
    dropped("A ping over the rate limit", echo4(), Verdict.DROP_ICMP_LIMITED, switches=LIMITED),
    dropped(
        "An IPv6 ping over the rate limit", echo6(), Verdict.DROP_ICMP_LIMITED, switches=LIMITED
    ),
    dropped(
        "A first fragment of a ping is not put together",
        echo4(flags="MF", id=5),
        Verdict.DROP_FRAGMENT,
    ),
    dropped(
        "A later fragment of a ping is not put together", echo4(frag=9, id=5), Verdict.DROP_FRAGMENT
    ),
    dropped(
        "An IPv6 fragment of a ping is not put together",
        LINK / ip(V6) / IPv6ExtHdrFragment(m=1, id=5) / ICMPv6EchoRequest(),
        Verdict.DROP_FRAGMENT,
    ),
]

OTHERS = [
    refused("An echo reply to a VIP", LINK / ip(V4) / ICMP(type=0)),
    refused("An IPv6 echo reply to a VIP", LINK / ip(V6) / ICMPv6EchoReply()),
    refused("An echo request with a code", LINK / ip(V4) / ICMP(type=8, code=1)),
    refused("An IPv6 echo request with a code", LINK / ip(V6) / ICMPv6EchoRequest(code=1)),
    refused("Source quench (RFC 6633 took it away)", LINK / ip(V4) / ICMP(type=4) / Raw(bytes(28))),
    refused("A redirect", LINK / ip(V4) / ICMP(type=5) / Raw(bytes(28))),
    refused("A timestamp request", LINK / ip(V4) / ICMP(type=13)),
    refused("Router solicitation to a VIP", LINK / ip(V6) / ICMPv6ND_RS()),
    refused(
        "Neighbour solicitation straight to a VIP", LINK / ip(V6, hops=255) / ICMPv6ND_NS(tgt=V6)
    ),
    refused(
        "An ICMPv6 error of a type that nobody knows",
        LINK / ip(V6, nh=58) / Raw(b"\x05" + bytes(60)),
    ),
]

# --- Errors ---------------------------------------------------------------------------------------


def quote4(vip: str = V4, size: int = 28, sport: int = 80, dport: int = 1234, **fields: Any) -> Raw:
    """What a router saw: a segment from the VIP to the client."""
    packet = IP(src=vip, dst=CLIENT4, ttl=3, **fields) / TCP(sport=sport, dport=dport, flags="A")
    return Raw(bytes(packet / Raw(bytes(1000)))[:size])


def quote6(vip: str = V6, size: int = 48, sport: int = 80, dport: int = 1234) -> Raw:
    packet = IPv6(src=vip, dst=CLIENT6, hlim=3) / TCP(sport=sport, dport=dport, flags="A")
    return Raw(bytes(packet / Raw(bytes(1400)))[:size])


def error4(quote: Raw, vip: str = V4, **icmp: Any) -> Packet:
    """An error from a router to a VIP: fragmentation needed, if nothing else is said."""
    fields = {"type": 3, "code": 4, "nexthopmtu": 1400} | icmp
    return LINK / IP(src=HOP4, dst=vip, ttl=60) / ICMP(**fields) / quote


def error6(quote: Raw, vip: str = V6, icmp: Packet = None) -> Packet:
    """The same over IPv6: packet too big, if nothing else is said."""
    return LINK / IPv6(src=HOP6, dst=vip, hlim=60) / (icmp or ICMPv6PacketTooBig(mtu=1400)) / quote


NO_ENTRY: dict[str, Any] = {"rung": Rung.HOME_EXISTING, "events": ()}


def known(name: str, error: Packet, vip: str, to: int = IPIP4) -> Case:
    """An error about a flow that the connection table knows."""
    return existing(name, error, to, before=(tcp(vip), tcp(vip, "A")), named=tcp(vip))


TYPES4 = {
    "network unreachable": (3, 0),
    "host unreachable": (3, 1),
    "port unreachable": (3, 3),
    "fragmentation needed": (3, 4),
    "administratively prohibited": (3, 13),
    "time exceeded in transit": (11, 0),
    "reassembly time exceeded": (11, 1),
    "parameter problem": (12, 0),
}
TYPES6 = {
    "no route": ICMPv6DestUnreach(code=0),
    "port unreachable": ICMPv6DestUnreach(code=4),
    "packet too big": ICMPv6PacketTooBig(mtu=1280),
    "hop limit exceeded": ICMPv6TimeExceeded(code=0),
    "reassembly time exceeded": ICMPv6TimeExceeded(code=1),
    "parameter problem": ICMPv6ParamProblem(code=1, ptr=6),
}
ERRORS = [
    *(
        known(
            f"ICMP {name} goes to the backend of the quoted flow",
            error4(quote4(), type=t, code=c),
            V4,
        )
        for name, (t, c) in TYPES4.items()
    ),
    *(
        known(
            f"ICMPv6 {name} goes to the backend of the quoted flow", error6(quote6(), icmp=icmp), V6
        )
        for name, icmp in TYPES6.items()
    ),
    known(
        "An error goes 4-in-6 where its flow does",
        error4(quote4(VIP4[IPIP6]), VIP4[IPIP6]),
        VIP4[IPIP6],
        IPIP6,
    ),
    known(
        "An error goes 6-in-6 where its flow does",
        error6(quote6(VIP6[IPIP6]), VIP6[IPIP6]),
        VIP6[IPIP6],
        IPIP6,
    ),
    known(
        "An error goes by MAC rewrite where its flow does",
        error4(quote4(VIP4[L2]), VIP4[L2]),
        VIP4[L2],
        L2,
    ),
    known(
        "An error is redirected where its flow is",
        error6(quote6(VIP6[REDIRECTED]), VIP6[REDIRECTED]),
        VIP6[REDIRECTED],
        REDIRECTED,
    ),
    known("A router may quote more than the minimum", error4(quote4(size=548)), V4),
    known("An ICMPv6 error quotes as much as fits", error6(quote6(size=1232)), V6),
    known(
        "The quoted header may have options",
        error4(quote4(size=68, options=[IPOption_NOP()] * 40)),
        V4,
    ),
    known(
        "An error from the client itself",
        LINK / IP(src=CLIENT4, dst=V4) / ICMP(type=3, code=3) / quote4(),
        V4,
    ),
    known(
        "An error behind a VLAN tag",
        LINK / Dot1Q(vlan=5) / IP(src=HOP4, dst=V4) / ICMP(type=11) / quote4(),
        V4,
    ),
    known(
        "An error whose IP header has options",
        LINK / IP(src=HOP4, dst=V4, options=[IPOption_NOP()] * 4) / ICMP(type=11) / quote4(),
        V4,
    ),
    known("An error that quotes a first fragment", error4(quote4(flags="MF", id=5)), V4),
    known(
        "An ICMPv6 error that quotes a first fragment",
        error6(
            Raw(
                bytes(
                    IPv6(src=V6, dst=CLIENT6)
                    / IPv6ExtHdrFragment(m=1, id=5)
                    / TCP(sport=80, dport=1234)
                )[:56]
            )
        ),
        V6,
    ),
    known(
        "An ICMPv6 error that quotes an extension header",
        error6(Raw(bytes(IPv6(src=V6, dst=CLIENT6) / PAD / TCP(sport=80, dport=1234))[:64])),
        V6,
    ),
    known(
        "An ICMPv6 error behind an extension header",
        LINK / IPv6(src=HOP6, dst=V6) / PAD / ICMPv6PacketTooBig() / quote6(),
        V6,
    ),
    forwarded(
        "An error about an unknown flow goes home, and creates nothing",
        error4(quote4()),
        named=tcp(V4),
        **NO_ENTRY,
    ),
    forwarded(
        "An ICMPv6 error about an unknown flow goes home, and creates nothing",
        error6(quote6()),
        named=tcp(V6),
        **NO_ENTRY,
    ),
    forwarded(
        "An error about UDP of one port",
        error4(
            Raw(bytes(IP(src=MIXED4, dst=CLIENT4) / UDP(sport=54, dport=5353))),
            MIXED4,
            type=3,
            code=3,
        ),
        REDIRECTED,
        named=udp(MIXED4, dport=54),
        **NO_ENTRY,
    ),
    forwarded(
        "An error is no sign of life: its flow expires all the same",
        error4(quote4(ALONE4), ALONE4),
        before=(tcp(ALONE4), Age(9), error4(quote4(ALONE4), ALONE4), Age(2)),
        named=tcp(ALONE4),
        **NO_ENTRY,
    ),
]


def unusable(name: str, packet: Expression) -> Case:
    return dropped(name, packet, Verdict.DROP_ICMP_QUOTE)


def patched_length(packet: Packet, length: int) -> Packet:
    """The packet with a length that its IP header lies about: the rest is padding."""
    packet = packet.copy()
    if IP in packet:
        packet[IP].len = length
    else:
        packet[IPv6].plen = length
    return packet


def quoted6(packet: Packet) -> Packet:
    return error6(Raw(bytes(packet)))


QUOTES = [
    unusable("An error without a quote", error4(Raw(b""))),
    unusable("A quote that is cut off in its IP header", error4(quote4(size=19))),
    unusable("A quote with 7 bytes beyond its IP header", error4(quote4(size=27))),
    unusable(
        "A quote that is cut off in its options",
        error4(quote4(size=60, options=[IPOption_NOP()] * 40)),
    ),
    unusable("A quote of another IP version", error4(Raw(bytes(quote6())))),
    unusable("A quote with a header length of 4 words", error4(Raw(b"\x44" + bytes(quote4())[1:]))),
    unusable("A quote that somebody else sent", error4(quote4(NOT_VIP4))),
    unusable("A quote that another VIP sent", error4(quote4(VIP4[L2]))),
    unusable("A quote to the VIP, not from it", error4(Raw(bytes(tcp(V4))[14:42]))),
    unusable(
        "A quote of a port that nobody serves",
        error4(Raw(bytes(IP(src=MIXED4, dst=CLIENT4) / UDP(sport=55, dport=1))), MIXED4),
    ),
    unusable("A quote of a protocol that nobody serves", error4(quote4(MIXED4), MIXED4)),
    unusable("A quote of ICMP", error4(Raw(bytes(IP(src=V4, dst=CLIENT4) / ICMP(type=0))))),
    unusable(
        "A quote of GRE", error4(Raw(bytes(IP(src=V4, dst=CLIENT4, proto=47) / Raw(bytes(8)))))
    ),
    unusable("A quote of a later fragment", error4(quote4(frag=9, id=5))),
    unusable(
        "An error whose IP packet ends before its quote does",
        patched_length(error4(quote4()), 28 + 27),
    ),
    unusable("An ICMPv6 error without a quote", error6(Raw(b""))),
    unusable("An ICMPv6 quote that is cut off", error6(quote6(size=47))),
    unusable("An ICMPv6 quote that somebody else sent", error6(quote6(NOT_VIP6))),
    unusable(
        "An ICMPv6 quote of a later fragment",
        quoted6(
            IPv6(src=V6, dst=CLIENT6) / IPv6ExtHdrFragment(nh=6, offset=9, id=5) / Raw(bytes(8))
        ),
    ),
    unusable(
        "An ICMPv6 quote that is cut off in an extension header",
        quoted6(IPv6(src=V6, dst=CLIENT6, nh=60) / Raw(bytes(7))),
    ),
    unusable(
        "An ICMPv6 quote with seven extension headers",
        quoted6(IPv6(src=V6, dst=CLIENT6) / PAD / PAD / PAD / PAD / PAD / PAD / PAD / TCP()),
    ),
    unusable(
        "An ICMPv6 error whose packet ends before its quote does",
        patched_length(error6(quote6()), 8 + 47),
    ),
]

CASES: list[Case] = [*ECHO, *OTHERS, *ERRORS, *QUOTES]
