# SPDX-License-Identifier: Apache-2.0
"""Resets against the kernel's TCP: client, director and backend in namespaces of their own.

The director routes between the two and listens to what clients send, as the XDP program does. It
has a route to the VIPs only for what comes from clients or bears the mark.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import count, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from limpet.core.model import Address
from limpet.daemon import resets, segment
from limpet.daemon.resets import Resets
from limpet.daemon.segment import Flag, Flow, Numbers
from limpet.datapath import abi
from limpet.datapath.rows import mapped
from limpet.lab import namespace

VIPS = {4: "192.0.2.10", 6: "2001:db8:0:10::10"}
LINKS = {"client": ("10.0.1.", "2001:db8:1::"), "backend": ("10.0.2.", "2001:db8:2::")}
CLIENTS = {4: "10.0.1.2", 6: "2001:db8:1::2"}
ABSENT = "10.0.1.77"
NO_DAD = 0x02
TABLE, MARK, BACKEND = 77, 0x6C690000, 5
PORT = 7
ALL_PROTOCOLS, SO_RCVBUFFORCE = 3, 33
NUMBERS = count(1)
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Wire:
    """Three hosts in a row: <name>-client, <name>-director, <name>-backend."""

    def __init__(self) -> None:
        self.name = f"r{os.getpid()}-{next(NUMBERS)}"
        self.hosts = {each: f"{self.name}-{each}" for each in ("client", "director", "backend")}

    def build(self) -> None:
        for name in self.hosts.values():
            namespace.create(name)
            namespace.sysctl(name, {"ipv6.conf.default.accept_dad": "0"})
        forwarding = {"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1"}
        namespace.sysctl(self.hosts["director"], forwarding)
        for end, (net4, net6) in LINKS.items():
            peer = {"ifname": "eth0", "net_ns_fd": self.hosts[end]}
            with namespace.netlink(self.hosts["director"]) as link:
                link.link("add", ifname=end, kind="veth", peer=peer)
            self._configure("director", end, (net4 + "1", net6 + "1"))
            self._configure(end, "eth0", (net4 + "2", net6 + "2"))
            with namespace.netlink(self.hosts[end]) as link:
                link.route("add", dst="default", gateway=net4 + "1")
                link.route("add", dst="default", gateway=net6 + "1")
        self._lead_to_vips()
        self.sniffer = self._listen()

    def _configure(self, host: str, interface: str, addresses: tuple[str, str]) -> None:
        with namespace.netlink(self.hosts[host]) as link:
            index = link.link_lookup(ifname=interface)[0]
            for each in (link.link_lookup(ifname="lo")[0], index):
                link.link("set", index=each, state="up")
            for address, length in zip(addresses, (24, 64), strict=True):
                flags = NO_DAD if ":" in address else 0
                link.addr("add", index=index, address=address, prefixlen=length, flags=flags)

    def _lead_to_vips(self) -> None:
        with namespace.netlink(self.hosts["backend"]) as link:
            lo = link.link_lookup(ifname="lo")[0]
            for version, vip in VIPS.items():
                link.addr("add", index=lo, address=vip, prefixlen={4: 32, 6: 128}[version])
        with namespace.netlink(self.hosts["director"]) as link:
            for version, vip in VIPS.items():
                gateway = LINKS["backend"][version == 6] + "2"
                link.route("add", dst=vip, gateway=gateway, table=TABLE)
                rule = {"family": FAMILY[version], "table": TABLE}
                link.rule("add", priority=100, iifname="client", **rule)
                link.rule("add", priority=101, fwmark=MARK | BACKEND, **rule)

    def _listen(self) -> socket.socket:
        with namespace.inside(self.hosts["director"]):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
        made.bind(("client", ALL_PROTOCOLS))
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        made.setblocking(False)
        return made

    def heard(self, from_client: bool = True) -> list[tuple[Flow, Numbers, int]]:
        """TCP segments on the client's link since the last call: flow, numbers, flags."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, _, kind, *_) = self.sniffer.recvfrom(2_048)
                parsed = parse(data)
                if parsed and (kind != socket.PACKET_OUTGOING) == from_client:
                    found.append(parsed)
        return found

    def remove(self) -> None:
        with contextlib.suppress(AttributeError):
            self.sniffer.close()
        for name in self.hosts.values():
            namespace.remove(name)


def parse(data: bytes) -> tuple[Flow, Numbers, int] | None:
    """Of a client's segment; of one to a client, with the two ends interchanged."""
    version = data[0] >> 4
    protocol, start, place, size = (
        (data[9], (data[0] & 15) * 4, 12, 4) if version == 4 else (data[6], 40, 8, 16)
    )
    if protocol != segment.TCP:
        return None
    source, target = (ip_address(data[i : i + size]) for i in (place, place + size))
    ports = struct.unpack_from("!HH", data, start)
    sequence, acknowledged, _, flags = struct.unpack_from("!IIBB", data, start + 4)
    flow = Flow(source, ports[0], target, ports[1], BACKEND)
    return flow, Numbers(sequence, acknowledged), flags


def records(heard: list[tuple[Flow, Numbers, int]]) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """As the ring would have them."""
    made = np.zeros(len(heard), abi.RESET)
    for record, (flow, numbers, _) in zip(made, heard, strict=True):
        record["client"], record["vip_address"] = mapped(flow.client), mapped(flow.vip)
        record["client_port"], record["vip_port"] = flow.client_port, flow.vip_port
        record["sequence"], record["acknowledged"] = numbers.sequence, numbers.acknowledged
        record["backend"], record["family"] = flow.backend, flow.client.version
    return made


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    made = Wire()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture
def engine(wire: Wire) -> Iterator[Resets]:
    with namespace.inside(wire.hosts["director"]):
        made = Resets(MARK)
    with made:
        yield made


Pair = tuple[socket.socket, socket.socket]  # of the client, of the backend


@contextlib.contextmanager
def connected(wire: Wire, version: int, many: int) -> Iterator[dict[Flow, Pair]]:
    """Idle connections over which a few bytes went both ways."""
    pairs: dict[Flow, Pair] = {}
    with contextlib.ExitStack() as stack:
        with namespace.inside(wire.hosts["backend"]):
            listener = stack.enter_context(socket.socket(FAMILY[version], socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((VIPS[version], PORT))
        listener.listen(many)
        for _ in range(many):
            with namespace.inside(wire.hosts["client"]):
                client = stack.enter_context(socket.socket(FAMILY[version], socket.SOCK_STREAM))
            client.settimeout(5)
            client.connect((VIPS[version], PORT))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(5)
            client.send(b"question")
            assert server.recv(100) == b"question"
            server.send(b"answer")
            assert client.recv(100) == b"answer"
            name = ip_address(CLIENTS[version]), client.getsockname()[1]
            pairs[Flow(*name, ip_address(VIPS[version]), PORT, BACKEND)] = client, server
            for end in (client, server):  # close without a FIN that would be repeated later
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.06)  # the last acknowledgement is on its way
        yield pairs


def is_reset(end: socket.socket) -> bool:
    """True if it has had a RST; False if it is as it was."""
    end.setblocking(False)
    try:
        assert end.recv(100) == b"", "there is no data"
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False
    raise AssertionError("it was closed, not reset")


async def run_until(
    engine: Resets, wire: Wire, condition: Callable[[], bool], wait_s: float
) -> float:
    """Seconds until it is so, while the engine runs, and is told of what clients say."""
    start = time.monotonic()
    loop = asyncio.get_running_loop()
    loop.add_reader(wire.sniffer, lambda: engine.answer(records(wire.heard())))
    task = asyncio.create_task(engine.run())
    try:
        while not condition():
            assert time.monotonic() < start + wait_s, engine.record
            await asyncio.sleep(0.005)
        return time.monotonic() - start
    finally:
        loop.remove_reader(wire.sniffer)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


@pytest.mark.parametrize("version", [4, 6])
def test_idle_connections_end_with_a_reset_at_both_ends(
    wire: Wire, engine: Resets, version: int
) -> None:
    with connected(wire, version, 20) as pairs:
        wire.heard()
        ends = [end for pair in pairs.values() for end in pair]
        left = set(ends)

        def all_gone() -> bool:
            left.difference_update([end for end in left if is_reset(end)])
            return not left

        time.sleep(0.2)
        assert not any(map(is_reset, ends))
        assert wire.heard() == []  # nobody says anything by himself
        engine.want(pairs)
        assert asyncio.run(run_until(engine, wire, all_gone, 1.0)) < 1.0
        assert engine.record.elicited == engine.record.answered == 20
        assert engine.record.failed == 0


# From what the client waits for: inside its window, beyond it, and each half the space further.
BASES = [0, 1_000, 1 << 30, 1 << 31, (1 << 31) + 1_000, 3 << 30, -1]
# From what it sends next: an acknowledgement of all, of what was never sent, of what is long past.
ACKNOWLEDGED = [0, 10_000, -(1 << 30)]


@pytest.mark.parametrize("version", [4, 6])
def test_any_base_makes_an_idle_client_say_its_exact_numbers(
    wire: Wire, engine: Resets, version: int
) -> None:
    """Whichever of the two ACKs is inside the window, or none. A connection for each case."""
    cases = list(product(BASES, ACKNOWLEDGED))
    wire.heard()
    with connected(wire, version, len(cases)) as pairs:
        said = {flow: numbers for flow, numbers, _ in wire.heard()}  # the last of each
        assert said.keys() == pairs.keys()
        case_of = dict(zip(pairs, cases, strict=True))
        for flow, (base, acknowledged) in case_of.items():
            known = said[flow]
            numbers = (known.acknowledged + base, (known.sequence + acknowledged) % (1 << 32))
            for packet in segment.elicit(flow, *numbers):
                engine._send(engine._to_clients, packet, flow.client)
        time.sleep(0.2)
        heard = wire.heard()
        assert {case_of[flow] for flow, _, _ in heard} == set(cases), "all answer"
        assert all(numbers == said[flow] for flow, numbers, _ in heard)
        assert {flags for _, _, flags in heard} == {Flag.ACK}
        assert not any(is_reset(end) for pair in pairs.values() for end in pair)


def test_numbers_of_a_keep_alive_end_the_connection_too(wire: Wire, engine: Resets) -> None:
    """It repeats the last number, which is not the one that the backend waits for."""
    with connected(wire, 4, 1) as pairs:
        flow, said, flags = wire.heard()[-1]
        before = Numbers(said.sequence - 1, said.acknowledged)
        engine.answer(records([(flow, before, flags)]))
        time.sleep(0.1)
        assert all(map(is_reset, pairs[flow]))


def test_what_goes_to_the_backend_bears_its_mark(wire: Wire, engine: Resets) -> None:
    """Here, as with the director's way out, nothing else gets there."""
    with connected(wire, 4, 1) as pairs:
        heard = wire.heard()[-1:]
        client, server = pairs[heard[0][0]]
        engine.update(MARK + 0x1000)
        engine.answer(records(heard))
        time.sleep(0.1)
        assert is_reset(client)
        assert not is_reset(server)
        assert "Network is unreachable" in engine.record.error
        assert engine.record.failed == 2
        engine.update(MARK)
        engine.answer(records(heard))
        time.sleep(0.1)
        assert is_reset(server)


def test_reset_that_was_lost_is_sent_again(wire: Wire, engine: Resets) -> None:
    with connected(wire, 4, 1) as pairs:
        heard = wire.heard()[-1:]
        _, server = pairs[heard[0][0]]
        engine.update(MARK + 0x1000)
        engine.answer(records(heard))
        engine.update(MARK)
        assert not is_reset(server)
        asyncio.run(run_until(engine, wire, lambda: is_reset(server), 2 * resets.AGAIN_S))


def test_client_that_does_not_answer_is_given_up(
    wire: Wire, engine: Resets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "REPEAT_S", 0.03)
    flow = Flow(ip_address(ABSENT), 1_234, ip_address(VIPS[4]), PORT, BACKEND)
    engine.want([flow])

    async def story() -> None:
        await run_until(engine, wire, lambda: engine.given_up == 1, 5.0)
        assert engine.record.elicited == resets.TRIES
        assert engine.record.given_up == 1
        engine.want([flow])  # found by the next scan
        await settle(engine, 0.2)

    asyncio.run(story())
    assert engine.record.elicited == resets.TRIES
    engine.want([])
    assert engine.given_up == 0


async def settle(engine: Resets, wait_s: float) -> None:
    """Let it run for a while."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(engine.run(), wait_s)


def crowd(many: int) -> list[Flow]:
    vip, client = ip_address(VIPS[4]), ip_address(CLIENTS[4])
    return [Flow(client, 1_024 + number, vip, 9, BACKEND) for number in range(many)]


def test_asking_is_bounded_in_rate_and_new_flows_come_first(
    wire: Wire, engine: Resets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "ELICITED_PER_S", 500)
    monkeypatch.setattr(resets, "REPEAT_S", 0.03)
    engine.want(crowd(2_000))
    asyncio.run(settle(engine, 0.5))
    assert 100 < engine.record.elicited <= 260
    assert len({each[0] for each in wire.heard(from_client=False)}) == engine.record.elicited


def test_flow_that_is_wanted_no_more_is_not_asked(wire: Wire, engine: Resets) -> None:
    engine.want(crowd(50))
    engine.want(crowd(3))
    asyncio.run(settle(engine, 0.1))
    assert engine.record.elicited == 3


def test_no_more_flows_are_wanted_at_a_time_than_the_limit(
    engine: Resets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "WANTED_MAX", 7)
    engine.want(crowd(50))
    asyncio.run(settle(engine, 0.1))
    assert engine.record.elicited == 7


# --- Bytes ---------------------------------------------------------------------------------------

ports = st.integers(0, 65_535)
numbers = st.builds(Numbers, *[st.integers(0, (1 << 32) - 1)] * 2)
addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(addresses, ports, ports, numbers, st.sampled_from([Flag.ACK, Flag.RST]))
def test_packet_is_what_another_implementation_builds(
    pair: tuple[Address, Address], port: int, other: int, said: Numbers, flags: Flag
) -> None:
    source, target = (pair[0], port), (pair[1], other)
    layer = IP(flags="DF", id=0, ttl=64) if pair[0].version == 4 else IPv6(hlim=64)
    layer.src, layer.dst = str(source[0]), str(target[0])
    tcp = TCP(sport=source[1], dport=target[1], seq=said.sequence, ack=said.acknowledged)
    tcp.flags, tcp.window = int(flags), 0
    assert segment.packet(source, target, said, flags) == bytes(layer / tcp)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 30))
def test_one_of_two_sequence_numbers_is_outside_any_window(
    base: int, expected: int, window: int
) -> None:
    flow = crowd(1)[0]
    sent = [parse(packet) for packet in segment.elicit(flow, base, 0)]
    offsets = [(each[1].sequence - expected) % (1 << 32) for each in sent if each]
    assert len(offsets) == 2
    assert any(offset > window for offset in offsets)


def address_of(version: int) -> Address:
    return ip_address(CLIENTS[version])


@pytest.mark.parametrize("version", [4, 6])
def test_record_of_the_ring_is_read_as_it_was_written(version: int) -> None:
    flow = Flow(address_of(version), 40_000, ip_address(VIPS[version]), 443, BACKEND)
    said = Numbers(0xFFFFFFFF, 0x01020304)
    assert list(resets.decode(records([(flow, said, 0)]))) == [(flow, said)]
