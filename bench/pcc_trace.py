# SPDX-License-Identifier: Apache-2.0
"""The event trace of `bench.pcc`: sessions, their packets, where they come in, and changes of pool.

Everything is drawn from one seed before any scheme sees it, so that all schemes meet the same
packets in the same order. Time goes in steps; a session sends in its first step, in the next (the
end of a handshake), and then once a second. It comes in at its client's PoP; some clients shift
to the other PoP at given seconds, and some have no stable route: they alternate packet by packet.

A backend that leaves the pool goes on serving the sessions that it has: nothing breaks by death.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS_PER_S = 10
SECONDS = 60
POPS = 2
MEAN_LIFE_S = 60.0
# The published workload: 24 backends become 30 and then 22, all within 20 seconds.
GROWS_S, SHRINKS_S, ENDS_S = 20.0, 30.0, 40.0
FIRST, MOST, LEAST = 24, 30, 22
SHIFTS_S = (15, 24, 28, 33, 37, 45)  # seconds in which clients shift
SHIFT_SHARE = 0.08  # of all clients, each time
UNSTABLE_SHARE = 0.01  # of clients whose route alternates packet by packet

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """Sessions by number; times in steps."""

    begin: Ids
    end: Ids
    hashes: NDArray[np.uint64]
    pops: Ids  # in which each begins
    shifts: tuple[tuple[int, Ids], ...]  # step, and sessions whose client shifts then
    unstable: NDArray[np.bool_]
    pools: tuple[tuple[int, tuple[int, ...]], ...]  # step, and backends from then on

    @property
    def steps(self) -> int:
        return SECONDS * STEPS_PER_S

    def packets(self) -> Iterator[tuple[int, Ids, Ids]]:
        """(step, sessions that send in it, PoPs by which their packets come in)."""
        pops, shifts = self.pops.copy(), dict(self.shifts)
        for step in range(self.steps):
            if step in shifts:
                pops[shifts[step]] = (pops[shifts[step]] + 1) % POPS
            age = step - self.begin
            is_sending = (age >= 0) & (step <= self.end) & ((age % STEPS_PER_S == 0) | (age == 1))
            ids = np.flatnonzero(is_sending)
            turn = np.where(self.unstable[ids], age[ids] // STEPS_PER_S + age[ids], 0)
            yield step, ids, (pops[ids] + turn) % POPS


def make(sessions: int, seed: int, has_shifts: bool) -> Trace:
    """A trace with about as many sessions at a time; they come and go at the same rate."""
    rng = np.random.default_rng(seed)
    steps = SECONDS * STEPS_PER_S
    arriving = rng.poisson(sessions / MEAN_LIFE_S * SECONDS)
    total = sessions + arriving
    begin = np.concatenate([np.zeros(sessions, np.int64), rng.integers(1, steps, arriving)])
    begin[:sessions] = rng.integers(0, STEPS_PER_S, sessions)  # so that they do not send at once
    end = begin + (rng.exponential(MEAN_LIFE_S, total) * STEPS_PER_S).astype(np.int64) + 1
    shifts = [
        (at * STEPS_PER_S, np.flatnonzero(rng.random(total) < SHIFT_SHARE)) for at in SHIFTS_S
    ]
    return Trace(
        begin,
        end,
        rng.integers(0, 1 << 63, total).astype(np.uint64),
        rng.integers(0, POPS, total),
        tuple(shifts) if has_shifts else (),
        (rng.random(total) < UNSTABLE_SHARE) & has_shifts,
        tuple(_pools()),
    )


def _pools() -> Iterator[tuple[int, tuple[int, ...]]]:
    """One backend more, or one fewer, at a time, evenly spread. Those that leave come from all
    over the list: the first is not always the last.
    """
    members = list(range(1, FIRST + 1))
    yield 0, tuple(members)
    grows = np.linspace(GROWS_S, SHRINKS_S, MOST - FIRST, endpoint=False)
    for at, number in zip(grows, range(FIRST + 1, MOST + 1), strict=True):
        members.append(number)
        yield round(at * STEPS_PER_S), tuple(members)
    for place, at in enumerate(np.linspace(SHRINKS_S, ENDS_S, MOST - LEAST, endpoint=False)):
        members.pop(place * 7 % len(members))
        yield round(at * STEPS_PER_S), tuple(members)
