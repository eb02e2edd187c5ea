# SPDX-License-Identifier: Apache-2.0
"""Which VIP a packet is for, and what TCP flags and UDP lengths make of it."""

from typing import Any

from scapy.all import (
    AH,
    GRE,
    SCTP,
    TCP,
    UDP,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
)

from limpet.datapath.abi import Rung, Verdict
from packets.case import LINK, Case, dropped, forwarded, ip, passed, tcp, udp
from packets.world import (
    EMPTY4,
    EMPTY6,
    IPIP4,
    MIXED4,
    NO_ROW4,
    PORTS4,
    REDIRECTED,
    VIP4,
    VIP6,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
NO_ENTRY: dict[str, Any] = {"rung": Rung.HOME_EXISTING, "events": ()}
MISSED: dict[str, Any] = {"rung": Rung.HOME_EXISTING}

SERVICES = [
    forwarded("A VIP of all TCP ports takes port 1", tcp(V4, dport=1)),
    forwarded("A VIP of all TCP ports takes port 65535", tcp(V6, dport=65535)),
    forwarded("A VIP of all UDP ports takes any port", udp(V4, dport=40000)),
    forwarded("Port 0 is a port of a VIP of all ports", udp(V4, dport=0)),
    forwarded("A VIP of one port wins over one of all ports", tcp(PORTS4, dport=80)),
    forwarded("Other ports go to the VIP of all ports", tcp(PORTS4, dport=81), REDIRECTED),
    forwarded("Two ports of an address may have two pools: the first", udp(MIXED4, dport=53)),
    forwarded(
        "Two ports of an address may have two pools: the second", udp(MIXED4, dport=54), REDIRECTED
    ),
    passed("A port that nobody serves is passed", udp(MIXED4, dport=55), Verdict.NO_SERVICE),
    passed("UDP to an address that serves TCP is passed", udp(PORTS4), Verdict.NO_SERVICE),
    passed(
        "TCP to an address that serves UDP is passed", tcp(MIXED4, dport=53), Verdict.NO_SERVICE
    ),
    passed(
        "SCTP to a VIP address is passed",
        LINK / ip(V4) / SCTP(sport=1, dport=80),
        Verdict.NO_SERVICE,
    ),
    passed(
        "GRE to a VIP address is passed", LINK / ip(V4) / GRE() / Raw(bytes(30)), Verdict.NO_SERVICE
    ),
    passed(
        "ICMPv6 in IPv4 is no ICMP",
        LINK / ip(V4, proto=58) / Raw(b"\x80" + bytes(20)),
        Verdict.NO_SERVICE,
    ),
    passed(
        "ICMP in IPv6 is no ICMP",
        LINK / ip(V6, nh=1) / Raw(b"\x08" + bytes(20)),
        Verdict.NO_SERVICE,
    ),
    passed(
        "Protocol 0 in IPv4 is no extension header",
        LINK / ip(V4, proto=0) / Raw(bytes(20)),
        Verdict.NO_SERVICE,
    ),
    passed(
        "An IPv6 routing header is passed",
        LINK / ip(V6) / IPv6ExtHdrRouting() / TCP(dport=80),
        Verdict.NO_SERVICE,
    ),
    passed(
        "An authentication header is passed",
        LINK / ip(V6) / AH(nh=6, icv=bytes(12)) / TCP(dport=80),
        Verdict.NO_SERVICE,
    ),
    passed("IPv6 without a next header is passed", LINK / ip(V6, nh=59), Verdict.NO_SERVICE),
    passed(
        "Behind a hop-by-hop header there may be nothing",
        LINK / ip(V6) / IPv6ExtHdrHopByHop(nh=59),
        Verdict.NO_SERVICE,
    ),
    dropped("A pool without eligible backends drops", tcp(EMPTY4), Verdict.DROP_NO_BACKEND),
    dropped("An IPv6 pool without eligible backends drops", udp(EMPTY6), Verdict.DROP_NO_BACKEND),
    dropped(
        "A slot that names a backend without a row drops",
        tcp(NO_ROW4),
        Verdict.DROP_UNKNOWN_BACKEND,
    ),
]

FLAGS = [
    forwarded("SYN opens a flow", tcp(V4)),
    forwarded("IPv6 SYN opens a flow", tcp(V6)),
    forwarded("SYN with ECN flags opens a flow", tcp(V4, "SEC")),
    forwarded("SYN with URG and PSH opens a flow", tcp(V4, "SUP")),
    forwarded("SYN with data opens a flow (fast open)", tcp(V4) / Raw(b"GET /")),
    forwarded(
        "SYN with options opens a flow",
        LINK / ip(V4) / TCP(sport=9, dport=80, options=[("MSS", 1460), ("Timestamp", (1, 0))]),
    ),
    forwarded(
        "ACK of an unknown flow goes home, counted as existing, and gets an entry",
        tcp(V4, "A"),
        **MISSED,
    ),
    forwarded("IPv6 ACK of an unknown flow goes home, and gets an entry", tcp(V6, "PA"), **MISSED),
    forwarded("SYN and ACK together come from no client's opening", tcp(V4, "SA"), **MISSED),
    forwarded("No flags at all is no opening", tcp(V4, ""), **MISSED),
    forwarded("PSH and URG alone are no opening", tcp(V4, "PU"), **MISSED),
    forwarded("FIN of an unknown flow goes home and gets no entry", tcp(V4, "FA"), **NO_ENTRY),
    forwarded("RST of an unknown flow goes home and gets no entry", tcp(V4, "R"), **NO_ENTRY),
    forwarded("IPv6 RST of an unknown flow goes home and gets no entry", tcp(V6, "R"), **NO_ENTRY),
    forwarded("SYN and FIN together get no entry", tcp(V4, "SF"), **NO_ENTRY),
    forwarded("SYN and RST together get no entry", tcp(V4, "SR"), **NO_ENTRY),
    forwarded("All flags together get no entry", tcp(V4, "FSRPAUEC"), **NO_ENTRY),
    forwarded(
        "A TCP header that says to be longer than its segment is the receiver's to judge",
        LINK / ip(V4) / TCP(sport=9, dport=80, dataofs=15),
    ),
    forwarded(
        "A TCP checksum is the receiver's to judge",
        LINK / ip(V4) / TCP(sport=9, dport=80, chksum=0xBAD),
    ),
]

LENGTHS = [
    forwarded("An empty datagram is a datagram", udp(V4, size=0)),
    forwarded("IPv6: an empty datagram is a datagram", udp(V6, size=0)),
    forwarded(
        "UDP without checksum is forwarded", LINK / ip(V4) / UDP(sport=9, dport=53, chksum=0)
    ),
    forwarded(
        "UDP shorter than its IP packet is forwarded",
        LINK / ip(V4) / UDP(sport=9, dport=53, len=10) / Raw(bytes(20)),
    ),
    forwarded(
        "UDP that says to be longer than its packet is the receiver's to judge",
        LINK / ip(V4) / UDP(sport=9, dport=53, len=500) / Raw(bytes(20)),
    ),
    dropped(
        "UDP of length 7 is malformed",
        LINK / ip(V4) / UDP(sport=9, dport=53, len=7),
        Verdict.DROP_MALFORMED,
    ),
    dropped(
        "UDP of length 0 is malformed",
        LINK / ip(V4) / UDP(sport=9, dport=53, len=0),
        Verdict.DROP_MALFORMED,
    ),
    dropped(
        "IPv6 UDP of length 7 is malformed",
        LINK / ip(V6) / UDP(sport=9, dport=53, len=7),
        Verdict.DROP_MALFORMED,
    ),
    dropped(
        "IPv6 UDP of length 0, a jumbogram's, is malformed",
        LINK / ip(V6) / UDP(sport=9, dport=53, len=0),
        Verdict.DROP_MALFORMED,
    ),
]

CASES: list[Case] = [*SERVICES, *FLAGS, *LENGTHS]
