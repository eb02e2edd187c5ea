# SPDX-License-Identifier: Apache-2.0
"""Reference and kernel agree: on any packet, after any history.

After each packet verdict, rung, events, action and bytes must be the same; at the end the
connection tables and the statistics, entry by entry.
"""

import difflib
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from ipaddress import ip_address
from itertools import chain, count, islice, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import Ether

from datapath import frames
from datapath.benches import Bench, KernelBench, KernelBenches, ReferenceBench, Seen, kernel_benches
from datapath.history import SWITCHES, History
from datapath.test_packets import NOT_BY_PACKETS
from limpet.core.diff import Changes
from limpet.core.model import BackendId, BackendRow, Image, Policy
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import Age, Sweep, Tell, tcp
from packets.world import FREE, FREE4, IMAGE, ROWS, pool

pytestmark = pytest.mark.kernel


def casts(vips: list[str], clients: dict[int, list[str]] | None = None) -> list[int]:
    """Seeds of three crowds that go to such VIPs, with such clients."""
    found = ((seed, frames.cast(Random(seed))) for seed in count())
    wanted = (
        seed
        for seed, cast in found
        if cast.kinds is frames.CROWD
        and set(cast.vips) <= set(vips)
        and clients in (None, cast.clients)
    )
    return list(islice(wanted, 3))


# Casts that bring a bit of all, and crowds: of flows, of clients, behind mega-proxies.
ALL_KINDS, ALL_STEPS = [0, 1, 2], 120
CROWDS = [
    *casts(frames.SERVED),
    *casts(frames.SESSIONS, frames.MANY_CLIENTS),
    *casts(frames.PROXIES, frames.LISTED),
]
CROWD_STEPS = 215
LONG = [*((cast, ALL_STEPS) for cast in ALL_KINDS), *((cast, CROWD_STEPS) for cast in CROWDS)]
PACKETS_WANTED = 20_000
# Packet cases have them.
RARE = {repr(each) for each in (Event.REFUSED_FULL, Event.EVICTED_CLOSING, Event.ORPHAN_TOO_LONG)}
SEEDS = st.integers(0, (1 << 32) - 1)
HISTORIES = st.builds(
    History,
    director=st.integers(0, len(SWITCHES) - 1),
    cast=SEEDS,
    steps=st.lists(st.lists(SEEDS, max_size=20), max_size=20).map(
        lambda parts: list(chain.from_iterable(parts))
    ),
)


@pytest.fixture(scope="module")
def kernels() -> Iterator[KernelBenches]:
    with kernel_benches() as benches:
        yield benches


def shown(seen: Seen) -> list[str]:
    head = [f"{seen.verdict.name} {seen.rung!r} {seen.events!r} {seen.action}"]
    head += [f"{seen.reset!r}", f"{seen.held!r}", *map(repr, seen.news)]
    if seen.frame is None:
        return head
    return [*head, *str(Ether(seen.frame).show(dump=True)).splitlines(), seen.frame.hex(" ", 4)]


def agree(frame: bytes, reference: Seen, kernel: Seen) -> None:
    if reference == kernel:
        return
    lines = [f"frame {frame.hex(' ', 4)}", Ether(frame).show(dump=True)]
    lines += difflib.ndiff(shown(reference), shown(kernel))
    pytest.fail("\n".join(["reference (-) and kernel (+) disagree", *lines]))


def play(history: History, kernel: KernelBench) -> list[Seen]:
    """The history on both benches; what both saw."""
    reference = ReferenceBench(history.switches)
    kernel.reset(IMAGE)
    seen = []
    for step in history.play():
        if isinstance(step, Age):
            reference.age(step.ticks)
            kernel.age(step.ticks)
        elif isinstance(step, Changes):
            reference.apply(step)
            kernel.apply(step)
        elif isinstance(step, Tell):
            reference.tell(step)
            kernel.tell(step)
        elif isinstance(step, Sweep):
            assert reference.sweep() == kernel.sweep()
        else:
            seen.append(reference.run(step))
            agree(step, seen[-1], kernel.run(step))
    assert contents(reference) == contents(kernel)
    assert reference.stats() == kernel.stats()
    return seen


def contents(bench: Bench) -> tuple[object, ...]:
    """What a director knows, word by word."""
    return bench.entries(), bench.sessions(), bench.loads(), bench.turns()


@given(HISTORIES)
@settings(max_examples=60)
def test_reference_and_kernel_agree(kernels: KernelBenches, history: History) -> None:
    """The same history gives the same outcomes, connection table and statistics."""
    play(history, kernels.get(history.switches))


def test_long_histories_agree_and_leave_little_out(kernels: KernelBenches) -> None:
    """Nearly all verdicts, rungs and events come about, and both agree on all of it."""
    shown: set[str] = set()
    packets = 0
    for director, (cast, count_of_steps) in product(range(len(SWITCHES)), LONG):
        rng = Random(director << 16 | cast)
        steps = [rng.getrandbits(32) for _ in range(count_of_steps)]
        history = History(director, cast, steps)
        for seen in play(history, kernels.get(history.switches)):
            shown |= {repr(seen.verdict), repr(seen.rung), *map(repr, seen.events)}
            packets += 1
    assert packets >= PACKETS_WANTED
    kinds: tuple[type[IntEnum], ...] = (Verdict, Rung, Event)
    assert {repr(member) for kind in kinds for member in kind} - shown <= NOT_BY_PACKETS | RARE


def many_members(count_of_members: int) -> Image:
    """The pool FREE has very many members, of different weights."""
    ids = [BackendId(number) for number in range(1, count_of_members + 1)]
    plain = ROWS[0]
    rows = [
        BackendRow(i, ip_address(f"10.9.{i >> 8}.{i & 255}"), plain.encapsulation, plain.next_hop)
        for i in ids
    ]
    members = tuple((i, 1 + i % 7) for i in ids)
    least = Policy.LEAST_SESSIONS
    free = pool(FREE, 1, generation=2, members=members, policy=least)
    pools = tuple(free if row.id == FREE else row for row in IMAGE.pools)
    return replace(IMAGE, backends=tuple(rows), pools=pools)


@pytest.mark.parametrize("count_of_members", [1, 7, 8, 9, 127, 128, 129, 500])
def test_the_freest_of_very_many_is_the_same(kernels: KernelBenches, count_of_members: int) -> None:
    """At most 128 are looked at; who that is moves on with every choice."""
    image, kernel = many_members(count_of_members), kernels.get(SWITCHES[0])
    reference = ReferenceBench(SWITCHES[0])
    for bench in (reference, kernel):
        bench.reset(image)
    for number in range(60):
        frame = bytes(tcp(FREE4, client=f"198.51.100.{number}"))
        agree(frame, reference.run(frame), kernel.run(frame))
    assert contents(reference) == contents(kernel)
    assert sum(kernel.loads().values()) == 60
