# SPDX-License-Identifier: Apache-2.0
"""Broken packets: cut off at every layer, and headers that contradict themselves or the frame.

What is broken before the destination is known is passed; what is broken in a packet for a VIP is
dropped.
"""

from scapy.all import (
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    ICMPv6EchoRequest,
    IPOption_NOP,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
    Raw,
)
from scapy.layers.inet import ICMP

from limpet.datapath.abi import Verdict
from packets.case import LINK, Case, cut, dropped, ip, passed, patched, tcp
from packets.world import IPIP4, NOT_VIP4, VIP4, VIP6

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
TAGGED = LINK / Dot1AD(vlan=9) / Dot1Q(vlan=5) / ip(V4) / TCP(sport=1, dport=2)
OPTIONS4 = tcp(V4, options=[IPOption_NOP()] * 40)
PAD = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
EXTENDED = LINK / ip(V6) / PAD / UDP(sport=1, dport=2)
FRAGMENT6 = LINK / ip(V6) / IPv6ExtHdrFragment(nh=17, m=1, id=9) / UDP(sport=1, dport=2)


def unreadable(name: str, frame: bytes) -> Case:
    """Broken before it is known to be for a VIP."""
    return passed(name, frame, Verdict.PASS_MALFORMED)


def broken(name: str, frame: bytes) -> Case:
    """Broken, and for a VIP."""
    return dropped(name, frame, Verdict.DROP_MALFORMED)


LINKS = [
    unreadable("A frame of nothing but an Ethernet header", cut(tcp(V4), 14)),
    unreadable("A VLAN tag is cut off", cut(TAGGED, 16)),
    unreadable("A second VLAN tag is cut off", cut(TAGGED, 20)),
    unreadable("Nothing follows two VLAN tags", cut(TAGGED, 22)),
]

NETWORKS = [
    unreadable("An IPv4 header is cut off before its addresses", cut(tcp(V4), 26)),
    unreadable("An IPv4 header lacks its last byte", cut(tcp(V4), 33)),
    unreadable("Version 6 under the ethertype of IPv4", patched(tcp(V4), b14=0x65)),
    unreadable("Version 0 under the ethertype of IPv4", patched(tcp(V4), b14=0x05)),
    unreadable("An IPv4 header length of 4 words", patched(tcp(V4), b14=0x44)),
    unreadable("An IPv4 header length of 0", patched(tcp(V4), b14=0x40)),
    unreadable("An IPv6 header is cut off before its destination", cut(tcp(V6), 14 + 30)),
    unreadable("An IPv6 header lacks its last byte", cut(tcp(V6), 14 + 39)),
    unreadable("Version 4 under the ethertype of IPv6", patched(tcp(V6), b14=0x45)),
    passed(
        "Broken behind an IPv4 header to another address is not our business",
        cut(tcp(NOT_VIP4), 40),
    ),
    broken("IPv4 total length beyond the frame", bytes(LINK / ip(V4, len=41) / TCP())),
    broken("IPv4 total length of 65535", bytes(LINK / ip(V4, len=65535) / TCP())),
    broken("IPv4 total length of 0", bytes(LINK / ip(V4, len=0) / TCP())),
    broken("IPv4 total length less than its header", bytes(LINK / ip(V4, len=19) / TCP())),
    broken(
        "IPv4 total length of a header alone is not believed to hold TCP",
        bytes(LINK / ip(V4, len=20) / TCP()),
    ),
    broken("IPv4 total length ends in the TCP header", bytes(LINK / ip(V4, len=39) / TCP())),
    broken("IPv4 total length ends in the UDP header", bytes(LINK / ip(V4, len=27) / UDP())),
    broken(
        "IPv4 total length less than its options",
        bytes(LINK / ip(V4, len=59, options=[IPOption_NOP()] * 40) / TCP()),
    ),
    broken("IPv4 options are cut off", cut(OPTIONS4, 14 + 50)),
    broken("IPv4 options push the TCP header out of the frame", patched(tcp(V4), b14=0x4F)),
    broken("IPv6 payload length beyond the frame", bytes(LINK / ip(V6, plen=21) / TCP())),
    broken("IPv6 payload length of 65535", bytes(LINK / ip(V6, plen=65535) / TCP())),
    broken("IPv6 payload length of 0, a jumbogram's", bytes(LINK / ip(V6, plen=0) / TCP())),
    broken("IPv6 payload length ends in the TCP header", bytes(LINK / ip(V6, plen=19) / TCP())),
    broken("IPv6 payload length ends in the UDP header", bytes(LINK / ip(V6, plen=7) / UDP())),
    broken("An IPv6 payload that is empty, where TCP is said to be", bytes(LINK / ip(V6, nh=6))),
]

EXTENSIONS = [
    broken("An extension header is cut off", bytes(LINK / ip(V6, nh=60) / Raw(bytes(7)))),
    broken(
        "Extension headers of more than 2,048 bytes",
        LINK / ip(V6, nh=60) / Raw(bytes([17, 255]) + bytes(2046)) / UDP(sport=1234, dport=80),
    ),
    broken(
        "An extension header longer than the frame",
        bytes(LINK / ip(V6, nh=0) / Raw(b"\x06\xff" + bytes(60))),
    ),
    broken(
        "UDP behind an extension header is cut off",
        bytes(LINK / ip(V6, nh=60) / Raw(bytes(EXTENDED)[54:70] + bytes(7))),
    ),
    broken(
        "Payload length ends in the extension header",
        bytes(LINK / ip(V6, nh=60, plen=8) / Raw(bytes(EXTENDED)[54:])),
    ),
    broken("A fragment header is cut off", bytes(LINK / ip(V6, nh=44) / Raw(bytes(7)))),
    broken(
        "A first IPv6 fragment that is too short for UDP",
        bytes(LINK / ip(V6, nh=44) / Raw(bytes(FRAGMENT6)[54:69])),
    ),
    broken(
        "A later IPv6 fragment whose payload length ends in its fragment header",
        bytes(LINK / ip(V6, plen=4) / IPv6ExtHdrFragment(nh=17, offset=9, id=9) / Raw(bytes(8))),
    ),
]

TRANSPORTS = [
    broken("A TCP header lacks its last byte", bytes(LINK / ip(V4, proto=6) / Raw(bytes(19)))),
    broken("A TCP header of nothing but ports", bytes(LINK / ip(V4, proto=6) / Raw(bytes(4)))),
    broken("An IPv6 TCP header lacks its last byte", bytes(LINK / ip(V6, nh=6) / Raw(bytes(19)))),
    broken("A TCP header of 4 words", bytes(LINK / ip(V4) / TCP(dataofs=4))),
    broken("A TCP header of 0 words", bytes(LINK / ip(V6) / TCP(dataofs=0))),
    broken("A UDP header lacks its last byte", bytes(LINK / ip(V4, proto=17) / Raw(bytes(7)))),
    broken("An IPv6 UDP header lacks its last byte", bytes(LINK / ip(V6, nh=17) / Raw(bytes(7)))),
    broken(
        "A first IPv4 fragment too short for TCP",
        bytes(LINK / ip(V4, proto=6, flags="MF") / Raw(bytes(16))),
    ),
    broken(
        "An ICMP header lacks its last byte",
        bytes(LINK / ip(V4, proto=1) / Raw(b"\x08" + bytes(6))),
    ),
    broken(
        "An ICMPv6 header lacks its last byte",
        bytes(LINK / ip(V6, nh=58) / Raw(b"\x80" + bytes(6))),
    ),
    broken("IPv4 total length ends in the ICMP header", bytes(LINK / ip(V4, len=27) / ICMP())),
    broken(
        "IPv6 payload length ends in the ICMP header",
        bytes(LINK / ip(V6, plen=7) / ICMPv6EchoRequest()),
    ),
]

CASES: list[Case] = [*LINKS, *NETWORKS, *EXTENSIONS, *TRANSPORTS]
