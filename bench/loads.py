# SPDX-License-Identifier: Apache-2.0
"""Frames that the benchmarks send, and where a flow's number is mixed into them."""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bench.pulse import Load

K, M = 1 << 10, 1 << 20
VIP4, VIP6 = "192.0.2.10", "2001:db8:0:10::10"
LINK = Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:02")
ETHERNET, IP4, IP6, ICMP_HEADER = 14, 20, 40, 8
WINDOW = 14  # offset in a TCP header of what no flow depends on


def frame(packet: Packet) -> bytes:
    return bytes(LINK / packet)


def client4(
    packet: Packet, flows: int = 1, *, scattered: bool = True, by_client: bool = False
) -> Load:
    """IPv4: source address and source port vary, 16 flows a client unless `by_client`."""
    return Load(frame(packet), ETHERNET + 12, ETHERNET + IP4, flows, scattered, by_client)


def ports4(packet: Packet, flows: int = 1) -> Load:
    """IPv4: source and destination port vary, the client is one."""
    return Load(frame(packet), ETHERNET + IP4, ETHERNET + IP4 + WINDOW, flows, by_client=True)


def client6(packet: Packet, flows: int = 1) -> Load:
    """IPv6: the second 32 bits of the source address and the source port vary."""
    return Load(frame(packet), ETHERNET + 8 + 4, ETHERNET + IP6, flows)


def tcp4(flags: str, target: str = VIP4, port: int = 1024) -> Packet:
    return IP(src="10.0.0.0", dst=target) / TCP(sport=port, dport=443, flags=flags)


def tcp6(flags: str, target: str = VIP6) -> Packet:
    return IPv6(src="2001:db8:8000::1", dst=target) / TCP(sport=1024, dport=443, flags=flags)


def udp4() -> Packet:
    return IP(src="10.0.0.0", dst=VIP4) / UDP(sport=1024, dport=53)


def fragmentation_needed() -> Load:
    """An ICMP error about the flow of tcp4, with the shortest quote a router may send."""
    quoted = IP(src=VIP4, dst="10.0.0.0") / TCP(sport=443, dport=1024)
    packet = IP(src="198.51.100.1", dst=VIP4) / ICMP(type=3, code=4) / bytes(quoted)[: IP4 + 8]
    start = ETHERNET + IP4 + ICMP_HEADER
    return Load(frame(packet), start + 16, start + IP4 + 2)


def packet_too_big() -> Load:
    """The same for the flow of tcp6."""
    quoted = IPv6(src=VIP6, dst="2001:db8:8000::1") / TCP(sport=443, dport=1024)
    packet = IPv6(src="2001:db8:ffff::1", dst=VIP6) / ICMPv6PacketTooBig()
    start = ETHERNET + IP6 + ICMP_HEADER
    return Load(frame(packet / bytes(quoted)[: IP6 + 8]), start + 24 + 4, start + IP6 + 2)
