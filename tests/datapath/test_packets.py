# SPDX-License-Identifier: Apache-2.0
"""Every packet case, on the reference and in the kernel."""

import difflib
import os
from collections.abc import Iterator
from enum import IntEnum

import pytest
from scapy.all import Ether

from datapath.benches import (
    ACTIONS,
    Bench,
    KernelBenches,
    ReferenceBench,
    Seen,
    action,
    kernel_benches,
)
from limpet.core.diff import Changes, diff
from limpet.core.model import Image
from limpet.datapath import bpf
from limpet.datapath.abi import RESET, Event, Limit, Rung, SessionWord, Verdict
from limpet.datapath.kernel import Kernel, Sizes, remove
from packets.case import Age, Case, Sweep, Tell, tcp, udp
from packets.cases import CASES, MALFORMED
from packets.cases_directory import MEMBER
from packets.cases_held import UNSURE
from packets.cases_news import TELL
from packets.cases_policy import RESETTING
from packets.world import (
    ALONE4,
    IMAGE,
    IPIP4,
    IPIP6,
    NARROW4,
    POOLS,
    VIP4,
    VIP6,
    Switches,
    settings,
)

# One CPU at a time cannot race with itself, and no packet ends without a verdict; headroom
# is the driver's: tests/datapath/test_limits.py takes it away. The sweeper has no packets, and the
# ring is full only after very many: both have tests below.
NOT_BY_PACKETS = {
    repr(Event.RACE_LOST),
    repr(Verdict.CONTINUE),
    repr(Verdict.DROP_HEADROOM),
    repr(Verdict.DROP_RESET),
    repr(Event.FLOW_EXPIRED),
    repr(Event.SESSION_EXPIRED),
    repr(Event.NEWS_LOST),
    repr(Event.ORPHAN_FULL),
}
# Each record has a header of 8 bytes.
RING_RECORDS = Limit.RESETS // (RESET.itemsize + 8)


@pytest.fixture(scope="module")
def kernels() -> Iterator[KernelBenches]:
    with kernel_benches() as benches:
        yield benches


def layers(frame: bytes) -> list[str]:
    return [*str(Ether(frame).show(dump=True)).splitlines(), frame.hex(" ", 4)]


def difference(expected: bytes, got: bytes) -> str:
    """Both frames layer by layer, with marks where they differ."""
    return "\n".join(difflib.ndiff(layers(expected), layers(got)))


def wanted_frame(case: Case) -> bytes | None:
    if case.out is not None:
        return bytes(case.out)
    return bytes(case.packet) if ACTIONS.get(case.verdict) == "pass" else None


def run(bench: Bench, case: Case) -> Seen:
    bench.reset(case.image)
    for step in case.before:
        if isinstance(step, Age):
            bench.age(step.ticks)
        elif isinstance(step, Sweep):
            bench.sweep()
        elif isinstance(step, Changes):
            bench.apply(step)
        elif isinstance(step, Tell):
            bench.tell(step)
        else:
            bench.run(bytes(step))
    return bench.run(bytes(case.packet))


def check(case: Case, seen: Seen) -> None:
    got = (seen.verdict, seen.rung, seen.events)
    assert got == (case.verdict, case.rung, tuple(sorted(case.events))), case.name
    assert seen.action == action(case.verdict, case.switches)
    assert (seen.reset, seen.held, seen.news) == (case.reset, case.held, case.news)
    frame = wanted_frame(case)
    assert (seen.frame is None) == (frame is None)
    if frame is not None and seen.frame is not None and seen.frame != frame:
        pytest.fail(f"{case.name}\n{difference(frame, seen.frame)}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference(case: Case) -> None:
    """The reference does what the case says."""
    check(case, run(ReferenceBench(case.switches), case))


@pytest.mark.kernel
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernel(case: Case, kernels: KernelBenches) -> None:
    """The kernel does what the case says."""
    bench = kernels.get(case.switches)
    seen = run(bench, case)
    while bench.has_refilled:  # the machine stood still on the way
        seen = run(bench, case)
    check(case, seen)


def test_every_verdict_rung_and_event_has_a_case() -> None:
    """No counter of bpf/abi.h goes without a packet that moves it."""
    kinds: tuple[type[IntEnum], ...] = (Verdict, Rung, Event)
    shown = {repr(member) for case in CASES for member in (case.verdict, case.rung, *case.events)}
    missing = {repr(member) for kind in kinds for member in kind} - shown - NOT_BY_PACKETS
    assert not missing


def test_there_are_enough_cases() -> None:
    """At least 120 laws, 25 of them about malformed packets, none said twice."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 120
    assert len(MALFORMED) >= 25


@pytest.mark.parametrize("size", range(14))
def test_a_frame_shorter_than_an_ethernet_header_is_passed(size: int) -> None:
    """The kernel gives no such frames to XDP, and makes none for test runs."""
    seen = ReferenceBench(Switches()).run(bytes(size))
    assert (seen.verdict, seen.frame) == (Verdict.PASS_MALFORMED, bytes(size))


OPEN = (tcp(VIP4[IPIP4]), tcp(VIP4[IPIP4], "A"), udp(VIP6[IPIP4]), udp(VIP6[IPIP4]))


def check_sweep(bench: Bench) -> None:
    """A handshake, an open flow and one of datagrams: what their ends count."""
    bench.reset(IMAGE)
    for packet in (*OPEN, tcp(VIP4[IPIP6]), udp(VIP4[IPIP4], flags="MF", id=9)):
        bench.run(bytes(packet))
    assert bench.sweep() == ()
    bench.age(11)
    assert bench.sweep() == (Event.FLOW_EXPIRED,) * 2 + (Event.SESSION_EXPIRED,) * 2
    bench.age(990)
    assert bench.sweep() == (Event.FLOW_EXPIRED,) * 2 + (Event.SESSION_EXPIRED,) * 2
    assert bench.loads() == {}
    assert len(bench.entries()) == 1  # what is late
    bench.age(200_000)
    assert bench.sweep() == ()
    assert bench.entries() == {} == bench.sessions()


def test_the_sweeper_ends_what_has_expired() -> None:
    """Each flow and session once, and fragments without a count; late ones are forgotten."""
    check_sweep(ReferenceBench(Switches()))


@pytest.mark.kernel
def test_the_sweeper_ends_what_has_expired_in_the_kernel(kernels: KernelBenches) -> None:
    """The same in the kernel."""
    check_sweep(kernels.get(Switches()))


@pytest.mark.kernel
def test_a_full_ring_of_resets_is_a_verdict_and_the_next_packet_asks_again(
    kernels: KernelBenches,
) -> None:
    bench, asks = kernels.get(Switches()), bytes(tcp(VIP4[IPIP4], "A"))
    bench.reset(IMAGE)
    for step in (*OPEN, RESETTING):
        bench.apply(step) if isinstance(step, Changes) else bench.run(bytes(step))
    bench.run_again(asks, RING_RECORDS)
    seen = bench.run(asks, reads_rings=False)
    assert (seen.verdict, seen.action) == (Verdict.DROP_RESET, "drop")
    assert bench.forget_resets() == RING_RECORDS
    assert bench.run(asks).verdict is Verdict.RESET


@pytest.mark.kernel
@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4], ALONE4])
def test_news_that_find_no_room_are_counted(kernels: KernelBenches, vip: str) -> None:
    """The packet goes its way all the same, and the next ones are told of again."""
    bench = kernels.get(MEMBER)
    bench.reset(IMAGE)
    bench.apply(TELL)
    with bench.full("news"):
        seen = bench.run(bytes(tcp(vip)), reads_rings=False)
    assert (seen.verdict, seen.rung) == (Verdict.TRANSMIT, Rung.HOME_NEW)
    assert Event.NEWS_LOST in seen.events
    assert len(bench.run(bytes(tcp(NARROW4))).news) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4]])
def test_a_packet_that_finds_no_room_to_wait_goes_home(kernels: KernelBenches, vip: str) -> None:
    """It is counted, and the next one waits again."""
    bench, asks = kernels.get(MEMBER), bytes(tcp(vip, "A"))
    bench.reset(IMAGE)
    bench.apply(UNSURE)
    with bench.full("held"):
        seen = bench.run(asks, reads_rings=False)
    assert (seen.verdict, seen.rung) == (Verdict.TRANSMIT, Rung.ORPHAN)
    assert seen.events == (Event.FLOW_CREATED, Event.ORPHAN_FULL)
    assert bench.run(bytes(tcp(vip, "A", sport=9))).verdict is Verdict.HELD


@pytest.mark.kernel
def test_a_session_says_when_it_began() -> None:
    """In the kernel time stands still for cases; here a tick is a jiffy."""
    pins = bpf.BPFFS / f"limpet-test-{os.getpid()}-began"
    constants = settings(Switches())
    constants["tick_shift"] = 0
    kernel = Kernel.open(pins, Sizes(64, len(POOLS), 64))
    try:
        kernel.load(constants)
        kernel.apply(diff(Image(), IMAGE))
        before = kernel.tick()
        kernel.test_run(bytes(tcp(VIP4[IPIP4])))
        words = kernel._map("sessions")["entries"]["word"]
        began = int(words.max()) >> SessionWord.SINCE_SHIFT
        units = range(before >> SessionWord.SINCE_UNIT, (kernel.tick() >> 8) + 1)
        assert began in [unit % (1 << SessionWord.SINCE_BITS) for unit in units]
    finally:
        kernel.close()
        remove(pins)
