# SPDX-License-Identifier: Apache-2.0
"""What a director says of a flow, by what its kernel holds."""

import asyncio
import gc
import time
from collections.abc import Iterator

import numpy as np
import pytest

from limpet.core.ownership import QUESTION, Known
from limpet.daemon.ownership.answering import Answering
from limpet.datapath.abi import (
    EXCEPTION,
    EXCEPTION_KEY,
    ExceptionFlag,
    ExceptionKind,
    FlowWord,
)
from limpet.datapath.flows import SEEN_MASK, field
from ownership.directors import Director, directors, running, until
from packets.case import tcp
from packets.world import (
    FLOW4,
    IMAGE,
    IPIP4,
    L2,
    LISTED4,
    RANGES4,
    REDIRECTED,
    VIP4,
    VIP6,
    words_of,
)

pytestmark = pytest.mark.kernel
CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8:c::7"
PORT, TICK_MS = 1234, 250.0
MANY = 1_900  # the ring has room for 2,040
SLICES_LEAST = 5


@pytest.fixture(scope="module")
def loaded() -> Iterator[Director]:
    with directors("a") as (made,):
        yield made


@pytest.fixture
def a(loaded: Director) -> Director:
    loaded.reset()
    return loaded


def vip_of(address: str) -> int:
    return next(int(v.id) for v in IMAGE.vips if str(v.address) == address and v.protocol == "tcp")


def asked(a: Director, vip: str = VIP4[IPIP4], port: int = PORT) -> tuple[Known, int, int]:
    """What is known, the backend, and milliseconds idle."""
    question = np.zeros(1, QUESTION)
    question["client"] = words_of(CLIENT6 if ":" in vip else CLIENT4)
    question["client_port"], question["vip_port"] = port, 80
    question["vip"] = vip_of(vip)
    found = Answering(a.kernel, lambda: 7, TICK_MS).answer(question)[0]
    assert found["generation"] == 7
    return Known(int(found["known"])), int(found["backend"]), int(found["idle_ms"])


def age(a: Director, ticks: int) -> None:
    """Time stands still here: all entries are older at once."""
    words = a.kernel._map("flows")["entries"]["word"]
    used = field(words, "LIFE") > 0
    seen, shift = field(words[used], "SEEN"), np.uint64(FlowWord.SEEN_SHIFT)
    words[used] ^= (seen ^ (seen - np.uint64(ticks)) & np.uint64(SEEN_MASK)) << shift
    a.kernel._map("session_seen")["seen"][:] -= np.uint32(ticks)


def tell(
    a: Director,
    kind: ExceptionKind,
    backend: int,
    *,
    client: str = CLIENT4,
    vip: str = VIP4[IPIP4],
    ranges: int = 0,
    flags: int = 0,
    until: int = 100,
    since: int = 0,
) -> None:
    """Have another director have told it; times are counted from now."""
    key, value, tick = np.zeros(1, EXCEPTION_KEY), np.zeros(1, EXCEPTION), a.kernel.tick()
    key["client"], key["range"] = words_of(client), ranges
    key["vip"], key["kind"] = vip_of(vip), kind
    value["since"], value["until"] = (tick + since) % (1 << 32), (tick + until) % (1 << 32)
    value["backend"], value["flags"] = backend, flags
    assert a.kernel.directory().put(key, value) == 1


@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4]])
def test_flow_is_half_open_then_open_then_late_then_forgotten(a: Director, vip: str) -> None:
    a.run(bytes(tcp(vip, "S")))
    assert asked(a, vip) == (Known.HALF_OPEN, IPIP4, 0)
    a.run(bytes(tcp(vip, "A")))
    assert asked(a, vip) == (Known.OPEN, IPIP4, 0)
    age(a, 900)
    assert asked(a, vip) == (Known.OPEN, IPIP4, 225_000)
    age(a, 200)
    assert asked(a, vip) == (Known.LATE, IPIP4, 275_000)
    a.kernel.sweep()
    assert asked(a, vip) == (Known.LATE, IPIP4, 275_000)
    a.kernel._map("flows")["entries"]["word"] = 0
    assert asked(a, vip)[:2] == (Known.SESSION_PAST, IPIP4)


def test_flow_after_its_end_is_half_open(a: Director) -> None:
    a.run(*(bytes(tcp(VIP4[IPIP4], flags)) for flags in ("S", "A", "FA")))
    assert asked(a)[:2] == (Known.HALF_OPEN, IPIP4)


def test_session_of_the_client_answers_for_another_flow_of_it(a: Director) -> None:
    a.run(*(bytes(tcp(VIP4[IPIP4], flags)) for flags in "SA"))
    assert asked(a, port=PORT + 1)[:2] == (Known.SESSION, IPIP4)
    age(a, 1_100)
    assert asked(a, port=PORT + 1)[:2] == (Known.SESSION_PAST, IPIP4)


def test_nothing_is_known_of_another_client_nor_of_flows_that_are_sessions(a: Director) -> None:
    assert asked(a) == (Known.NOTHING, 0, 0)
    a.run(*(bytes(tcp(FLOW4, flags)) for flags in "SA"))
    assert asked(a, FLOW4)[0] is Known.OPEN
    assert asked(a, FLOW4, PORT + 1)[0] is Known.NOTHING


def test_what_was_told_of_the_flow_comes_before_the_session(a: Director) -> None:
    a.run(*(bytes(tcp(VIP4[IPIP4], flags)) for flags in "SA"))
    ports = (PORT + 1) << 16 | 80
    tell(a, ExceptionKind.FLOW, REDIRECTED, ranges=ports, since=-8)
    assert asked(a, port=PORT + 1) == (Known.TOLD, REDIRECTED, 2_000)
    assert asked(a)[0] is Known.OPEN


@pytest.mark.parametrize(("flags", "until"), [(int(ExceptionFlag.ORPHAN), 100), (0, -1)])
def test_orphan_and_what_is_over_are_no_knowledge(a: Director, flags: int, until: int) -> None:
    ports = PORT << 16 | 80
    tell(a, ExceptionKind.FLOW, REDIRECTED, ranges=ports, flags=flags, until=until)
    assert asked(a)[0] is Known.NOTHING


def test_session_that_was_told_comes_before_one_that_has_expired(a: Director) -> None:
    a.run(*(bytes(tcp(VIP4[IPIP4], flags)) for flags in "SA"))
    age(a, 1_100)
    tell(a, ExceptionKind.SESSION, L2)
    assert asked(a, port=PORT + 1)[:2] == (Known.SESSION_TOLD, L2)
    tell(a, ExceptionKind.SESSION, L2, vip=FLOW4)
    assert asked(a, FLOW4)[0] is Known.NOTHING


def test_flow_that_nobody_knew_is_a_guess_and_what_was_told_of_it_counts_more(a: Director) -> None:
    ports = PORT << 16 | 80
    tell(a, ExceptionKind.FLOW, 0, ranges=ports, flags=int(ExceptionFlag.ORPHAN))
    a.run(*[bytes(tcp(VIP4[IPIP4], "A"))] * 3)
    assert asked(a)[:2] == (Known.GUESSED, IPIP4)
    tell(a, ExceptionKind.FLOW, REDIRECTED, ranges=ports)
    assert asked(a)[:2] == (Known.TOLD, REDIRECTED)
    tell(a, ExceptionKind.SESSION, REDIRECTED)
    tell(a, ExceptionKind.FLOW, 0, ranges=ports, flags=int(ExceptionFlag.ORPHAN))
    assert asked(a)[:2] == (Known.GUESSED, IPIP4)
    age(a, 1_100)
    assert asked(a)[0] is Known.GUESSED


def test_of_a_client_that_was_split_the_session_of_the_range_counts(a: Director) -> None:
    split = int(ExceptionFlag.SPLIT)
    tell(a, ExceptionKind.SESSION, L2, vip=LISTED4, flags=split)
    assert asked(a, LISTED4)[:2] == (Known.SESSION_TOLD, L2)
    tell(a, ExceptionKind.SESSION, REDIRECTED, vip=LISTED4, ranges=1 + (PORT >> 12))
    assert asked(a, LISTED4)[:2] == (Known.SESSION_TOLD, REDIRECTED)


def test_with_affinity_of_ports_the_session_of_the_range_is_looked_for(a: Director) -> None:
    tell(a, ExceptionKind.SESSION, REDIRECTED, vip=RANGES4, ranges=1 + (PORT >> 14))
    assert asked(a, RANGES4)[:2] == (Known.SESSION_TOLD, REDIRECTED)
    assert asked(a, RANGES4, PORT + (1 << 14))[0] is Known.NOTHING


def test_vip_that_cannot_be_is_answered_with_nothing(a: Director) -> None:
    questions = np.zeros(3, QUESTION)
    questions["vip"] = [0, 1_023, 65_535]
    assert not Answering(a.kernel, lambda: 0, TICK_MS).answer(questions)["known"].any()


def test_flood_is_taken_in_slices_and_every_packet_goes_on(a: Director) -> None:
    """Others have their turn: of all the work only little is done between two of them. In CPU time,
    and without the collector of garbage, which stops at nothing in between."""
    a.run(*(bytes(tcp(FLOW4, "A", 2_000 + i)) for i in range(MANY)))
    longest = 0.0

    async def scenario() -> None:
        nonlocal longest
        first = a.ownership()
        async with running(first):
            while first.record()["injected"] < MANY:
                at = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - at)
            record = await until(first, injected=MANY)
            assert (record["asked"], record["orphaned"]) == (MANY, MANY)
            assert record["paused"] > 0

    gc.collect()
    gc.disable()
    began = time.thread_time()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
    assert longest < (time.thread_time() - began) / SLICES_LEAST
    assert a.counted("rungs") == {"orphan": MANY}
