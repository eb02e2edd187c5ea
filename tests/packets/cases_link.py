# SPDX-License-Identifier: Apache-2.0
"""Frames that are not ours, and VLAN tags."""

from scapy.all import (
    ARP,
    ICMP,
    IP,
    LLC,
    SNAP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPOption_Router_Alert,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
)

from limpet.datapath.abi import Verdict
from packets.case import LINK, Case, forwarded, ip, passed, tcp, udp
from packets.world import (
    CLIENT4,
    CLIENT6,
    IPIP4,
    IPIP6,
    L2,
    NOT_VIP4,
    NOT_VIP6,
    REDIRECTED,
    ROUTER,
    VIP4,
    VIP6,
)

SYN = TCP(sport=1234, dport=80, flags="S")
IGMP = bytes.fromhex("16000904e0000016")

NOT_IP = [
    passed("ARP is passed", LINK / ARP(pdst=VIP4[IPIP4]), Verdict.NOT_IP),
    passed(
        "LLDP is passed",
        Ether(src=ROUTER, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(b"\x02\x07\x04" + bytes(40)),
        Verdict.NOT_IP,
    ),
    passed(
        "MPLS is passed",
        Ether(src=ROUTER, dst=ROUTER, type=0x8847) / Raw(bytes(60)),
        Verdict.NOT_IP,
    ),
    passed(
        "An 802.3 frame with LLC and SNAP is passed",
        Dot3(src=ROUTER, dst="01:80:c2:00:00:00", len=50) / LLC() / SNAP() / Raw(bytes(42)),
        Verdict.NOT_IP,
    ),
    passed(
        "A third VLAN tag is not looked into",
        LINK / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / ip(VIP4[IPIP4]) / SYN,
        Verdict.NOT_IP,
    ),
]

NOT_VIP = [
    passed("IPv4 to another address is passed", tcp(NOT_VIP4)),
    passed("IPv6 to another address is passed", tcp(NOT_VIP6)),
    passed(
        "A tagged packet to another address is passed", LINK / Dot1Q(vlan=5) / ip(NOT_VIP4) / SYN
    ),
    passed(
        "IGMP with router alert is passed",
        LINK
        / IP(src=CLIENT4, dst="224.0.0.22", ttl=1, proto=2, options=[IPOption_Router_Alert()])
        / Raw(IGMP),
    ),
    passed(
        "IPv4 with options to another address is passed",
        tcp(NOT_VIP4, options=[IPOption_Router_Alert()]),
    ),
    passed("A first fragment to another address is passed", udp(NOT_VIP4, flags="MF", id=9)),
    passed("A later fragment to another address is passed", udp(NOT_VIP4, frag=10, id=9)),
    passed(
        "A later IPv6 fragment to another address is passed",
        LINK / ip(NOT_VIP6) / IPv6ExtHdrFragment(nh=17, offset=10, id=9) / Raw(bytes(40)),
    ),
    passed("A ping of another address is passed", LINK / ip(NOT_VIP4) / ICMP()),
    passed("An IPv6 ping of another address is passed", LINK / ip(NOT_VIP6) / ICMPv6EchoRequest()),
    passed(
        "Neighbour solicitation for a VIP goes to a multicast address, and is passed",
        LINK / IPv6(src=CLIENT6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=VIP6[IPIP4]),
    ),
    passed("A packet from a VIP is not one to a VIP", tcp(NOT_VIP4, client=VIP4[IPIP4])),
    passed("A spent TTL to another address is passed", tcp(NOT_VIP4, hops=1)),
    passed(
        "A packet that is encapsulated already is passed",
        LINK / IP(src=CLIENT4, dst=NOT_VIP4) / IP(src=CLIENT4, dst=VIP4[IPIP4]) / SYN,
    ),
]

TAGS = [
    forwarded(
        "A VLAN tag goes on the frame to the backend", LINK / Dot1Q(vlan=5) / ip(VIP4[IPIP4]) / SYN
    ),
    forwarded(
        "A VLAN tag keeps its priority and drop eligible bits",
        LINK / Dot1Q(prio=5, dei=1, vlan=4094) / ip(VIP4[IPIP4]) / SYN,
    ),
    forwarded(
        "A priority tag, VLAN 0, is a tag", LINK / Dot1Q(prio=3, vlan=0) / ip(VIP4[IPIP4]) / SYN
    ),
    forwarded(
        "Two VLAN tags go on the frame to the backend",
        LINK / Dot1AD(vlan=100) / Dot1Q(vlan=5) / ip(VIP4[IPIP4]) / SYN,
    ),
    forwarded(
        "Two 802.1Q tags are as good as 802.1ad",
        LINK / Dot1Q(vlan=100) / Dot1Q(vlan=5) / ip(VIP4[IPIP4]) / SYN,
    ),
    forwarded("IPv6 behind a VLAN tag is balanced", LINK / Dot1Q(vlan=5) / ip(VIP6[IPIP4]) / SYN),
    forwarded(
        "IPv6 behind two VLAN tags goes 6-in-6",
        LINK / Dot1AD(vlan=100) / Dot1Q(vlan=5) / ip(VIP6[IPIP6]) / SYN,
        IPIP6,
    ),
    forwarded(
        "A tagged IPv4 packet goes 4-in-6: the ethertype behind the tag changes",
        LINK / Dot1Q(vlan=5) / ip(VIP4[IPIP6]) / SYN,
        IPIP6,
    ),
    forwarded(
        "MAC rewrite keeps VLAN tags",
        LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / ip(VIP4[L2]) / SYN,
        L2,
    ),
    forwarded(
        "A tagged packet is redirected with its tag",
        LINK / Dot1Q(vlan=5) / ip(VIP4[REDIRECTED]) / UDP(sport=1, dport=2),
        REDIRECTED,
    ),
]

CASES: list[Case] = [*NOT_IP, *NOT_VIP, *TAGS]
