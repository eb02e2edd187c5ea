# SPDX-License-Identifier: Apache-2.0
"""Every packet case, on the reference and in the kernel."""

import difflib
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
from limpet.core.diff import Changes
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import Age, Case, Sweep
from packets.cases import CASES, MALFORMED
from packets.world import Switches

# One CPU at a time cannot race with itself, and no packet ends without a verdict; headroom
# is the driver's: tests/datapath/test_limits.py takes it away.
NOT_BY_PACKETS = {repr(Event.RACE_LOST), repr(Verdict.CONTINUE), repr(Verdict.DROP_HEADROOM)}


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
        else:
            bench.run(bytes(step))
    return bench.run(bytes(case.packet))


def check(case: Case, seen: Seen) -> None:
    got = (seen.verdict, seen.rung, seen.events)
    assert got == (case.verdict, case.rung, tuple(sorted(case.events))), case.name
    assert seen.action == action(case.verdict, case.switches)
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
    check(case, run(kernels.get(case.switches), case))


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
