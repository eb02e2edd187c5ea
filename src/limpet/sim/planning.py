# SPDX-License-Identifier: Apache-2.0
"""What is wanted in the simulation, and what directors make of it: plain calls of core.

`Plans` holds every version that was ever proposed: people change the pool, `agree` gives ids and
slot tables, and each director makes its image of a version with the marks that belong to it.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address

from limpet.core.agreement import Agreement, aged, moved
from limpet.core.eligible import Assessment
from limpet.core.local_table import Surroundings, member
from limpet.core.model import (
    Affinity,
    Backend,
    Desired,
    Director,
    Image,
    Policy,
    Pool,
    Pop,
    Prefer,
    Protocol,
    Slots,
    Timeouts,
    Vip,
)
from limpet.core.plan import agree, image
from limpet.sim.datapath import VIP, VIP_PORT

SLOT_KEY = b"key of the sim.."
FIRST_BACKEND = int(IPv4Address("172.16.0.1"))
WEIGHT = 10


@dataclass(frozen=True)
class Version:
    """One generation: what was wanted, and what was agreed."""

    desired: Desired
    assessments: dict[tuple[str, str], Assessment]
    agreement: Agreement


@dataclass
class Plans:
    """All versions by generation, and the images that were asked for."""

    policy: Policy
    affinity: Affinity
    timeouts: Timeouts
    prefer: Prefer = Prefer.ANY
    pops: int = 1  # that backends stand in by turns, if near ones are preferred
    versions: dict[int, Version] = field(default_factory=dict)
    images: dict[tuple[int, int, str, bool, int], Image] = field(default_factory=dict)

    def first(self, backends: tuple[int, ...]) -> None:
        """Generation 1, the same in each run of a scenario."""
        rules = self.policy, self.affinity, self.timeouts, self.prefer, self.pops
        version = _first(rules, backends)
        self.versions[1] = version

    def propose(self, backends: frozenset[int], drained: frozenset[int], now: float) -> int:
        """The next version; its generation."""
        last = max(self.versions, default=0)
        before = self.versions[last].agreement if last else Agreement(slot_key=SLOT_KEY)
        self._add(last + 1, backends, drained, before, now)
        return last + 1

    def _add(
        self,
        generation: int,
        backends: frozenset[int],
        drained: frozenset[int],
        before: Agreement,
        now: float,
    ) -> None:
        desired = self._desired(backends)
        assessments = {
            ("pool", f"b{i}"): Assessment(0 if i in drained else WEIGHT, WEIGHT) for i in backends
        }
        registry, weights = agree(desired, before.registry, None, assessments)
        ages = dict(before.ages)
        for pool, table in registry.tables.items():
            was = before.registry.tables.get(pool)
            if was is not table:
                ages[pool] = aged(ages.get(pool, ()), table.generation, now)
        agreed = replace(before, registry=registry, weights=weights, ages=ages)
        self.versions[generation] = Version(desired, assessments, agreed)

    def _desired(self, backends: frozenset[int]) -> Desired:
        names = [f"b{i}" for i in sorted(backends)]
        rows = tuple(
            Backend(f"b{i}", IPv4Address(FIRST_BACKEND + i), pop=str(i % self.pops))
            for i in sorted(backends)
        )
        weights = dict.fromkeys(names, WEIGHT)
        pool = Pool("pool", weights, policy=self.policy, prefer=self.prefer)
        vip = Vip(
            *("vip", VIP, Protocol.TCP, VIP_PORT, "pool"),
            affinity=self.affinity,
            timeouts=self.timeouts,
        )
        director = Director("sim", ("eth0",), slot_key=SLOT_KEY)
        pops = tuple(Pop(str(i), _costs(i, self.pops)) for i in range(self.pops))
        return Desired(director, rows, (pool,), (vip,), pops=pops)

    def moves(self, before: int, after: int) -> bool:
        """Whether a version moves any slot."""
        registries = (self.versions[n].agreement.registry for n in (before, after))
        return bool(moved(*registries))

    def image(
        self, generation: int, following: int, pop: str, now: float, *, is_cut_off: bool
    ) -> Image:
        """What a director should hold that runs one version, and knows that another comes. Within
        an hour the same: no slot's past is forgotten that fast.
        """
        key = generation, following, pop, is_cut_off, int(now / 3_600)
        found = self.images.get(key)
        if found is None:
            found = self._image(generation, following, pop, now, is_cut_off=is_cut_off)
            self.images[key] = found
        return found

    def _image(
        self, generation: int, following: int, pop: str, now: float, *, is_cut_off: bool
    ) -> Image:
        version = self.versions[generation]
        coming = self.versions[following].agreement.registry if following else None
        around = Surroundings(pop, coming, is_cut_off=is_cut_off, now=now)
        tables = member(version.desired, version.agreement, version.assessments, around)
        registry = version.agreement.registry
        return image(version.desired, registry, tables, version.assessments, {})

    def slots(self, generation: int) -> Slots:
        """Homes that were agreed on."""
        return next(iter(self.versions[generation].agreement.registry.tables.values())).slots

    def home(self, generation: int, slot: int) -> int:
        """The agreed home of a slot."""
        return int(self.slots(generation)[slot])


def _costs(pop: int, pops: int) -> dict[str, int]:
    """Of the way to the others, which stand in a circle."""
    return {str(i): (i - pop) % pops for i in range(pops) if i != pop}


Rules = tuple[Policy, Affinity, Timeouts, Prefer, int]


@lru_cache(maxsize=16)
def _first(rules: Rules, backends: tuple[int, ...]) -> Version:
    plans = Plans(*rules)
    plans.propose(frozenset(backends), frozenset(), 0.0)
    return plans.versions[1]
