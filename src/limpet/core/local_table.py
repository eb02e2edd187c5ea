# SPDX-License-Identifier: Apache-2.0
"""Local tables: what this director makes of the table of a pool that all have agreed on.

They differ where a backend cannot be reached from here (it is bypassed by this director alone) and
where a pool prefers near backends: those of the director's PoP, then, when none of them can be used
or all are full, those of the next by cost. A local table is a pure function of the agreed one and
the weights here, so two directors that see the same have the same.

Marks on slots make up for the difference. `TELL`: others look elsewhere, so sessions that begin
here are told to them. `UNSURE`: a flow that nobody here knows may belong elsewhere. A slot has both
where the tables differ or a change under way moves it, and all slots have where others may place by
something else than the table; one stays unsure for as long as a session may live that began before
it moved. A director that is cut off is sure of no slot.

A director that stands alone marks nothing. Not here: what is told, and who is asked.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from limpet.core.agreement import Agreement, settled
from limpet.core.eligible import Assessment
from limpet.core.model import (
    SLOT_TELL,
    SLOT_UNSURE,
    BackendId,
    Desired,
    Policy,
    Pool,
    PoolId,
    Prefer,
    Protocol,
    Slots,
)
from limpet.core.registry import Registry
from limpet.core.slots import SlotTable, build, digest

UNSURE_S = 7 * 86_400.0  # and the longest idle limit: that a slot stays unsure after it moved
FULL_UNTIL = 0.9  # a full backend counts as full until it has so much of its limit

Weights = Mapping[BackendId, int]


@dataclass(frozen=True, slots=True)
class LocalTable:
    """What goes into the kernel for one pool."""

    weights: Weights  # of the members, above 0
    slots: Slots  # with marks
    digest: str  # of the slots with their marks
    homes: str  # digest of the slots without


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else a member sees: where it stands, what comes, who is full or otherwise elsewhere."""

    pop: str = ""
    following: Registry | None = None  # of a change that is under way
    full: frozenset[str] = frozenset()  # backends that have as many sessions as they may
    elsewhere: frozenset[str] = frozenset()  # pools of which another director's table differs
    is_cut_off: bool = False  # from the store: others may run tables that are not known here
    now: float = 0.0  # Unix seconds


ALONE = Surroundings()


def alone(registry: Registry, weights: Mapping[PoolId, Weights]) -> dict[PoolId, LocalTable]:
    """For a director that shares its tables with nobody: as they are."""
    found = {}
    for pool, table in registry.tables.items():
        found[pool] = LocalTable(weights.get(pool, {}), table.slots, table.digest, table.digest)
    return found


def member(
    desired: Desired,
    agreement: Agreement,
    assessed: Mapping[tuple[str, str], Assessment],
    around: Surroundings,
) -> dict[PoolId, LocalTable]:
    """For a member of a cluster. `assessed`: by the health that is measured here."""
    return {
        agreement.registry.pools[pool.name]: _table(pool, desired, agreement, assessed, around)
        for pool in desired.pools
    }


def _table(
    pool: Pool,
    desired: Desired,
    agreement: Agreement,
    assessed: Mapping[tuple[str, str], Assessment],
    around: Surroundings,
) -> LocalTable:
    number = agreement.registry.pools[pool.name]
    agreed, wanted = agreement.registry.tables[number], agreement.weights.get(number, {})
    names = {agreement.registry.backends[name].id: name for name in pool.weights}
    reach = {
        i: w for i, w in wanted.items() if i in names and assessed[(pool.name, names[i])].weight
    }
    if pool.prefer is Prefer.NEAR:
        reach = _near(reach, names, desired, around)
    slots = agreed.slots
    if reach != wanted:
        slots = _built(agreed, tuple(sorted(reach.items())), agreement.slot_key).slots
    differs = slots != agreed.slots
    if around.following is not None and number in around.following.tables:
        differs = differs | (around.following.tables[number].slots != agreed.slots)
    since = around.now - UNSURE_S - _longest_idle_s(pool, desired)
    unsure = differs | (agreed.left[0] > settled(agreement.ages.get(number, ()), since))
    if (
        pool.policy is not Policy.HASH
        or pool.prefer is Prefer.NEAR
        or pool.name in around.elsewhere
        or around.is_cut_off
    ):
        differs = unsure = np.ones_like(differs)
    marked = slots | np.where(differs, SLOT_TELL, 0) | np.where(unsure, SLOT_UNSURE, 0)
    marked = marked.astype(np.uint16)
    marked.setflags(write=False)
    return LocalTable(reach, marked, digest(marked), digest(slots))


@lru_cache(maxsize=128)
def _built(agreed: SlotTable, weights: tuple[tuple[BackendId, int], ...], key: bytes) -> SlotTable:
    return build(agreed, dict(weights), int.from_bytes(key, "big"))


def _near(
    weights: Weights, names: Mapping[BackendId, str], desired: Desired, around: Surroundings
) -> dict[BackendId, int]:
    """Those of the nearest PoP that has some with room; with no room anywhere, of the nearest."""
    stands = {backend.name: backend.pop for backend in desired.backends}
    costs: dict[str, float] = {around.pop: -1}
    for pop in desired.pops:
        if pop.name == around.pop:
            costs = {**pop.costs, pop.name: -1}
    rings: dict[float, dict[BackendId, int]] = {}
    for number, weight in weights.items():
        cost = costs.get(stands[names[number]], float("inf"))
        rings.setdefault(cost, {})[number] = weight
    for cost in sorted(rings):
        with_room = {i: w for i, w in rings[cost].items() if names[i] not in around.full}
        if with_room:
            return with_room
    return rings[min(rings)] if rings else {}


def full(
    desired: Desired, sessions: Iterable[Mapping[str, int]], before: Collection[str]
) -> frozenset[str]:
    """Backends with as many sessions, over all directors, as they may have."""
    counts: dict[str, int] = {}
    for each in sessions:
        for name, count in each.items():
            counts[name] = counts.get(name, 0) + count
    found = set()
    for backend in desired.backends:
        share = FULL_UNTIL if backend.name in before else 1.0
        if backend.sessions_max and counts.get(backend.name, 0) >= share * backend.sessions_max:
            found.add(backend.name)
    return frozenset(found)


def _longest_idle_s(pool: Pool, desired: Desired) -> float:
    longest = 0
    for vip in (vip for vip in desired.vips if vip.pool == pool.name):
        times = vip.timeouts
        is_tcp = vip.protocol is Protocol.TCP
        longest = max(longest, times.tcp_established_s if is_tcp else times.udp_s)
    return float(longest)
