# SPDX-License-Identifier: Apache-2.0
"""Eligible: which backends of a pool get new sessions, and what becomes of the sessions they have.

Three things meet here that never share a field: what the file says, what people set by command on
top of it (core/intent.py), and what was measured (core/health.py). Out comes, per pool and backend,
the weight for new sessions, the standing for old ones, and the reasons in words for the operator.

The weight is 0 while the backend is drained or down. The standing is `NORMAL` as long as its
sessions may stay: a weight of 0 alone moves nobody. A backend that is down at times and back soon
(suppressed by damping) loses no flow for that: they may well be working.

Pure: the time is an argument, and `until` says when the answer changes by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from limpet.core.health import Health
from limpet.core.intent import Drain, Intents
from limpet.core.model import AtDeadline, Desired, DrainRule, OnDown, Pool, Standing

Key = tuple[str, str]  # pool, backend
SLOW_START_FROM = 0.1  # share of the weight with which a backend begins
STEP_S = 1.0  # of slow start

ON_DOWN = {
    OnDown.HOLD: Standing.NORMAL,
    OnDown.RESET: Standing.RESET,
    OnDown.REHASH: Standing.LEFT_BY_FLOWS,
}


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is in effect for one backend of a pool."""

    weight: int  # for new sessions; 0: it gets none
    full_weight: int  # by command, else by the file
    standing: Standing = Standing.NORMAL
    reasons: tuple[str, ...] = ()  # why the weight or the standing is not the usual
    until: float | None = None  # when this changes by itself; None: never
    share: float = 1.0  # of the full weight, by slow start; `weight` is this, rounded


@dataclass(frozen=True, slots=True)
class _Effect:
    """What one cause does to a backend."""

    reason: str = ""
    standing: Standing = Standing.NORMAL
    is_out: bool = True  # it gets no new sessions
    until: float | None = None


def assess(
    desired: Desired,
    intents: Intents,
    health: Mapping[Key, Health],
    now: float,
    came: Mapping[Key, float],
) -> dict[Key, Assessment]:
    """Every backend of every pool, by (pool, backend).

    `health` has those that are checked. `came` says since when a backend has been in use, for slow
    start; one that it does not have has been there all along. Times are Unix seconds.
    """
    found: dict[Key, Assessment] = {}
    for pool in desired.pools:
        weights = {
            name: intents.weights.get((pool.name, name), weight)
            for name, weight in pool.weights.items()
        }
        down = _down(pool, health)
        fails_open = pool.fail_open and _are_all_down(weights, intents, down)
        for name, in_file in pool.weights.items():
            key, full, drain = (pool.name, name), weights[name], intents.drains.get(name)
            start = came.get(key) if pool.slow_start_s else None
            if drain is None and start is None and full == in_file > 0 and name not in down:
                found[key] = _usual(full)
                continue
            effects = list(_effects(pool, drain, down.get(name), now))
            if fails_open:
                effects = [*_draining(pool, drain, now), *_open(name in down)]
            found[key] = _assessment(pool, name, full, effects, start, now)
    return found


@lru_cache(maxsize=256)
def _usual(weight: int) -> Assessment:
    """Active, up, as in the file: nearly everybody, nearly always."""
    return Assessment(weight, weight)


def _down(pool: Pool, health: Mapping[Key, Health]) -> dict[str, Health]:
    """The pool's backends that count as down. Without a check nobody does."""
    if pool.health is None:
        return {}
    known = {
        name: health[(pool.name, name)] for name in pool.weights if (pool.name, name) in health
    }
    return {name: each for name, each in known.items() if not each.is_up or each.is_suppressed}


def _are_all_down(weights: Mapping[str, int], intents: Intents, down: Mapping[str, Health]) -> bool:
    active = [name for name, weight in weights.items() if weight and name not in intents.drains]
    return bool(active) and all(name in down for name in active)


def _effects(pool: Pool, drain: Drain | None, down: Health | None, now: float) -> Iterator[_Effect]:
    yield from _draining(pool, drain, now)
    if down is not None:
        yield _being_down(pool, down, now)


def _open(is_down: bool) -> Iterator[_Effect]:
    if is_down:
        yield _Effect("down, used all the same: every backend is (fail-open)", is_out=False)


def _draining(pool: Pool, drain: Drain | None, now: float) -> Iterator[_Effect]:
    if drain is None:
        return
    if drain.drained is not None:
        yield _Effect(f"drained since {stamp(drain.drained)}", Standing.LEFT_BY_SESSIONS)
        return
    begun = f"draining since {stamp(drain.began)}"
    if drain.deadline is not None and now >= drain.deadline:
        is_reset = drain.at_deadline is AtDeadline.RESET
        word = "who is left is being reset" if is_reset else "who is left may stay"
        standing = Standing.LEFT_BY_SESSIONS | (Standing.RESET if is_reset else Standing.NORMAL)
        yield _Effect(f"{begun}, the deadline has passed: {word}", standing)
        return
    is_strict = (drain.rule or pool.drain) is DrainRule.FLOWS
    standing = Standing.LEFT_BY_SESSIONS if is_strict else Standing.NORMAL
    yield _Effect(begun, standing, until=drain.deadline)


def _being_down(pool: Pool, down: Health, now: float) -> _Effect:
    reason = f"down: {down.reason}"
    over = down.since + pool.hold_s
    action = ON_DOWN[pool.on_down]
    if down.is_suppressed or not action:
        return _Effect(reason, Standing.LEFT_BY_SESSIONS)
    if now < over:
        return _Effect(reason, Standing.LEFT_BY_SESSIONS, until=over)
    return _Effect(f"{reason} ({pool.on_down} of its flows)", Standing.LEFT_BY_SESSIONS | action)


def _assessment(
    pool: Pool,
    name: str,
    full: int,
    effects: list[_Effect],
    start: float | None,
    now: float,
) -> Assessment:
    reasons = [effect.reason for effect in effects]
    moments = [effect.until for effect in effects if effect.until is not None]
    if full != pool.weights[name]:
        reasons.append(f"weight {full} by command, {pool.weights[name]} in the file")
    elif full == 0:
        reasons.append("weight 0")
    standing = Standing.NORMAL
    for effect in effects:
        standing |= effect.standing
    if full == 0 or any(effect.is_out for effect in effects):
        return Assessment(0, full, standing, tuple(reasons), min(moments, default=None))
    share, step = _slow_start(pool, start, now)
    if step is not None:
        reasons.append(f"slow start {share:.0%}".replace("%", " %"))
        moments.append(step)
    weight = max(1, round(full * share))
    return Assessment(weight, full, standing, tuple(reasons), min(moments, default=None), share)


def _slow_start(pool: Pool, start: float | None, now: float) -> tuple[float, float | None]:
    """Share of the full weight, and when the next step is due."""
    if start is None or now >= start + pool.slow_start_s:
        return 1.0, None
    steps = max(0, int((now - start) // STEP_S))
    share = SLOW_START_FROM + (1 - SLOW_START_FROM) * steps * STEP_S / pool.slow_start_s
    return share, min(start + (steps + 1) * STEP_S, start + pool.slow_start_s)


def stamp(moment: float) -> str:
    """A Unix time as people read it: 2026-01-31T12:00:00Z."""
    return f"{np.datetime64(int(moment), 's')}Z"
