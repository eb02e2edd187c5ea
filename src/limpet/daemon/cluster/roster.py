# SPDX-License-Identifier: Apache-2.0
"""Roster: the directors of a cluster by PoP, for people: what each runs, and where it differs."""

import time
from collections.abc import Mapping

from limpet.api.interface import Json
from limpet.core import cluster
from limpet.core.cluster import Head, Seen, Version
from limpet.daemon.answer import iso
from limpet.daemon.cluster.membership import Membership
from limpet.daemon.unixtime import now_s

DIGEST_SHOWN = 16  # hex digits


def roster(member: Membership) -> Json:
    """As GET /v1/pops answers."""
    sight, agreed = member.sight, member.reconciler.agreed
    head = sight.head
    current = member.me.current if head is None else head.current
    known = agreed.agreement if agreed is not None else None
    wanted = head or known
    drains = wanted.intents.pop_drains if wanted is not None else {}
    rows: dict[str, list[Json]] = {pop.name: [] for pop in member.now().desired.pops}
    for name in sorted(sight.reports):
        seen = sight.reports[name]
        rows.setdefault(seen.report.pop, []).append(_member(member, seen, current))
    return {
        "cluster": member.local.cluster.name,
        "revision": _revision(head, known.revision if known else 0),
        "generation": current.generation,
        "digest": current.digest[:DIGEST_SHOWN],
        "preparing": head.following.generation if head and head.following else None,
        "changed_by": head.who if head else "",
        "changed": (iso(head.at) if head and head.at else "") or "",
        "what": head.what if head else "",
        "degraded": list(member.symptoms.of_this()),
        "pops": [
            {
                "pop": pop,
                "drained_by": drains[pop].by if pop in drains else None,
                "directors": rows[pop],
            }
            for pop in sorted(rows)
        ],
    }


def alone() -> Json:
    """Of a director without a cluster."""
    return {
        "cluster": "",
        "revision": 0,
        "generation": 0,
        "digest": "",
        "preparing": None,
        "changed_by": "",
        "changed": "",
        "what": "",
        "degraded": [],
        "pops": [],
    }


def _revision(head: Head | None, known: int) -> int:
    return known if head is None else head.revision


def _member(member: Membership, seen: Seen, current: Version) -> Json:
    report, sight = seen.report, member.sight
    reachable = report.name in cluster.reachable(sight.reports, time.monotonic())
    differences = list(cluster.differences([report], current)[report.name])
    head = sight.head
    if head is not None and report.revision != head.revision:
        differences.append(f"revision {report.revision}, not {head.revision}")
    if not reachable:
        differences.append("not reachable")
    return {
        "name": report.name,
        "pop": report.pop,
        "listen": report.listen,
        "software": report.software,
        "revision": report.revision,
        "generation": report.current.generation,
        "digest": report.current.digest[:DIGEST_SHOWN],
        "preparing": _ahead(report.prepared, current),
        "reachable": reachable,
        "reported_s_ago": round(max(0.0, now_s() - report.at), 1),
        "lag": _lag(member, report.name, report.watermarks),
        "differences": differences,
        "condition": list(report.condition),
        "is_leader": sight.lease.holder.split(b" ")[:1] == [report.name.encode()],
        "bypassed": _bypassed(member, seen),
    }


def _ahead(prepared: Version | None, current: Version) -> int | None:
    """The generation that it is about to run."""
    if prepared is None or prepared.generation <= current.generation:
        return None
    return prepared.generation


def _lag(member: Membership, name: str, watermarks: Mapping[str, int]) -> int:
    """How many batches that others have told are not loaded there."""
    reports = member.sight.reports.values()
    told = {seen.report.name: seen.report.sequence for seen in reports}
    return sum(
        max(0, told[origin] - watermarks.get(origin, 0)) for origin in told if origin != name
    )


def _bypassed(member: Membership, seen: Seen) -> list[str]:
    agreed = member.reconciler.agreed
    if agreed is None or seen.report.current != agreed.version:
        return []
    registry = agreed.agreement.registry
    names = registry.pool_names()
    homes = {names[number]: table.digest for number, table in registry.tables.items()}
    tables = seen.report.tables.items()
    return sorted(pool for pool, digest in tables if homes.get(pool) != digest)
