# SPDX-License-Identifier: Apache-2.0
"""Scenarios: a cluster, its clients, and what happens to it; TOML files, and events of one seed.

`draw` makes a list of events from a scenario and a seed. A run is that list and the clients of the
seed: so a failing run can be shortened event by event, and shown again.
"""

import tomllib
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from random import Random

from limpet.core.errors import ConfigError, NotFound, Problem
from limpet.core.model import Affinity, Policy, Prefer

BUILT_IN = ("usual", "stable", "rough", "cut", "flow", "freest", "near")
GROUPS = 64  # of clients whose routes change together


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at a time. What `subject` and `other` are depends on the kind."""

    at: float
    kind: str
    subject: int = 0
    other: int = 0
    for_s: float = 0.0

    def __str__(self) -> str:
        text = f"{self.at:.3f} {self.kind} {self.subject} {self.other} {self.for_s:.3f}"
        return text


@dataclass(frozen=True, slots=True)
class Scenario:
    """Sizes, rates and faults. Times are seconds, rates are per run unless they say otherwise."""

    name: str = ""
    says: str = ""
    pops: int = 2
    directors: int = 2  # of each PoP
    backends: int = 12
    policy: str = "hash"
    affinity: str = "client"
    prefer: str = "any"  # near: backends stand in the PoPs by turns
    seconds: float = 60.0
    clients: int = 4_000
    life_s: float = 15.0  # of a client, mean
    packets: int = 2  # of data of each connection, mean
    idle_s: int = 1_800
    loss: float = 0.001  # of any packet or message
    delay_ms: float = 8.0  # between PoPs, mean; of messages half of it at least
    shifts: int = 6  # a group of clients goes to another PoP
    flaps: int = 1  # a group alternates packet by packet
    changes: int = 6  # a backend is added or removed
    drains: int = 1
    crashes: int = 0  # a director's machine is lost, and comes back empty
    daemon_crashes: int = 1
    store_cuts: int = 0  # a director does not reach the store
    peer_cuts: int = 0  # two directors do not reach each other
    fault_s: float = 3.0  # that a fault lasts, mean


def load(name: str) -> Scenario:
    """A built-in scenario by its name, or one from a file. Raises NotFound, ConfigError."""
    if name in BUILT_IN:
        text = (files("limpet.sim") / "scenarios" / f"{name}.toml").read_text()
    elif Path(name).exists():
        text = Path(name).read_text()
    else:
        raise NotFound(
            f"no scenario {name!r}: it is neither a file nor one of {', '.join(BUILT_IN)}"
        )
    return parse(text, name)


def parse(text: str, where: str) -> Scenario:
    """Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(where, str(error), "write TOML: a key, =, a value") from None
    usual = asdict(Scenario())
    for key, value in values.items():
        if key not in usual:
            raise _wrong(where, f"unknown key {key!r}", f"there are {', '.join(usual)}")
        wanted = type(usual[key])
        is_number = wanted is float and type(value) is int
        if type(value) is not wanted and not is_number:
            raise _wrong(where, f"{key} = {value!r}", f"give it as {wanted.__name__}")
    scenario = Scenario(**{"name": Path(where).stem, **values})
    kinds: tuple[tuple[str, type[StrEnum]], ...] = (
        (scenario.policy, Policy),
        (scenario.affinity, Affinity),
        (scenario.prefer, Prefer),
    )
    for value, kind in kinds:
        if value not in list(kind):
            raise _wrong(where, f"{value!r} is none of {', '.join(kind)}", "say one of them")
    if not 2 <= scenario.pops * scenario.directors <= 32 or not 2 <= scenario.backends <= 1_000:
        raise _wrong(where, "too few or too many", "2 to 32 directors, 2 to 1,000 backends")
    return scenario


def _wrong(where: str, why: str, mend: str) -> ConfigError:
    return ConfigError([Problem(where, why, mend)])


@dataclass(slots=True)
class _Pool:
    """What is in the pool while events are drawn."""

    backends: list[int]
    drained: list[int] = field(default_factory=list)
    next_one: int = 0


def draw(scenario: Scenario, seed: int) -> tuple[Event, ...]:
    """All events of a run, in order."""
    rng = Random(f"events {seed}")
    directors = scenario.pops * scenario.directors
    counts = {
        "shift": scenario.shifts,
        "flap": scenario.flaps,
        "change": scenario.changes,
        "drain": scenario.drains,
        "crash": scenario.crashes,
        "daemon": scenario.daemon_crashes,
        "store": scenario.store_cuts,
        "peers": scenario.peer_cuts,
    }
    begin, end = scenario.seconds * 0.1, scenario.seconds * 0.9
    times = sorted((rng.uniform(begin, end), kind) for kind, n in counts.items() for _ in range(n))
    pool = _Pool(list(range(1, scenario.backends + 1)), next_one=scenario.backends + 1)
    events = []
    for at, kind in times:
        lasts = rng.expovariate(1 / scenario.fault_s) + 0.2
        if kind == "shift":
            events.append(Event(at, kind, rng.randrange(GROUPS), rng.randrange(scenario.pops)))
        elif kind == "flap":
            events.append(Event(at, kind, rng.randrange(GROUPS), 0, lasts))
        elif kind in ("change", "drain"):
            events.append(_of_pool(rng, at, kind, pool))
        else:
            a, b = rng.sample(range(directors), 2)
            events.append(Event(at, kind, a, b, lasts))
    return tuple(events)


def _of_pool(rng: Random, at: float, kind: str, pool: _Pool) -> Event:
    active = [b for b in pool.backends if b not in pool.drained]
    if kind == "drain" and len(active) > 2:
        pool.drained.append(rng.choice(active))
        return Event(at, "drain", pool.drained[-1])
    if len(active) > 2 and rng.random() < 0.5:
        gone = rng.choice(active)
        pool.backends.remove(gone)
        return Event(at, "remove", gone)
    pool.backends.append(pool.next_one)
    pool.next_one += 1
    return Event(at, "add", pool.backends[-1])
