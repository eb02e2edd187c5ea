# SPDX-License-Identifier: Apache-2.0
"""Resets against the kernel's TCP, and against another implementation's packets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from daemon.wire import (
    BACKEND,
    CLIENTS,
    MARK,
    PORT,
    VIPS,
    WAIT_S,
    Wire,
    connected,
    parse,
    records,
    until,
)
from limpet.core.model import Address
from limpet.daemon import resets, segment
from limpet.daemon.resets import Resets
from limpet.daemon.segment import Flag, Flow, Numbers
from limpet.lab import namespace

ABSENT = "10.0.1.77"


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


def all_reset(ends: Iterable[socket.socket]) -> Callable[[], bool]:
    """Whether all of them have had a RST, at some time; each says so only once."""
    left = set(ends)

    def none_is_left() -> bool:
        left.difference_update([end for end in left if is_reset(end)])
        return not left

    return none_is_left


async def run_until(engine: Resets, condition: Callable[[], bool], wire: Wire | None) -> float:
    """Seconds until it is so, while the engine runs. It is told of what clients say on the wire."""
    start = time.monotonic()
    loop = asyncio.get_running_loop()
    if wire is not None:
        loop.add_reader(wire.sniffer, lambda: engine.answer(records(wire.heard())))
    task = asyncio.create_task(engine.run())
    try:
        while not condition():
            assert time.monotonic() < start + WAIT_S, engine.record
            await asyncio.sleep(0.005)
        return time.monotonic() - start
    finally:
        if wire is not None:
            loop.remove_reader(wire.sniffer)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


@pytest.mark.parametrize("version", [4, 6])
def test_idle_connections_end_with_a_reset_at_both_ends(
    wire: Wire, engine: Resets, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "REPEAT_S", 10 * WAIT_S)  # one question is enough
    with connected(wire, version, 20) as pairs:
        wire.heard()
        ends = [end for pair in pairs.values() for end in pair]
        time.sleep(0.2)
        assert not any(map(is_reset, ends))
        assert wire.heard() == []  # nobody says anything by himself
        engine.want(pairs)
        asyncio.run(run_until(engine, all_reset(ends), wire))
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
        heard: list[tuple[Flow, Numbers, int]] = []

        def all_have_answered() -> bool:
            heard.extend(wire.heard())
            return {case_of[flow] for flow, _, _ in heard} == set(cases)

        until(all_have_answered)
        assert all(numbers == said[flow] for flow, numbers, _ in heard)
        assert {flags for _, _, flags in heard} == {Flag.ACK}
        assert not any(is_reset(end) for pair in pairs.values() for end in pair)


def test_numbers_of_a_keep_alive_end_the_connection_too(wire: Wire, engine: Resets) -> None:
    """It repeats the last number, which is not the one that the backend waits for."""
    with connected(wire, 4, 1) as pairs:
        flow, said, flags = wire.heard()[-1]
        before = Numbers(said.sequence - 1, said.acknowledged)
        engine.answer(records([(flow, before, flags)]))
        until(all_reset(pairs[flow]))


def test_what_goes_to_the_backend_bears_its_mark(wire: Wire, engine: Resets) -> None:
    """Here, as with the director's way out, nothing else gets there."""
    with connected(wire, 4, 1) as pairs:
        heard = wire.heard()[-1:]
        client, server = pairs[heard[0][0]]
        engine.update(MARK + 0x1000)
        engine.answer(records(heard))
        until(all_reset([client]))
        assert not is_reset(server)
        assert "Network is unreachable" in engine.record.error
        assert engine.record.failed == 2
        engine.update(MARK)
        engine.answer(records(heard))
        until(all_reset([server]))


def test_reset_that_was_lost_is_sent_again(wire: Wire, engine: Resets) -> None:
    with connected(wire, 4, 1) as pairs:
        heard = wire.heard()[-1:]
        _, server = pairs[heard[0][0]]
        engine.update(MARK + 0x1000)
        engine.answer(records(heard))
        engine.update(MARK)
        assert not is_reset(server)
        asyncio.run(run_until(engine, all_reset([server]), wire))


def test_client_that_does_not_answer_is_given_up(
    wire: Wire, engine: Resets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "REPEAT_S", 0.03)
    flow = Flow(ip_address(ABSENT), 1_234, ip_address(VIPS[4]), PORT, BACKEND)
    engine.want([flow])

    async def story() -> None:
        await run_until(engine, lambda: engine.given_up == 1, wire)
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
    asked = engine.record
    took_s = asyncio.run(run_until(engine, lambda: asked.elicited >= 200, None))
    assert asked.elicited <= 500 * took_s + 20  # two slices: the first is at once
    flows: set[Flow] = set()

    def all_were_asked_once() -> bool:
        flows.update(flow for flow, _, _ in wire.heard(from_client=False))
        return len(flows) == asked.elicited

    until(all_were_asked_once)


def test_flow_that_is_wanted_no_more_is_not_asked(wire: Wire, engine: Resets) -> None:
    engine.want(crowd(50))
    engine.want(crowd(3))
    asyncio.run(run_until(engine, lambda: engine.record.elicited > 0, None))
    assert engine.record.elicited == 3


def test_no_more_flows_are_wanted_at_a_time_than_the_limit(
    engine: Resets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "WANTED_MAX", 7)
    engine.want(crowd(50))
    asyncio.run(run_until(engine, lambda: engine.record.elicited > 0, None))
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
