# SPDX-License-Identifier: Apache-2.0
"""Condition: how backends are, as the JSON that API and commands show: intent, health, drains.

What people want and what was measured stand side by side, with why a backend gets no new sessions.
"""

from collections.abc import Mapping

from limpet.api.interface import Json
from limpet.core import drain as drains_of
from limpet.core.drain import Watch
from limpet.core.health import Health
from limpet.core.intent import Drain, Intents
from limpet.core.model import CheckKind, Desired, HealthCheck, Pool
from limpet.daemon.answer import iso
from limpet.daemon.effect import Effect


def measured(effect: Effect, desired: Desired, backend: str) -> str:
    """Health over all pools: "down" if any of them says so, "unchecked" if none checks."""
    found = [
        effect.health[(pool.name, backend)]
        for pool in desired.pools
        if pool.health is not None and (pool.name, backend) in effect.health
    ]
    if not found:
        return "unchecked"
    return "up" if all(each.is_up and not each.is_suppressed for each in found) else "down"


def why_no_new_sessions(effect: Effect, backend: str) -> list[str]:
    """Reasons of the pools that give it none, told apart if they differ; empty: it gets some."""
    reasons = {
        pool: each.reasons
        for (pool, name), each in effect.assessments.items()
        if name == backend and each.weight == 0
    }
    if len(set(reasons.values())) == 1:
        return list(next(iter(reasons.values())))
    return [f"pool {pool}: {reason}" for pool, found in reasons.items() for reason in found]


# --- Health --------------------------------------------------------------------------------------


def health(effect: Effect, desired: Desired) -> list[Json]:
    """Every backend of every pool that checks, in the order of the file."""
    return [
        _health(pool, name, effect.health[(pool.name, name)])
        for pool in desired.pools
        for name in pool.weights
        if pool.health is not None and (pool.name, name) in effect.health
    ]


def _health(pool: Pool, backend: str, found: Health) -> Json:
    assert pool.health is not None
    return {
        "pool": pool.name,
        "backend": backend,
        "is_up": found.is_up,
        "since": iso(found.since),
        "reason": found.reason,
        "is_suppressed": found.is_suppressed,
        "checked": iso(found.checked),
        "check": _check(pool.health),
    }


def _check(check: HealthCheck) -> str:
    what = str(check.kind)
    if check.kind is CheckKind.COMMAND:
        what += f" {check.command[0]}" if check.command else ""
    elif check.kind in (CheckKind.HTTP, CheckKind.HTTPS):
        what += f" {check.http_path}"
    return f"{what} ({check.path}), every {check.interval_s:g} s"


def changes(before: Mapping[tuple[str, str], Health], after: Effect) -> list[Json]:
    """Events of backends whose health is another now. Who is new and up is none."""
    found = []
    for (pool, backend), now in after.health.items():
        was = before.get((pool, backend))
        counted = was is None or (was.is_up and not was.is_suppressed)
        counts = now.is_up and not now.is_suppressed
        if counted != counts:
            found.append(
                {
                    "kind": "health_changed",
                    "at": iso(now.since),
                    "pool": pool,
                    "backend": backend,
                    "is_up": counts,
                    "reason": now.reason,
                }
            )
    return found


# --- Drains --------------------------------------------------------------------------------------


def drain(watch: Watch, counted: tuple[int, int], now: float) -> Json:
    """One drain; `counted`: sessions and flows, where the watch does not count any (more)."""
    drain, counts = watch.drain, watch.counts if watch.drain.drained is None else None
    sessions, flows = counted if counts is None else (counts.sessions, counts.flows)
    end_s = drains_of.estimated_end_s(watch, now)
    return {
        **_terms(drain),
        "state": str(drains_of.state(drain, now)),
        "sessions": sessions,
        "flows": flows,
        "oldest_s": None if counts is None else counts.oldest_s,
        "leaving_per_s": None if counts is None else round(drains_of.leaving_per_s(watch), 2),
        "estimated_end_s": None if end_s is None else round(end_s, 1),
        "sessions_at_start": sessions if watch.at_start is None else watch.at_start.sessions,
    }


def _terms(drain: Drain) -> Json:
    return {
        "backend": drain.backend,
        "began": iso(drain.began),
        "by": drain.by,
        "rule": None if drain.rule is None else str(drain.rule),
        "deadline": iso(drain.deadline),
        "at_deadline": str(drain.at_deadline),
        "drained": iso(drain.drained),
    }


def intents(found: Intents, revision: int) -> Json:
    """All intents, as commands set them."""
    return {
        "revision": revision,
        "drains": [_terms(each) for each in found.drains.values()],
        "weights": [
            {"pool": pool, "backend": backend, "weight": weight}
            for (pool, backend), weight in found.weights.items()
        ],
        "pop_drains": [
            {"pop": each.pop, "began": iso(each.began), "by": each.by}
            for each in found.pop_drains.values()
        ],
    }
