# SPDX-License-Identifier: Apache-2.0
"""What tests see of a running lab: counters of the director and of hosts, frames on a wire.

All of it is read, never assumed: the director's own counters over its API, what a host's kernel
counted (/proc/net/snmp), and the frames that the router puts on the link to a host.
"""

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limpet.api.client import Client
from limpet.api.places import places
from limpet.core.errors import LimpetError
from limpet.core.model import Address
from limpet.lab import namespace
from limpet.lab.state import State

DIRECTOR = "fra-d1"
BACKENDS = ("b1", "b2", "b3")
PORT, UDP_PORT, BULK_PORT = 7_000, 7_001, 7_002
ETH_P_ALL, ETH_P_IPV4, ETH_P_IPV6 = 3, 0x0800, 0x86DD
ETHERNET = 14
MEMBER = ("cluster", "directory", "ownership")  # parts of the status of a director in a cluster


def director(lab: str) -> Client:
    return Client(places(f"{lab}-{DIRECTOR}").socket)


def counters(lab: str) -> Counter[str]:
    """Verdicts, rungs and events by name; no name is in two of them."""
    read = director(lab).get("/v1/counters")
    rows = [row for kind in ("verdicts", "rungs", "events") for row in read[kind]]
    found = Counter({row["name"]: row["value"] for row in rows})
    assert len(found) == len(rows)
    return found


def figures(lab: str, name: str) -> dict[str, object]:
    """All that a director counted and that is not 0, for who reads of a failure."""
    client = Client(places(f"{lab}-{name}").socket)
    try:
        read, status = client.get("/v1/counters"), client.get("/v1/status")
    except LimpetError as error:
        return {"error": str(error)}
    found = {row["name"]: row["value"] for kind in ("rungs", "events") for row in read[kind]}
    for part in MEMBER:
        found |= {f"{part}.{name}": value for name, value in status.get(part, {}).items()}
    return {name: value for name, value in found.items() if value}


class Moved(Counter[str]):
    """By how much each counter moved while `counting`; 0 is left out."""

    @property
    def new_flows(self) -> int:
        """Of new clients, and of those whose session lives."""
        return self["home_new"] + self["session_new"]


@contextlib.contextmanager
def counting(lab: str) -> Iterator[Moved]:
    """The director's counters over the body; filled when it ends."""
    before, moved = counters(lab), Moved()
    yield moved
    moved.update(counters(lab) - before)


def backend_of(lab: str, client: Address, vip: Address) -> str:
    """Where the director says that a new flow of this client goes."""
    answer = director(lab).get("/v1/where", client=client, vip=vip, protocol="tcp")
    return str(answer["backend"] or answer["home"])


def sources(now: State, version: int, host: str = "client2") -> list[Address]:
    every = now.topology.addresses(now.topology.find(host))
    return [address for address in every if address.version == version]


def vip_of(now: State, version: int, affinity: str = "client") -> Address:
    return next(
        vip.address
        for vip in now.topology.vip
        if vip.address.version == version and vip.affinity == affinity
    )


def client_of(now: State, vip: Address, backend: str, skip: int = 0) -> Address:
    """An address of client2 whose home is that backend; `skip` that many of them."""
    fitting = (s for s in sources(now, vip.version) if backend_of(now.lab, s, vip) == backend)
    for _ in range(skip):
        next(fitting)
    return next(fitting)


def snmp(lab: str, host: str) -> dict[str, int]:
    """Counters of the host's kernel: {"TcpOutRsts": 3, "Icmp6InPktTooBigs": 0, ...}."""
    with namespace.inside(f"{lab}-{host}"):
        net = Path("/proc/thread-self/net")
        lines = (net / "snmp").read_text().splitlines()
        pairs = (net / "snmp6").read_text().split()
    found = {name: int(value) for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        kind, _, rest = names.partition(": ")
        found |= {
            kind + name: int(value)
            for name, value in zip(rest.split(), values.split()[1:], strict=True)
        }
    return found


def snmp_of(lab: str, hosts: tuple[str, ...], key: str) -> dict[str, int]:
    return {host: snmp(lab, host)[key] for host in hosts}


class Wire:
    """Frames that the router sends to a host, since it was made."""

    def __init__(self, lab: str, host: str) -> None:
        with namespace.inside(f"{lab}-router"):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.bind((host, ETH_P_ALL))
        self._socket.setblocking(False)

    def packets(self) -> Iterator[bytes]:
        """IP packets seen and not yet read."""
        while True:
            try:
                frame, sender = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return
            if sender[2] == socket.PACKET_OUTGOING:
                yield frame[ETHERNET:]

    def encapsulations(self) -> Counter[str]:
        """{"6-in-4": packets}, inner and outer IP version."""
        found: Counter[str] = Counter()
        for packet in self.packets():
            outer = packet[0] >> 4
            protocol = packet[9] if outer == 4 else packet[6]
            inner = {socket.IPPROTO_IPIP: 4, socket.IPPROTO_IPV6: 6}.get(protocol)
            if inner and outer in (4, 6):
                found[f"{inner}-in-{outer}"] += 1
        return found

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def icmp_error(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, str]:
    """(type, code, who sent it) from the error queue of a socket (struct sock_extended_err)."""
    (data,) = (data for level, kind, data in ancillary if kind in (11, 25))  # IP(V6)_RECVERR
    kind, code = data[5], data[6]
    (family,) = struct.unpack_from("=H", data, 16)
    place = slice(20, 24) if family == socket.AF_INET else slice(24, 40)
    return kind, code, socket.inet_ntop(family, data[place])
