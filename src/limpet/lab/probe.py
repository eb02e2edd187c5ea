# SPDX-License-Identifier: Apache-2.0
"""Packets that prove that a lab forwards, sent as its hosts would send them.

`Listener` waits on a client for ICMP echo replies from a VIP. Two questions are asked with it:
* the director answers an echo request to the VIP, so its program is attached and knows the VIP;
* an echo request, encapsulated as the director does it and sent from its namespace to one backend,
  is answered by that backend's kernel: agent, VIP on the backend and the way back all work.
Neither makes a flow, so a fresh lab has an empty connection table.
"""

import os
import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

from limpet.core.model import Address
from limpet.lab import namespace

ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
IN_IP = {4: socket.IPPROTO_IPIP, 6: socket.IPPROTO_IPV6}  # protocol number of an inner header
HOP_LIMIT = 64


class Listener:
    """Hears echo replies for one address of a client."""

    def __init__(self, netns: str, client: Address) -> None:
        self.client = client
        self.id = int.from_bytes(os.urandom(2))
        with namespace.inside(netns):
            self.socket = socket.socket(
                FAMILY[client.version], socket.SOCK_RAW, ICMP[client.version]
            )
        self.socket.bind((str(client), 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def ask(self, vip: Address, sequence: int) -> None:
        """An ordinary echo request to the VIP."""
        self.socket.sendto(self.request(vip, sequence), (str(vip), 0))

    def request(self, vip: Address, sequence: int) -> bytes:
        return echo(ECHO_REQUEST[vip.version], self.client, vip, (self.id, sequence))

    def hears(self, vip: Address, sequence: int, wait_s: float) -> bool:
        """True if the reply to this request comes in time."""
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self.socket], [], [], left)[0]:
                return False
            data, sender = self.socket.recvfrom(2048)
            message = data[(data[0] & 15) * 4 :] if vip.version == 4 else data
            kind, _, _, identity, number = struct.unpack_from("!BBHHH", message)
            if (kind, identity, number) == (ECHO_REPLY[vip.version], self.id, sequence) and (
                sender[0] == str(vip)
            ):
                return True
        return False


def send_encapsulated(netns: str, source: Address, backend: Address, inner: bytes) -> None:
    """Send an IP packet inside another one from the namespace, as the director would."""
    version = inner[0] >> 4
    packet = header(source, backend, IN_IP[version], len(inner)) + inner
    with namespace.inside(netns):
        outlet = socket.socket(FAMILY[backend.version], socket.SOCK_RAW, socket.IPPROTO_RAW)
    with outlet:
        outlet.sendto(packet, (str(backend), 0))


def packet(client: Address, vip: Address, payload: bytes) -> bytes:
    return header(client, vip, ICMP[vip.version], len(payload)) + payload


def header(source: Address, target: Address, protocol: int, length: int) -> bytes:
    if target.version == 6:
        fields = struct.pack("!IHBB", 6 << 28, length, protocol, HOP_LIMIT)
        return fields + source.packed + target.packed
    fields = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0, HOP_LIMIT, protocol)
    addresses = source.packed + target.packed
    return fields + checksum(fields + addresses) + addresses


def echo(kind: int, source: Address, target: Address, name: tuple[int, int]) -> bytes:
    """An ICMP or ICMPv6 echo message; `name` is its identifier and sequence number."""
    body = struct.pack("!HH", *name) + b"limpet"
    covered = struct.pack("!BB", kind, 0) + body
    if target.version == 6:
        length = struct.pack("!II", len(body) + 4, socket.IPPROTO_ICMPV6)
        covered += source.packed + target.packed + length
    return struct.pack("!BB", kind, 0) + checksum(covered) + body


def checksum(data: bytes) -> bytes:
    """RFC 1071, over data of even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
