# SPDX-License-Identifier: Apache-2.0
"""Intents: what each command makes of the intents that are, or why it is refused.

A change is the new intents, one line for the history, and the events that it causes (times in them
are Unix seconds); it is kept and brought into the kernel by the reconcile task. Whoever asks for
what is so already changes nothing. Names have to be those of the configuration file, except where
an intent is taken back: one that a reload has left without its backend can still be removed.

Pure. Not here: compare-and-set (store/revisions.py), and what intents do (core/eligible.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from limpet.api.interface import DEADLINE_MAX_S, DrainRequest, Json
from limpet.core.errors import ConfigError, Conflict, NotFound, Problem
from limpet.core.intent import (
    Drain,
    Intents,
    with_drain,
    with_weight,
    without_drain,
    without_weight,
)
from limpet.core.model import WEIGHT_MAX, Desired


@dataclass(frozen=True, slots=True)
class Change:
    """New intents, and what is said about them."""

    intents: Intents
    what: str  # one line, for the history
    events: tuple[Json, ...] = ()


def drain(
    desired: Desired, intents: Intents, backend: str, request: DrainRequest, by: str, now: float
) -> Change:
    """The backend gets no new sessions from now on; of one that drains, the terms change."""
    name = _backend(desired, backend)
    running = intents.drains.get(name)
    wanted = Drain(
        backend=name,
        began=now if running is None else running.began,
        by=by if running is None else running.by,
        rule=request.rule,
        deadline=_deadline(request, now),
        at_deadline=request.at_deadline,
    )
    if running is not None and replace(running, drained=None) == wanted:
        return Change(intents, "")
    if running is not None and running.drained is not None:
        raise Conflict(
            f"backend {name!r} is drained already, for {_length(now - running.drained)}: there is "
            f"nobody left to wait for; `limpet backend undrain {name}` puts it to use again"
        )
    changed = with_drain(intents, wanted)
    return Change(changed, f"drain {name}{_terms(request)}", (_began(wanted, now),))


def undrain(desired: Desired, intents: Intents, backend: str, by: str, now: float) -> Change:
    """The backend gets new sessions again."""
    if backend not in intents.drains:
        _backend(desired, backend)
        raise Conflict(f"backend {backend!r} is not draining; draining: {_listed(intents.drains)}")
    event = {"kind": "drain_ended", "at": now, "backend": backend, "by": by}
    return Change(without_drain(intents, backend), f"undrain {backend}", (event,))


def weight(
    desired: Desired,
    intents: Intents,
    member: tuple[str, str],
    value: int | None,
    by: str,
    now: float,
) -> Change:
    """A weight on top of the file's; None takes it back."""
    pool, backend = member
    if value is None and member in intents.weights:
        changed = without_weight(intents, pool, backend)
    else:
        _member(desired, pool, backend)
        if value is None:
            return Change(intents, "")
        _check_weight(value)
        changed = with_weight(intents, pool, backend, value)
    event: Json = {"kind": "weight_set", "at": now, "pool": pool, "backend": backend}
    event |= {"weight": value, "by": by}
    said = f"weight of {backend} in {pool}: {'that of the file' if value is None else value}"
    return Change(changed, said, (event,))


def drained(intents: Intents, done: Iterable[tuple[Drain, Json]]) -> Change:
    """Drains that have ended, unless people have changed their minds meanwhile."""
    changed, names, events = intents, [], []
    for each, event in done:
        if changed.drains.get(each.backend) == replace(each, drained=None):
            changed = with_drain(changed, each)
            names.append(each.backend)
            events.append(event)
    return Change(changed, f"drained {', '.join(names)}", tuple(events))


def rolled_back(intents: Intents, old: Intents, revision: int, by: str, now: float) -> Change:
    """The intents of an earlier revision.

    A drain that begins again begins now: its deadline lies as far ahead as it did then, so that
    nobody is reset at once for a deadline of last week.
    """
    drains = {
        name: intents.drains[name]
        if name in intents.drains and intents.drains[name].began == each.began
        else _again(each, by, now)
        for name, each in old.drains.items()
    }
    pops = {
        name: intents.pop_drains.get(name) or replace(each, began=now, by=by)
        for name, each in old.pop_drains.items()
    }
    changed = Intents(drains=drains, weights=dict(old.weights), pop_drains=pops)
    event = {"kind": "rolled_back", "at": now, "to": revision, "by": by}
    return Change(changed, f"rollback to revision {revision}", (event,))


def _again(each: Drain, by: str, now: float) -> Drain:
    deadline = None if each.deadline is None else now + (each.deadline - each.began)
    return replace(each, began=now, by=by, deadline=deadline, drained=None)


# --- Checks --------------------------------------------------------------------------------------


def _backend(desired: Desired, name: str) -> str:
    names = [backend.name for backend in desired.backends]
    if name not in names:
        raise NotFound(f"there is no backend {name!r}; backends: {_listed(names)}")
    return name


def _member(desired: Desired, pool: str, backend: str) -> None:
    pools = {each.name: each for each in desired.pools}
    if pool not in pools:
        raise NotFound(f"there is no pool {pool!r}; pools: {_listed(pools)}")
    if backend not in pools[pool].weights:
        members = _listed(pools[pool].weights)
        raise NotFound(f"there is no backend {backend!r} in pool {pool!r}; it has: {members}")


def _check_weight(value: int) -> None:
    if not 0 <= value <= WEIGHT_MAX:
        why, mend = f"{value} is no weight", f"give a whole number from 0 to {WEIGHT_MAX}"
        raise ConfigError([Problem("weight", why, mend)])


def _deadline(request: DrainRequest, now: float) -> float | None:
    if request.deadline_s is None:
        return None
    if not 0 <= request.deadline_s <= DEADLINE_MAX_S:
        why = f"{request.deadline_s:g} s is no time to wait"
        raise ConfigError([Problem("deadline_s", why, f"give 0 to {DEADLINE_MAX_S:g} seconds")])
    return now + request.deadline_s


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _terms(request: DrainRequest) -> str:
    terms = [] if request.rule is None else [f"rule {request.rule}"]
    if request.deadline_s is not None:
        terms.append(f"{request.at_deadline} after {_length(request.deadline_s)}")
    return f" ({', '.join(terms)})" if terms else ""


def _began(wanted: Drain, now: float) -> Json:
    return {
        "kind": "drain_began",
        "at": now,
        "backend": wanted.backend,
        "by": wanted.by,
        "rule": None if wanted.rule is None else str(wanted.rule),
        "deadline": wanted.deadline,
        "at_deadline": str(wanted.at_deadline),
    }


def _length(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
