# SPDX-License-Identifier: Apache-2.0
"""Packet + backend -> frame on its way: outer header (RFC 2003, RFC 2473, RFC 4213) or MAC rewrite.

The director is a forwarder: it lowers the hop limit of the packet by one, and copies traffic class
and ECN to the outer header (RFC 6040). The outer IPv4 header forbids fragmentation. The outer
source is a configured prefix and bits of the flow's hash, so that the receiver's NIC spreads flows
over its queues.
"""

from limpet.datapath.abi import Encapsulation, Verdict
from limpet.datapath.reference.checksum import checksum, replaced
from limpet.datapath.reference.packet import Final, Packet
from limpet.datapath.reference.parse import IP4, IP4_HEADER, IP6
from limpet.datapath.reference.rows import Backend
from limpet.datapath.reference.settings import Settings

OUTER_HOP_LIMIT = 64
DONT_FRAGMENT = 0x4000
PROTOCOL_IN_IP = {4: 4, 6: 41}  # by family of the inner packet


def link_header(p: Packet, destination: bytes, source: bytes, ethertype: int) -> bytes:
    """Ethernet addresses, the tags that the packet came with, and an ethertype."""
    return destination + source + b"".join(p.tags) + ethertype.to_bytes(2, "big")


def ip4_header(
    length: int, protocol: int, addresses: bytes, traffic_class: int = 0, fragment: int = 0
) -> bytes:
    """An IPv4 header of our own; `length` is that of the whole packet."""
    header = bytearray(IP4_HEADER)
    header[0:2] = 0x45, traffic_class
    header[2:4] = (length & 0xFFFF).to_bytes(2, "big")
    header[6:8] = fragment.to_bytes(2, "big")
    header[8:10] = OUTER_HOP_LIMIT, protocol
    header[12:20] = addresses
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header)


def ip6_header(length: int, protocol: int, addresses: bytes, first_word: int = 6 << 28) -> bytes:
    """An IPv6 header of our own; `length` is that of the payload."""
    header = first_word.to_bytes(4, "big") + length.to_bytes(2, "big")
    return header + bytes((protocol, OUTER_HOP_LIMIT)) + addresses


def with_lower_hop_limit(p: Packet, packet: bytes) -> bytes:
    """The packet (from the IP header on) after one hop. IPv4: its checksum is updated, not made
    anew.
    """
    lowered = bytearray(packet)
    lowered[8 if p.family == 4 else 7] -= 1
    if p.family == 4:
        before, after = (int.from_bytes(x[8:10], "big") for x in (packet, lowered))
        check = int.from_bytes(packet[10:12], "big")
        lowered[10:12] = replaced(check, before, after).to_bytes(2, "big")
    return bytes(lowered)


def outer_header(settings: Settings, p: Packet, backend: Backend, entropy: int) -> bytes:
    """The header that carries the packet to its backend."""
    protocol = PROTOCOL_IN_IP[p.family]
    own = entropy.to_bytes(4, "little")
    if backend.encapsulation is Encapsulation.IPIP4:
        addresses = settings.outer_source4[:2] + own[:2] + backend.address
        length = p.length + IP4_HEADER
        return ip4_header(length, protocol, addresses, p.traffic_class, DONT_FRAGMENT)
    first_word = 6 << 28 | p.traffic_class << 20 | entropy & 0xFFFFF
    addresses = settings.outer_source6[:12] + own + backend.address
    return ip6_header(p.length, protocol, addresses, first_word)


def encapsulate(
    settings: Settings, frame: bytes, p: Packet, backend: Backend, entropy: int
) -> bytes:
    """The frame for a backend; ends the packet if it may not go on."""
    if p.hop_limit <= 1:
        raise Final(Verdict.HOP_LIMIT)
    if backend.mtu and p.length + backend.outer_length > backend.mtu:
        raise Final(Verdict.TOO_BIG)
    packet = with_lower_hop_limit(p, frame[p.link_length :])
    if backend.ifindex:
        destination, source = backend.next_hop, backend.source_mac
    elif backend.encapsulation is Encapsulation.L2:
        raise Final(Verdict.DROP_NEXT_HOP)
    else:  # the kernel resolves the next hop; it takes only frames addressed to it
        destination, source = frame[0:6], frame[6:12]
    if backend.encapsulation is Encapsulation.L2:
        return link_header(p, destination, source, p.ethertype) + packet
    ethertype = IP4 if backend.encapsulation is Encapsulation.IPIP4 else IP6
    outer = outer_header(settings, p, backend, entropy)
    return link_header(p, destination, source, ethertype) + outer + packet
