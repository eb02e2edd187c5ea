# SPDX-License-Identifier: Apache-2.0
"""Times and ticks are each other's inverse, as near as a tick, also where ticks run over."""

import numpy as np
import pytest

from limpet.daemon.directory import clock as clocks
from limpet.daemon.directory.clock import Clock
from limpet.daemon.unixtime import now_ms

TICK_S = 0.25


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> int:
    """Time stands still: that of the machine would go on between two readings of it."""
    found = now_ms()
    monkeypatch.setattr(clocks, "now_ms", lambda: found)
    return found


@pytest.mark.parametrize("tick", [5_000, 1 << 31, (1 << 32) - 3, (1 << 32) + 7])
def test_times_become_ticks_and_back(tick: int, now: int) -> None:
    clock = Clock(lambda: tick, TICK_S)
    ages = np.array([0, 1_000, 60_000, 1_000_000])
    ticks = clock.ticks(now - ages)
    wanted = [(tick - age // 250) % (1 << 32) for age in ages.tolist()]
    assert all(abs(int(found) - each) <= 1 for found, each in zip(ticks, wanted, strict=True))
    back = clock.times(ticks)
    assert (np.abs(back.astype(np.int64) - (now - ages)) <= 500).all()


def test_ticks_of_the_future_are_ahead_and_count_as_now_if_they_happened(now: int) -> None:
    clock = Clock(lambda: 1_000, TICK_S)
    assert abs(int(clock.ticks(now + 10_000)) - 1_040) <= 1
    assert abs(int(clock.times(1_040)) - now) < 500


def test_what_was_before_the_machine_started_has_the_first_tick(now: int) -> None:
    assert int(Clock(lambda: 10, TICK_S).ticks(now - 3_600_000)) == 1
