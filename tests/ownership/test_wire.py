# SPDX-License-Identifier: Apache-2.0
"""A packet on the wire: it arrives at a director that does not know its flow, and leaves for the
backend that another director knows. Real interfaces, sockets between namespaces, and loss.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import count

import pytest
from pyroute2 import NetlinkError
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from limpet.core.errors import DatapathError
from limpet.core.model import Image
from limpet.datapath import bpf
from limpet.datapath.inject import inject
from limpet.lab import namespace, offload
from ownership.directors import Director, directors, introduce, running, unsure, until
from packets.case import LINK, tcp
from packets.world import BACKENDS, CLIENT4, IPIP4, L2, REDIRECTED, VIP4, VIP6, Switches

pytestmark = pytest.mark.kernel
NUMBERS = count(1)
MESH = {"a": "10.255.0.1", "b": "10.255.0.2"}
PORT = 7_946
ETH_P_ALL = 3
HEAR_S = 2.0
AFTER_HOPS = 12  # bytes of either IP header up to the hop limit and the checksum
XDP_MODES = {"native": bpf.XDP_NATIVE, "generic": bpf.XDP_GENERIC}


class Wire:
    """Namespaces of two directors with a link between them, and one with everybody else: clients
    and backends, at the other end of a's interface."""

    def __init__(self) -> None:
        prefix = f"own{os.getpid()}-{next(NUMBERS)}"
        self.a, self.b, self.world = (f"{prefix}-{name}" for name in ("a", "b", "world"))

    def build(self) -> None:
        for name in (self.a, self.b, self.world):
            namespace.create(name)
        self.ifindex = self._link(self.a, "eth0", self.world)
        self._link(self.a, "mesh", self.b)
        for name, address in ((self.a, MESH["a"]), (self.b, MESH["b"])):
            with namespace.netlink(name) as link:
                index = link.link_lookup(ifname="mesh")[0]
                link.addr("add", index=index, address=address, prefixlen=24)
        with namespace.inside(self.world):
            self.port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.port.bind(("eth0", 0))
        self.port.settimeout(HEAR_S)

    def _link(self, one: str, interface: str, other: str) -> int:
        with namespace.netlink(one) as link:
            peer = {"ifname": interface, "net_ns_fd": other}
            link.link("add", ifname=interface, kind="veth", peer=peer)
        for name in (one, other):
            with namespace.netlink(name) as link:
                index = link.link_lookup(ifname=interface)[0]
                link.link("set", index=index, state="up")
            offload.prepare(name, interface, polls=True)
        with namespace.netlink(one) as link:
            return int(link.link_lookup(ifname=interface)[0])

    @contextlib.contextmanager
    def attached(self, director: Director, mode: str) -> Iterator[None]:
        """The director's program on a's interface."""
        with namespace.inside(self.a):
            link = bpf.link_create(director.kernel.program, self.ifindex, XDP_MODES[mode])
        try:
            yield
        finally:
            bpf.link_detach(link)
            os.close(link)

    def image(self) -> Image:
        """All backends with a next hop are reached by a's interface."""
        image = unsure()
        rows = [
            row
            if row.next_hop is None
            else replace(row, next_hop=replace(row.next_hop, ifindex=self.ifindex))
            for row in image.backends
        ]
        return replace(image, backends=tuple(rows))

    def lose(self, which: str) -> None:
        """Of the datagrams that come to b, those that the expression of nftables fits."""
        rules = (
            "table inet loss { chain in { type filter hook input priority 0; "
            f"udp dport {PORT} {which} drop; }}; }}"
        )
        with namespace.inside(self.b):
            subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)

    def remove(self) -> None:
        if hasattr(self, "port"):
            self.port.close()
        for name in (self.a, self.b, self.world):
            with contextlib.suppress(NetlinkError, OSError):
                namespace.remove(name)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module", params=[False, True], ids=["transmit", "redirect"])
def loaded(request: pytest.FixtureRequest) -> Iterator[list[Director]]:
    with directors("a", "b", switches=Switches(redirect_always=request.param)) as made:
        yield made


@pytest.fixture
def two(loaded: list[Director], wire: Wire) -> list[Director]:
    for each in loaded:
        each.reset()
    loaded[0].apply(wire.image())
    return loaded


async def heard(wire: Wire, target: str) -> bytes:
    """The packet inside the next frame to a backend, without blocking the loop."""
    wire.port.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HEAR_S):
        while True:
            frame = Ether(await loop.sock_recv(wire.port, 4_096))
            outer = frame.payload
            if isinstance(outer, (IP, IPv6)) and outer.dst == str(ip_address(target)):
                return bytes(outer.payload)


async def cross(wire: Wire, two: list[Director], packet: bytes, backend: int) -> dict[str, int]:
    """Send a packet to a; b knows its flow. The backend gets it, one hop older; a's counters."""
    a, b = two
    with namespace.inside(wire.a):
        first = a.ownership(listen=(MESH["a"], PORT))
    with namespace.inside(wire.b):
        second = b.ownership(listen=(MESH["b"], PORT))
    introduce((a, first), (b, second))
    with namespace.inside(wire.a):
        async with running(first, second):
            wire.port.send(packet)
            found = await heard(wire, BACKENDS[backend])
            assert found[AFTER_HOPS:] == packet[len(bytes(LINK)) + AFTER_HOPS :]
            return await until(first, injected=1)


@pytest.mark.parametrize("mode", XDP_MODES)
@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4]], ids=["4", "6"])
def test_packet_that_arrives_at_the_wrong_director_reaches_the_backend_of_its_flow(
    wire: Wire, two: list[Director], vip: str, mode: str
) -> None:
    a, b = two
    b.move(IPIP4, REDIRECTED)
    b.run(bytes(tcp(vip, "S")), bytes(tcp(vip, "A")))
    a.move(IPIP4, L2)
    packet = bytes(tcp(vip, "A") / Raw(b"hello"))
    with wire.attached(a, mode):
        record = asyncio.run(cross(wire, two, packet, REDIRECTED))
    assert (record["owned"], record["inject_failed"]) == (1, 0)
    assert a.counted("rungs") == {"owner": 1}


def test_icmp_error_about_a_flow_reaches_the_backend_that_another_director_knows(
    wire: Wire, two: list[Director]
) -> None:
    a, b = two
    b.move(IPIP4, REDIRECTED)
    b.run(bytes(tcp(VIP4[IPIP4], "S")), bytes(tcp(VIP4[IPIP4], "A")))
    a.move(IPIP4, L2)
    quoted = IP(src=VIP4[IPIP4], dst=CLIENT4) / TCP(sport=80, dport=1234) / Raw(bytes(40))
    error = IP(src="203.0.113.9", dst=VIP4[IPIP4]) / ICMP(type=3, code=4, nexthopmtu=1400) / quoted
    with wire.attached(a, "native"):
        asyncio.run(cross(wire, two, bytes(LINK / error), REDIRECTED))
    assert a.counted("rungs") == {"owner": 1}
    assert a.backends() == []


def test_lost_questions_are_asked_again(wire: Wire, two: list[Director]) -> None:
    """The first two datagrams of three do not reach the other director."""
    a, b = two
    b.move(IPIP4, REDIRECTED)
    b.run(bytes(tcp(VIP4[IPIP4], "S")), bytes(tcp(VIP4[IPIP4], "A")))
    wire.lose("numgen inc mod 3 < 2")
    with wire.attached(a, "native"):
        record = asyncio.run(cross(wire, two, bytes(tcp(VIP4[IPIP4], "A")), REDIRECTED))
    assert (record["owned"], record["repeated"], record["given_up"]) == (1, 2, 0)


def test_packet_goes_home_when_nothing_comes_through(wire: Wire, two: list[Director]) -> None:
    a, b = two
    b.move(IPIP4, REDIRECTED)
    b.run(bytes(tcp(VIP4[IPIP4], "S")), bytes(tcp(VIP4[IPIP4], "A")))
    wire.lose("")
    with wire.attached(a, "native"):
        record = asyncio.run(cross(wire, two, bytes(tcp(VIP4[IPIP4], "A")), IPIP4))
    assert (record["orphaned"], record["given_up"]) == (1, 1)
    assert a.counted("rungs") == {"orphan": 1}


def test_frame_for_an_interface_that_is_gone_is_an_error(wire: Wire, two: list[Director]) -> None:
    with namespace.inside(wire.a), pytest.raises(DatapathError, match="interface 4711"):
        inject(two[0].kernel.program, bytes(tcp(VIP4[IPIP4])), 4711)
