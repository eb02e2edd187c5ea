# SPDX-License-Identifier: Apache-2.0
"""Unix time goes on steadily, whatever the wall clock is set to."""

from limpet.daemon.unixtime import JUMP_S, NS, UnixTime

HOUR = 3_600


class Clocks:
    """A wall clock that can be set, and a steady one; in seconds."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_700_000_000.0, 5.0
        self.time = UnixTime(lambda: int(self.wall * NS), lambda: int(self.steady * NS))

    def pass_by(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds

    def now(self) -> float:
        return self.time.now_ns() / NS


def test_a_clock_that_is_set_an_hour_ahead_is_not_followed() -> None:
    clocks = Clocks()
    before = clocks.now()
    clocks.wall += HOUR
    clocks.pass_by(10)
    assert abs(clocks.now() - before - 10) < 1e-3
    assert clocks.time.jumps == 1
    assert round(clocks.time.off_s) == HOUR
    clocks.pass_by(10)
    assert abs(clocks.now() - before - 20) < 1e-3
    assert clocks.time.jumps == 1, "one jump is counted once"


def test_it_is_followed_again_when_it_was_set_right() -> None:
    clocks = Clocks()
    clocks.wall += HOUR
    clocks.now()
    clocks.wall -= HOUR
    clocks.wall += 2
    assert abs(clocks.now() - clocks.wall) < 1e-3
    assert clocks.time.off_s == 0


def test_what_is_set_by_less_than_a_minute_is_followed() -> None:
    clocks = Clocks()
    for _ in range(5):
        clocks.wall += JUMP_S - 1
        assert abs(clocks.now() - clocks.wall) < 1e-3
    clocks.wall -= JUMP_S - 1
    assert abs(clocks.now() - clocks.wall) < 1e-3
    assert clocks.time.jumps == 0


def test_a_jump_that_another_director_confirms_is_followed() -> None:
    clocks = Clocks()
    clocks.wall += 30 * 24 * HOUR  # set for the first time since the machine started
    before = clocks.now()
    clocks.time.hear(before + 1)  # who says the same as before confirms nothing
    assert clocks.now() == before
    clocks.time.hear(clocks.wall - 0.5)
    assert abs(clocks.now() - clocks.wall) < 1e-3
    assert clocks.time.jumps == 1
    assert clocks.time.off_s == 0


def test_who_is_told_a_time_without_a_jump_goes_on_by_his_own() -> None:
    clocks = Clocks()
    before = clocks.now()
    clocks.time.hear(before + HOUR)
    assert clocks.now() == before
