# SPDX-License-Identifier: Apache-2.0
"""Unix time that does not jump: what directors stamp on all that they tell each other.

An exception holds until a moment of Unix time. A wall clock that is set an hour ahead by mistake
would let all of them lapse at once, and its director would overrule the others with what it has.
So time goes on by the machine's steady clock, and follows the wall clock only as far as that is set
by up to a minute. A larger jump is an alarm, and is not followed, unless another director's report
says that the new time is the right one: then it was wrong before.

A clock that is wrong when the daemon starts is not noticed here; that it differs from those of the
others is (daemon/cluster/sight.py).
"""

import time
from collections.abc import Callable

import structlog

JUMP_S = 60.0  # by which a wall clock is set at most, to be followed
NS = 1_000_000_000
log = structlog.get_logger()


def _steady_ns() -> int:
    """Goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class UnixTime:
    """The time of one process."""

    def __init__(
        self, wall: Callable[[], int] = time.time_ns, steady: Callable[[], int] = _steady_ns
    ) -> None:
        self._wall, self._steady = wall, steady
        self._base = wall() - steady()
        self.jumps = 0  # of the wall clock that were not followed
        self.off_s = 0.0  # by which the wall clock is ahead of this one

    def now_ns(self) -> int:
        steady, base = self._steady(), self._base  # once: the threads of a daemon share this
        ahead = self._wall() - steady - base
        was_off = abs(self.off_s) > JUMP_S
        self.off_s = ahead / NS
        if abs(self.off_s) <= JUMP_S:
            base, self.off_s = base + ahead, 0.0
            self._base = base
        elif not was_off:
            self.jumps += 1
            log.error("the wall clock jumped, and is not followed", by_s=round(self.off_s, 1))
        return steady + base

    def hear(self, unix: float) -> None:
        """Another director says that it is this time now. Time follows a jump that was right."""
        now_s = self.now_ns() / NS
        if not self.off_s:
            return
        wall_s = now_s + self.off_s
        if abs(unix - wall_s) <= JUMP_S < abs(unix - now_s):
            log.warning("the wall clock is followed: another director says the same")
            self._base, self.off_s = self._wall() - self._steady(), 0.0


CLOCK = UnixTime()


def now_ms() -> int:
    """Unix time in milliseconds."""
    return CLOCK.now_ns() // 1_000_000


def now_s() -> float:
    """Unix time in seconds."""
    return CLOCK.now_ns() / NS
