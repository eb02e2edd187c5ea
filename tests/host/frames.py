# SPDX-License-Identifier: Apache-2.0
"""Frames as clients, routers and attackers send them: where the fuzzer begins."""

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

CLIENT4, VIP4 = "198.51.100.5", "192.0.2.10"
CLIENT6, VIP6 = "2001:db8:1::5", "2001:db8:0:10::10"
ROUTER4, ROUTER6 = "203.0.113.1", "2001:db8:f::1"
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
IP4, IP6 = IP(src=CLIENT4, dst=VIP4, ttl=51), IPv6(src=CLIENT6, dst=VIP6, hlim=51)
TO_CLIENT4, TO_CLIENT6 = IP(src=VIP4, dst=CLIENT4), IPv6(src=VIP6, dst=CLIENT6)
SYN, DATAGRAM = TCP(sport=1025, dport=443, flags="S"), UDP(sport=1025, dport=53)
REPLY, ANSWER = TCP(sport=443, dport=1025), UDP(sport=53, dport=1025)
FROM4, FROM6 = IP(src=ROUTER4, dst=VIP4), IPv6(src=ROUTER6, dst=VIP6)

CORPUS: dict[str, Packet] = {
    "arp": LINK / ARP(),
    "tcp over ipv4": LINK / IP4 / SYN,
    "tcp with payload": LINK / IP4 / TCP(sport=1025, dport=443, flags="PA") / (b"x" * 300),
    "udp over ipv4": LINK / IP4 / DATAGRAM / b"question",
    "one tag": LINK / Dot1Q(vlan=7, prio=3) / IP4 / SYN,
    "two tags": LINK / Dot1AD(vlan=7) / Dot1Q(vlan=9) / IP6 / DATAGRAM,
    "three tags": LINK / Dot1AD(vlan=7) / Dot1Q(vlan=9) / Dot1Q(vlan=10) / IP4 / SYN,
    "options": LINK / IP(src=CLIENT4, dst=VIP4, options=[IPOption_NOP()] * 3) / SYN,
    "all options": LINK
    / IP(src=CLIENT4, dst=VIP4, options=[IPOption_RR(length=39, routers=["0.0.0.0"] * 9)])
    / DATAGRAM,
    "first fragment": LINK / IP(src=CLIENT4, dst=VIP4, flags="MF", id=77) / DATAGRAM / (b"x" * 64),
    "later fragment": LINK / IP(src=CLIENT4, dst=VIP4, frag=9, id=77, proto=17) / (b"x" * 64),
    "ping": LINK / IP4 / ICMP(type=8) / b"ping",
    "fragmentation needed": LINK / FROM4 / ICMP(type=3, code=4) / TO_CLIENT4 / REPLY,
    "time exceeded": LINK / FROM4 / ICMP(type=11) / TO_CLIENT4 / ANSWER,
    "parameter problem": LINK / FROM4 / ICMP(type=12) / TO_CLIENT4 / REPLY,
    "redirect": LINK / FROM4 / ICMP(type=5) / TO_CLIENT4 / REPLY,
    "error about a stranger": LINK / FROM4 / ICMP(type=3) / IP(src=ROUTER4, dst=CLIENT4) / REPLY,
    "tcp over ipv6": LINK / IP6 / SYN,
    "udp over ipv6": LINK / IP6 / DATAGRAM / b"question",
    "hop-by-hop": LINK / IP6 / IPv6ExtHdrHopByHop() / SYN,
    "extensions": LINK
    / IP6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrFragment(id=77, m=1)
    / DATAGRAM,
    "many extensions": LINK
    / IP6
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / SYN,
    "too many extensions": LINK
    / IP6
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrDestOpt()
    / SYN,
    "later fragment over ipv6": LINK
    / IP6
    / IPv6ExtHdrFragment(id=77, offset=9, nh=6)
    / (b"x" * 64),
    "atomic fragment": LINK / IP6 / IPv6ExtHdrFragment(id=77) / SYN,
    "ping over ipv6": LINK / IP6 / ICMPv6EchoRequest(data=b"ping"),
    "packet too big": LINK / FROM6 / ICMPv6PacketTooBig(mtu=1280) / TO_CLIENT6 / REPLY,
    "unreachable over ipv6": LINK / FROM6 / ICMPv6DestUnreach() / TO_CLIENT6 / ANSWER,
    "time exceeded over ipv6": LINK / FROM6 / ICMPv6TimeExceeded() / TO_CLIENT6 / REPLY,
    "error about extensions": LINK
    / FROM6
    / ICMPv6ParamProblem()
    / TO_CLIENT6
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrFragment(id=7, m=1)
    / REPLY,
    "other protocol": LINK / IP(src=CLIENT4, dst=VIP4, proto=132) / (b"x" * 20),
}
