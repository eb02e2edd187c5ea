# SPDX-License-Identifier: Apache-2.0
"""Effect: what file, intents and health come to now, and since when.

core/eligible.py weighs them at one moment. Two things need a memory, which is here: since when a
backend has been in use, for slow start (on a daemon's first look everybody has been in use all
along), and since when one that drains has had no place in any table, so that a scan which began
later can prove that nobody is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from limpet.core.eligible import Assessment, assess
from limpet.core.health import Health
from limpet.core.intent import Intents
from limpet.core.model import Desired

Key = tuple[str, str]  # pool, backend


@dataclass(frozen=True, slots=True)
class Effect:
    """What is in effect. Times are Unix seconds."""

    intents: Intents = field(default_factory=Intents)
    revision: int = 0  # of the intents
    health: Mapping[Key, Health] = field(default_factory=dict)
    assessments: Mapping[Key, Assessment] = field(default_factory=dict)
    came: Mapping[Key, float] = field(default_factory=dict)
    excluded: Mapping[str, float] = field(default_factory=dict)  # draining backend -> since when

    @property
    def until(self) -> float | None:
        """When it changes by itself; None: never."""
        moments = [each.until for each in self.assessments.values() if each.until is not None]
        return min(moments, default=None)


def weigh(
    before: Effect | None,
    desired: Desired,
    intents: tuple[int, Intents],
    health: Mapping[Key, Health],
    now: float,
) -> Effect:
    """What is in effect from now on. `excluded` is of those that were before: see `applied`."""
    revision, wanted = intents
    came = {} if before is None else dict(before.came)
    found = assess(desired, wanted, health, now, came)
    if before is not None:
        came |= {key: now for key in found if _comes(before, found, key)}
        came = {key: since for key, since in came.items() if key in found and found[key].weight}
        found = assess(desired, wanted, health, now, came)
    excluded = {} if before is None else before.excluded
    out = {name: excluded[name] for name in _out(wanted, found) if name in excluded}
    return Effect(wanted, revision, health, found, came, out)


def applied(effect: Effect, now: float) -> Effect:
    """The same, now that the kernel has it."""
    out = {
        name: effect.excluded.get(name, now) for name in _out(effect.intents, effect.assessments)
    }
    return Effect(
        effect.intents, effect.revision, effect.health, effect.assessments, effect.came, out
    )


def _comes(before: Effect, found: Mapping[Key, Assessment], key: Key) -> bool:
    was = before.assessments.get(key)
    return found[key].weight > 0 and (was is None or was.weight == 0)


def _out(intents: Intents, found: Mapping[Key, Assessment]) -> frozenset[str]:
    """Draining backends that no pool gives new sessions."""
    used = {backend for (_, backend), each in found.items() if each.weight}
    return frozenset(intents.drains) - used
