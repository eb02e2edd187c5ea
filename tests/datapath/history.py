# SPDX-License-Identifier: Apache-2.0
"""Random histories of a director: packets, time, and changes of pools, backends and VIPs.

Every step has a seed of its own, so that a history stays the same when others of its steps are
taken away: that is how a failing one is shortened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from datapath import frames
from limpet.core.diff import Changes
from limpet.core.model import BackendId, BackendRow, NextHop
from packets.case import Age
from packets.world import (
    BACKENDS,
    DIRECTOR,
    EMPTY,
    IMAGE,
    INGRESS,
    IPIP4,
    IPIP6,
    L2,
    NO_ROW,
    REDIRECTED,
    ROWS,
    SPLIT,
    Switches,
    pool,
)

Step = bytes | Age | Changes
SWITCHES = [
    Switches(),
    Switches(buckets=1),
    Switches(buckets=2),
    Switches(buckets=4, redirect_always=True),
    Switches(buckets=2, flows_are_refused=True),
    Switches(answers_are_refused=True, icmp_source4="203.0.113.1"),
    Switches(icmp_source4="203.0.113.1", icmp_source6="2001:db8:f::1"),
]
TICKS = [1, 2, 3, 9, 10, 11, 15, 16, 20, 21, 99, 100, 101, 999, 1000, 1001]
MACS = [bytes(6), bytes.fromhex("020000000099")]
OWN_MAC = bytes.fromhex(DIRECTOR.replace(":", ""))


@dataclass(frozen=True)
class History:
    """Which director, who plays, and a seed for each step."""

    director: int
    cast: int
    steps: list[int]

    @property
    def switches(self) -> Switches:
        return SWITCHES[self.director % len(SWITCHES)]

    def play(self) -> Iterator[Step]:
        """The steps in order."""
        players = frames.cast(Random(self.cast))
        for seed in self.steps:
            yield _step(Random(seed), players)


def _step(rng: Random, cast: frames.Cast) -> Step:
    kind = rng.random()
    if kind < 0.85:
        return frames.frame(rng, cast)
    if kind < 0.92:
        return Age(rng.choice(TICKS[:3] if cast.kinds is frames.CROWD else TICKS))
    return rng.choice([_pool, _pool, _backend, _backend_gone, _vips])(rng)


def _pool(rng: Random) -> Changes:
    """A pool gets other homes, or none."""
    homes = [
        rng.choice([0, IPIP4, IPIP6, L2, REDIRECTED, NO_ROW]) for _ in range(rng.choice([1, 3]))
    ]
    number = rng.choice([IPIP4, IPIP6, L2, REDIRECTED, SPLIT, EMPTY])
    return Changes(pools_put=(pool(number, *homes, generation=2),))


def _backend(rng: Random) -> Changes:
    """A backend gets another way to it, or comes back."""
    row = rng.choice(ROWS)
    mtu = rng.choice([576, 1280, 1500, 9000])
    hop = NextHop(rng.choice([INGRESS, 7]), rng.choice(MACS), OWN_MAC, mtu)
    changed = BackendRow(row.id, row.address, row.encapsulation, rng.choice([None, hop, hop]))
    return Changes(backends_put=(changed,))


def _backend_gone(rng: Random) -> Changes:
    return Changes(backends_removed=(BackendId(rng.choice(sorted(BACKENDS))),))


def _vips(rng: Random) -> Changes:
    """Some VIPs go away, and addresses get other numbers."""
    gone = rng.sample(range(len(IMAGE.vips)), rng.choice([0, 1, 5]))
    return Changes(vips=tuple(vip for i, vip in enumerate(IMAGE.vips) if i not in gone))
