# SPDX-License-Identifier: Apache-2.0
"""Outlook: what would follow from a drain, and what changes of intents have brought; as JSON.

Shares are those of the planned slot tables, which is what new sessions really get. Reads values
only: who plans is daemon/reconcile.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from limpet.api.interface import DrainRequest, Json
from limpet.core.intent import Drain, Intents
from limpet.core.model import SLOTS, Desired, DrainRule, Image
from limpet.core.registry import Registry
from limpet.core.slots import shares
from limpet.daemon.answer import iso
from limpet.store.revisions import Revision

Plan = tuple[Registry, Image]


@dataclass(frozen=True, slots=True)
class Load:
    """What a backend has now."""

    sessions: int
    flows: int


def preview(
    desired: Desired,
    backend: str,
    request: DrainRequest,
    plans: tuple[Plan, Plan],
    loads: Mapping[str, Load],
) -> Json:
    """What a drain would do; `plans` without and with it."""
    moves = list(_moves(desired, backend, plans))
    load = loads.get(backend, Load(0, 0))
    for move in moves:
        move["sessions"] = loads.get(move["backend"], Load(0, 0)).sessions
    return {
        "sessions": load.sessions,
        "flows": load.flows,
        "new_sessions_go_to": moves,
        "summary": "\n".join(_summary(backend, request, load, moves)),
    }


def _moves(desired: Desired, backend: str, plans: tuple[Plan, Plan]) -> Iterator[Json]:
    before, after = (_percents(*each) for each in plans)
    for pool in desired.pools:
        if backend not in pool.weights:
            continue
        for name in pool.weights:
            yield {
                "pool": pool.name,
                "backend": name,
                "percent_before": before[pool.name].get(name, 0.0),
                "percent_after": after[pool.name].get(name, 0.0),
            }


def _percents(registry: Registry, image: Image) -> dict[str, dict[str, float]]:
    """Share of the new sessions, by pool and backend."""
    pools, names = registry.pool_names(), registry.backend_names()
    return {
        pools[row.id]: {
            names[number]: round(100 * count / SLOTS, 3)
            for number, count in shares(row.slots).items()
            if number
        }
        for row in image.pools
        if row.id in pools
    }


def _summary(backend: str, request: DrainRequest, load: Load, moves: list[Json]) -> Iterator[str]:
    yield (
        f"{backend} has {load.sessions} sessions and {load.flows} flows, which stay "
        f"{_how_long(request)}"
    )
    if not moves:
        yield f"{backend} is in no pool: it gets no new sessions anyhow"
    for pool in dict.fromkeys(move["pool"] for move in moves):
        others = [
            f"{move['backend']} ({move['percent_before']:.1f} % -> {move['percent_after']:.1f} %)"
            for move in moves
            if move["pool"] == pool and move["percent_after"]
        ]
        goes = f"go to {', '.join(others)}" if others else "are REFUSED: no other backend gets any"
        yield f"new sessions of pool {pool} {goes}"


def _how_long(request: DrainRequest) -> str:
    end = "to their end"
    if request.rule is DrainRule.FLOWS:
        end = "until their open flows end"
    if request.deadline_s is None:
        return end
    then = "those left then are reset" if request.at_deadline == "reset" else "those left then stay"
    return f"{end}, at most {request.deadline_s:g} s; {then}"


# --- History -------------------------------------------------------------------------------------


def history(revisions: list[Revision]) -> list[Json]:
    """Revisions, the newest first, each with what it changed of the one before it."""
    olders = [*revisions[1:], None][: len(revisions)]
    return [
        {
            "revision": each.number,
            "at": iso(each.at),
            "by": each.who,
            "what": each.what,
            "changes": _changes(Intents() if older is None else older.intents, each.intents),
            "file_digest": each.file_digest,
        }
        for each, older in zip(revisions, olders, strict=True)
    ]


def _changes(before: Intents, after: Intents) -> list[str]:
    found = []
    for name in sorted(before.drains.keys() | after.drains.keys()):
        was, now = before.drains.get(name), after.drains.get(name)
        if was != now:
            found.append(f"{name}: {_drain(was)} -> {_drain(now)}")
    for pool, name in sorted(before.weights.keys() | after.weights.keys()):
        old, new = before.weights.get((pool, name)), after.weights.get((pool, name))
        if old != new:
            found.append(f"{name} in {pool}: weight {_weight(old)} -> {_weight(new)}")
    return found


def _drain(drain: Drain | None) -> str:
    if drain is None:
        return "active"
    if drain.drained is not None:
        return "drained"
    if drain.deadline is None:
        return "draining"
    return f"draining ({drain.at_deadline} at {iso(drain.deadline)})"


def _weight(weight: int | None) -> str:
    return "of the file" if weight is None else str(weight)
