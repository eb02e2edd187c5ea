# SPDX-License-Identifier: Apache-2.0
"""Intent: what people want beyond the configuration file, set by command: drains and weights.

The file stays the source of what it declares; intents lie on top of it until they are taken back.
They name backends, pools and PoPs, as people do; an intent for a name that the file does not have
is kept, and has no effect. Health, which is measured, is never here.

Pure values: every change is a new `Intents`. The store keeps them under ordered revisions, as the
JSON that `encode` makes and `decode` reads. `decode` refuses whatever `encode` would not write: a
drain that was misread would send new sessions to a machine that somebody is about to switch off.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from limpet.core.model import WEIGHT_MAX, AtDeadline, DrainRule

TIME_MAX = 2.0**40  # Unix seconds; some 35,000 years


@dataclass(frozen=True, slots=True)
class Drain:
    """A backend gets no new sessions. Times are Unix seconds."""

    backend: str
    began: float
    by: str  # who asked
    rule: DrainRule | None = None  # None: that of each pool
    deadline: float | None = None
    at_deadline: AtDeadline = AtDeadline.KEEP
    drained: float | None = None  # when the last one had gone; None: not yet


@dataclass(frozen=True, slots=True)
class PopDrain:
    """The directors of a PoP announce no VIP. Its backends stay in use."""

    pop: str
    began: float  # Unix seconds
    by: str  # who asked


@dataclass(frozen=True, slots=True)
class Intents:
    """All intents. Weights by (pool, backend)."""

    drains: Mapping[str, Drain] = field(default_factory=dict)
    weights: Mapping[tuple[str, str], int] = field(default_factory=dict)
    pop_drains: Mapping[str, PopDrain] = field(default_factory=dict)  # by name of the PoP


def with_drain(intents: Intents, drain: Drain) -> Intents:
    """With this drain, in the place of an earlier one of that backend."""
    return replace(intents, drains={**intents.drains, drain.backend: drain})


def without_drain(intents: Intents, backend: str) -> Intents:
    """With the backend active. The same if it is already."""
    return replace(intents, drains={k: v for k, v in intents.drains.items() if k != backend})


def with_weight(intents: Intents, pool: str, backend: str, weight: int) -> Intents:
    """With a weight in the place of that in the file."""
    if not 0 <= weight <= WEIGHT_MAX:
        raise ValueError(f"weight {weight} is not from 0 to {WEIGHT_MAX}")
    return replace(intents, weights={**intents.weights, (pool, backend): weight})


def without_weight(intents: Intents, pool: str, backend: str) -> Intents:
    """With the weight in the file. The same if it is that already."""
    weights = {k: v for k, v in intents.weights.items() if k != (pool, backend)}
    return replace(intents, weights=weights)


def with_pop_drain(intents: Intents, drain: PopDrain) -> Intents:
    """With this drain, in the place of an earlier one of that PoP."""
    return replace(intents, pop_drains={**intents.pop_drains, drain.pop: drain})


def without_pop_drain(intents: Intents, pop: str) -> Intents:
    """With the PoP announced. The same if it is already."""
    kept = {name: each for name, each in intents.pop_drains.items() if name != pop}
    return replace(intents, pop_drains=kept)


def encode(intents: Intents) -> dict[str, Any]:
    """As JSON, sorted by name: equal intents give equal text."""
    pops = [asdict(intents.pop_drains[name]) for name in sorted(intents.pop_drains)]
    return {
        "drains": [asdict(intents.drains[name]) for name in sorted(intents.drains)],
        "weights": [
            {"pool": pool, "backend": backend, "weight": intents.weights[(pool, backend)]}
            for pool, backend in sorted(intents.weights)
        ],
        # Left out where there are none: revisions of before there were any read the same.
        **({"pop_drains": pops} if pops else {}),
    }


def decode(json: object) -> Intents:
    """The inverse of `encode`. Raises ValueError for anything else."""
    keys = {"drains", "weights"}
    has_pops = isinstance(json, dict) and bool(json.get("pop_drains"))
    whole = _object(json, "intents", keys | {"pop_drains"} if has_pops else keys)
    drains: dict[str, Drain] = {}
    for drain in (_drain(row) for row in _list(whole["drains"], "drains")):
        _is_new(drain.backend, drains, "drain")
        drains[drain.backend] = drain
    weights: dict[tuple[str, str], int] = {}
    for row in _list(whole["weights"], "weights"):
        entry = _object(row, "weight", {"pool", "backend", "weight"})
        key = (_text(entry["pool"], "pool"), _text(entry["backend"], "backend"))
        _is_new(key, weights, "weight")
        weights[key] = _weight(entry["weight"])
    pops: dict[str, PopDrain] = {}
    for row in _list(whole.get("pop_drains", []), "pop_drains"):
        entry = _object(row, "pop_drain", {"pop", "began", "by"})
        pop = _text(entry["pop"], "pop")
        _is_new(pop, pops, "pop_drain")
        pops[pop] = PopDrain(pop, _time(entry["began"], "began"), _text(entry["by"], "by"))
    return Intents(drains, weights, pops)


def _drain(row: object) -> Drain:
    keys = {"backend", "began", "by", "rule", "deadline", "at_deadline", "drained"}
    entry = _object(row, "drain", keys)
    rule = entry["rule"]
    return Drain(
        backend=_text(entry["backend"], "backend"),
        began=_time(entry["began"], "began"),
        by=_text(entry["by"], "by"),
        rule=None if rule is None else DrainRule(_text(rule, "rule")),
        deadline=_time_or_none(entry["deadline"], "deadline"),
        at_deadline=AtDeadline(_text(entry["at_deadline"], "at_deadline")),
        drained=_time_or_none(entry["drained"], "drained"),
    )


def _object(value: object, what: str, keys: set[str]) -> dict[str, object]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise ValueError(f"{what}: not an object with the keys {', '.join(sorted(keys))}")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: not a list")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: {value!r} is not a string")
    return value


def _weight(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= WEIGHT_MAX:
        raise ValueError(f"weight: {value!r} is not a whole number from 0 to {WEIGHT_MAX}")
    return value


def _time(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what}: {value!r} is not a time")
    if not -TIME_MAX < value < TIME_MAX:  # nor is infinity, or what is no number
        raise ValueError(f"{what}: {value!r} is not a time that a calendar has")
    return float(value)


def _time_or_none(value: object, what: str) -> float | None:
    return None if value is None else _time(value, what)


def _is_new(key: object, known: Mapping[Any, object], what: str) -> None:
    if key in known:
        raise ValueError(f"{what}: two for {key!r}")
