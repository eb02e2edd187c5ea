# SPDX-License-Identifier: Apache-2.0
"""Segment: the TCP segments that end a flow whose two ends have not asked for it, as IP packets.

A RST counts only if it has the very sequence number that its receiver waits for (RFC 5961), and a
director, which sees one direction and keeps no numbers, does not know it. So it asks: `elicit`
makes two ACKs with sequence numbers half the number space apart. At least one of them is outside
any window, and TCP answers that with an ACK of its exact numbers (RFC 9293, section 3.10.7.4): what
it sends next, which is the number of the RST to the backend, and what it waits for.

Pure: bytes from numbers. Sending and repeating is in daemon/resets.py.
"""

import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address

from limpet.core.model import Address

TCP = 6
HOP_LIMIT = 64
DONT_FRAGMENT = 0x4000
HEADER_WORDS = 5  # of TCP, without options
HALF = 1 << 31
NUMBERS = 1 << 32


class Flag(IntFlag):
    """Flags of a TCP header."""

    RST = 0x04
    ACK = 0x10


@dataclass(frozen=True, slots=True)
class Flow:
    """A TCP flow of a client to a VIP, and the id of the backend that has its other end."""

    client: Address
    client_port: int
    vip: Address
    vip_port: int
    backend: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a segment of the client says, apart from data."""

    sequence: int
    acknowledged: int


def elicit(flow: Flow, base: int, acknowledged: int) -> tuple[bytes, bytes]:
    """Two ACKs from the VIP; the client answers at least one. Both numbers are any, at random."""
    first = _from_vip(flow, Numbers(base % NUMBERS, acknowledged), Flag.ACK)
    return first, _from_vip(flow, Numbers((base + HALF) % NUMBERS, acknowledged), Flag.ACK)


def reset_client(flow: Flow, said: Numbers) -> bytes:
    """The RST from the VIP to a client that has just said these numbers."""
    return _from_vip(flow, Numbers(said.acknowledged, 0), Flag.RST)


def reset_backend(flow: Flow, said: Numbers) -> tuple[bytes, bytes]:
    """RSTs from the client to the VIP, for the backend. It takes the one, or else the other.

    Its number is exact, unless the client's segment was a keep-alive, which repeats the last one
    that the backend has had (RFC 9293, section 3.8.4): then the next one is.
    """
    following = Numbers((said.sequence + 1) % NUMBERS, 0)
    return _from_client(flow, Numbers(said.sequence, 0)), _from_client(flow, following)


def _from_vip(flow: Flow, numbers: Numbers, flags: Flag) -> bytes:
    return packet((flow.vip, flow.vip_port), (flow.client, flow.client_port), numbers, flags)


def _from_client(flow: Flow, numbers: Numbers) -> bytes:
    return packet((flow.client, flow.client_port), (flow.vip, flow.vip_port), numbers, Flag.RST)


def packet(
    source: tuple[Address, int], target: tuple[Address, int], numbers: Numbers, flags: Flag
) -> bytes:
    """An IP packet with a TCP header and nothing else. Both addresses are of one family."""
    (source_address, source_port), (target_address, target_port) = source, target
    addresses = source_address.packed + target_address.packed
    ports = struct.pack("!HHII", source_port, target_port, numbers.sequence, numbers.acknowledged)
    fields = ports + struct.pack("!BBH", HEADER_WORDS << 4, flags, 0)
    length = len(fields) + 4  # with checksum and urgent pointer
    pseudo = addresses + struct.pack("!II", length, TCP)
    segment = fields + checksum(pseudo + fields) + b"\0\0"
    if isinstance(source_address, IPv4Address):
        start = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, DONT_FRAGMENT, HOP_LIMIT, TCP)
        return start + checksum(start + addresses) + addresses + segment
    return struct.pack("!IHBB", 6 << 28, length, TCP, HOP_LIMIT) + addresses + segment


def checksum(data: bytes) -> bytes:
    """RFC 1071, over data of even length; the field itself left out."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
