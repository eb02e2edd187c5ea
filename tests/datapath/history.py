# SPDX-License-Identifier: Apache-2.0
"""Random histories of a director: packets, time, sweeps, changes of pools, backends and VIPs, and
what other directors tell.

Every step has a seed of its own, so that a history stays the same when others of its steps are
taken away: that is how a failing one is shortened.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from random import Random

from datapath import frames
from limpet.core import affinity
from limpet.core.diff import Changes
from limpet.core.hashing import words
from limpet.core.model import Affinity, BackendId, NextHop, Policy, PoolId, Standing, VipRow
from limpet.datapath.abi import ExceptionFlag, ExceptionKind, Slot
from limpet.datapath.reference import Name
from packets.case import Age, Sweep, Tell
from packets.world import (
    BACKENDS,
    DIRECTOR,
    EMPTY,
    FREE,
    IMAGE,
    INGRESS,
    IPIP4,
    IPIP6,
    L2,
    NO_ROW,
    REDIRECTED,
    ROUND,
    ROWS,
    SPLIT,
    TIMEOUTS,
    Switches,
    pool,
)

Step = bytes | Age | Changes | Sweep | Tell
SWITCHES = [
    Switches(),
    Switches(buckets=1, session_buckets=2),
    Switches(buckets=2, session_buckets=1),
    Switches(buckets=4, session_buckets=2, redirect_always=True),
    Switches(buckets=2, session_buckets=2, flows_are_refused=True),
    Switches(session_buckets=4, answers_are_refused=True, icmp_source4="203.0.113.1"),
    Switches(session_buckets=2, icmp_source4="203.0.113.1", icmp_source6="2001:db8:f::1"),
    Switches(hash_only=True),
    Switches(is_member=True),
    Switches(is_member=True, buckets=2, session_buckets=2, client_queries=3),
    Switches(is_member=True, session_buckets=4, queries_are_refused=True),
]
TICKS = [1, 2, 3, 9, 10, 11, 15, 16, 20, 21, 99, 100, 101, 999, 1000, 1001]
TICKS_OF_CROWDS = [*[1, 2, 9] * 4, 101, 1001]  # mostly short, so that buckets fill
POOLS = [IPIP4, IPIP6, L2, REDIRECTED, SPLIT, EMPTY, ROUND, FREE]
STANDINGS = [
    Standing.LEFT_BY_SESSIONS,
    Standing.LEFT_BY_SESSIONS | Standing.LEFT_BY_FLOWS,
    Standing.LEFT_BY_SESSIONS | Standing.RESET,
]
MARKS = [0, Slot.TELL, Slot.UNSURE, Slot.TELL | Slot.UNSURE]
SINCE, UNTIL = [-1001, -10, -1, 0, 1, 10], [-1, 0, 1, 50, 5000]
FLAGS = [
    0,
    0,
    ExceptionFlag.ASK,
    ExceptionFlag.SPLIT | ExceptionFlag.ASK,
    ExceptionFlag.SPLIT,
    ExceptionFlag.ORPHAN,
    ExceptionFlag.ANSWER,
    ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN,
]
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
            yield _step(Random(seed), players, self.switches.is_member)


def _step(rng: Random, cast: frames.Cast, is_member: bool) -> Step:
    if is_member and rng.random() < 0.15:
        return _tell(rng, cast)
    kind = rng.random()
    if kind < 0.85:
        return frames.frame(rng, cast)
    if kind < 0.92:
        return Age(rng.choice(TICKS_OF_CROWDS if cast.kinds is frames.CROWD else TICKS))
    if kind < 0.94:
        return Sweep()
    return rng.choice([_pool, _pool, _standing, _backend, _backend_gone, _vips, _vip])(rng)


def _tell(rng: Random, cast: frames.Cast) -> Tell:
    """Of somebody who plays: a session, that of a range, or a flow."""
    address = ip_address(rng.choice(cast.vips))
    rows = [row for row in IMAGE.vips if row.address == address] or [IMAGE.vips[0]]
    row, port = rng.choice(rows), rng.choice(cast.client_ports)
    client = words(ip_address(rng.choice(cast.clients[address.version])))
    if rng.random() < 0.4:
        ports = port << 16 | rng.choice(cast.vip_ports)
        name = Name(client, ports, row.id, ExceptionKind.FLOW)
    else:
        mask = affinity.mask(row.affinity, row.address.version, row.prefix)
        shift = affinity.shift(rng.choice([row.port_ranges, row.split_ranges]))
        ports = rng.choice([0, 0, 1 + (port >> shift)])
        under = client[0] & mask[0], client[1] & mask[1]
        name = Name(under, ports, row.id, ExceptionKind.SESSION)
    backend = rng.choice([IPIP4, IPIP6, L2, REDIRECTED, REDIRECTED, NO_ROW])
    return Tell(name, backend, rng.choice(FLAGS), rng.choice(SINCE), rng.choice(UNTIL))


def _pool(rng: Random) -> Changes:
    """A pool gets other homes, or none, other members and policies."""
    homes = [
        rng.choice([0, IPIP4, IPIP6, L2, REDIRECTED, NO_ROW]) for _ in range(rng.choice([1, 3]))
    ]
    members = rng.sample([IPIP4, IPIP6, L2, REDIRECTED, NO_ROW], rng.choice([0, 1, 2, 4]))
    weights = tuple((BackendId(i), rng.choice([1, 2, 7, 65_535])) for i in sorted(members))
    own = {"policy": rng.choice(list(Policy)), "reassign": rng.choice(list(Policy))}
    mark = rng.choice(MARKS)
    return Changes(
        pools_put=(
            pool(rng.choice(POOLS), *homes, generation=2, mark=mark, members=weights, **own),
        )
    )


def _standing(rng: Random) -> Changes:
    """Some backends have a standing in a pool; the rows of some of them say so."""
    standing = tuple(
        (BackendId(i), rng.choice(STANDINGS)) for i in (IPIP4, REDIRECTED) if rng.random() < 0.7
    )
    rows = tuple(
        replace(row, has_standing=rng.random() < 0.8)
        for row in ROWS
        if row.id in (IPIP4, REDIRECTED)
    )
    homes = rng.sample([IPIP4, IPIP6, REDIRECTED], rng.choice([1, 2]))
    number = rng.choice(POOLS)
    mark = rng.choice(MARKS)
    return Changes(rows, (pool(number, *homes, generation=2, mark=mark, standing=standing),))


def _backend(rng: Random) -> Changes:
    """A backend gets another way to it, or comes back."""
    row = rng.choice(ROWS)
    mtu = rng.choice([576, 1280, 1500, 9000])
    hop = NextHop(rng.choice([INGRESS, 7]), rng.choice(MACS), OWN_MAC, mtu)
    changed = replace(row, next_hop=rng.choice([None, hop, hop]), has_standing=rng.random() < 0.3)
    return Changes(backends_put=(changed,))


def _backend_gone(rng: Random) -> Changes:
    return Changes(backends_removed=(BackendId(rng.choice(sorted(BACKENDS))),))


def _vips(rng: Random) -> Changes:
    """Some VIPs go away, and addresses get other numbers."""
    gone = rng.sample(range(len(IMAGE.vips)), rng.choice([0, 1, 5]))
    return Changes(vips=tuple(vip for i, vip in enumerate(IMAGE.vips) if i not in gone))


def _vip(rng: Random) -> Changes:
    """Some VIPs are balanced in another way."""
    changed = {row.id: _changed(rng, row) for row in rng.sample(IMAGE.vips, 5)}
    return Changes(vips=tuple(changed.get(row.id, row) for row in IMAGE.vips))


def _changed(rng: Random, row: VipRow) -> VipRow:
    return replace(
        row,
        pool=PoolId(rng.choice(POOLS)),
        affinity=rng.choice(list(Affinity)),
        prefix=rng.choice([None, 24, 32]),
        port_ranges=rng.choice([2, 16, 65_536]),
        split_flows=rng.choice([0, 1, 3, 6]),
        split_ranges=rng.choice([2, 4_096]),
        looks_at_list=rng.random() < 0.5,
        timeouts=rng.choice([TIMEOUTS, replace(TIMEOUTS, tcp_established_s=5, udp_s=5)]),
    )
