# SPDX-License-Identifier: Apache-2.0
"""A director in memory: two backends, one pool, one VIP, and intents under revisions.

It keeps the promises that api/interface.py makes of a director (compare-and-set, repeating changes
nothing, errors by name), so that the API is tested alone, over real sockets.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from limpet import __version__
from limpet.api.feed import Feed
from limpet.api.interface import DrainRequest, FlowPage, FlowQuery, Json, Question, SessionQuery
from limpet.api.problem import Stale
from limpet.core.config import parse
from limpet.core.effective import effective
from limpet.core.eligible import assess
from limpet.core.errors import Conflict, NotFound
from limpet.core.intent import Drain, Intents

RATES = {
    "sessions": 1,
    "sessions_created": 1,
    "packets": 9,
    "bytes": 900,
    "packets_per_s": 1.0,
    "bits_per_s": 800.0,
}
FLOWS = [
    {
        "client": "10.1.0.2",
        "client_port": 40_000 + number,
        "vip": "web4",
        "vip_port": 80,
        "backend": "b1",
        "life": "established",
        "idle_s": 0.5,
    }
    for number in range(5)
]
SESSION = {
    "client": "10.1.0.2",
    "ports": "",
    "vip": "web4",
    "backend": "b1",
    "life": "live",
    "idle_s": 0.5,
    "since_s": 61.0,
    "flows": 5,
    "is_split": False,
}
SHARE = {"weight": 1, "effective_weight": 1, "slots": 32_768, "share_percent": 50.0, "why": []}
NOTHING: Json = {"added": [], "removed": [], "changed": []}
PLAN: Json = {
    "changes": False,
    "summary": "nothing",
    **dict.fromkeys(("vips", "pools", "backends"), NOTHING),
    "moves": [{"pool": "web", "slots_moved": 1, "moves": [{"from": "b1", "to": None, "slots": 1}]}],
}


TERMS = ("backend", "began", "by", "rule", "deadline", "at_deadline", "drained")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class MemoryDirector:
    """What the API needs of a director."""

    def __init__(self, kept: int = 1_024) -> None:
        self.revision = 1
        self.drain_rows: dict[str, Json] = {}
        self.weights: dict[tuple[str, str], int] = {}
        self.pop_drains: dict[str, str] = {}  # by whom
        self.revisions = [self._revision("nobody", "the beginning")]
        self.feed = Feed(kept)
        self.reloads, self.has_stopped = 0, False

    # --- Reads ----------------------------------------------------------------------------------

    async def status(self) -> Json:
        attachment = {"interface": "eth0", "ifindex": 2, "mode": "native", "state": "up"}
        passes = {"passes": 1, "failures": 0, "duration_ms": 3.5, "succeeded_s_ago": 1.0}
        occupancy = {"live": 5, "entries": 8_192, "used": 5, "used_percent": 0.06}
        paths = {"file": "limpet.toml", "file_error": "", "state": "state.db", "pins": "pins"}
        return {
            "director": "memory",
            "pop": "fra",
            "version": __version__,
            "pid": 1,
            "started": now(),
            "uptime_s": 7,
            **paths,
            **{part: {} for part in ("sweeper", "checks", "hooks", "resets", "routes")},
            "own_packets_error": "",
            "program": "0011223344556677",
            "program_id": 5,
            "attachments": [attachment],
            "degraded": [],
            "revision": self.revision,
            "flows": {**occupancy, "by_life": {"established": 5}},
            "sessions": {**occupancy, "by_life": {"live": 5}},
            "reconcile": {"state": "done", "error": "", **passes},
        }

    async def vips(self) -> list[Json]:
        place = {"address": "192.0.2.10", "protocol": "tcp", "port": 80}
        rest = {"pool": "web", "affinity": "client", "dropped": 0}
        return [{"name": "web4", "id": 1, **place, **rest, **RATES, "flows": 5, "flows_created": 5}]

    async def pools(self) -> list[Json]:
        members = [{"name": name, **SHARE} for name in ("b1", "b2")]
        head = {"name": "web", "id": 0, "generation": 3, "digest": "00ff", "vips": ["web4"]}
        return [{**head, "policy": "hash", "reassign": "least-sessions", "backends": members}]

    async def backends(self) -> list[Json]:
        return [self._backend(number, name) for number, name in enumerate(("b1", "b2"), 1)]

    def _backend(self, number: int, name: str) -> Json:
        hop = {"state": "no route", "interface": None, "mac": None, "mtu": None, "gateway": None}
        is_draining = name in self.drain_rows
        return {
            "name": name,
            "id": number,
            "address": f"10.10.0.1{number}",
            "encapsulation": "ipip",
            "state": "active",
            "intent": "draining" if is_draining else "active",
            "health": "up",
            "why_no_new_sessions": ["draining"] if is_draining else [],
            "flows": 5,
            "flows_created": 5,
            **RATES,
            "pools": [{"pool": "web", **SHARE}],
            "next_hop": hop,
        }

    async def counters(self) -> Json:
        row = {"name": "pass", "value": 3, "meaning": "not for a VIP", "severity": "normal"}
        return {"verdicts": [row], "rungs": [row], "events": [row]}

    async def flows(self, query: FlowQuery) -> FlowPage:
        if query.backend:
            self._known(query.backend)
        shown = FLOWS[: query.limit] if query.limit else FLOWS
        return FlowPage(len(FLOWS), iter([json.dumps(flow) + "\n" for flow in shown]))

    async def sessions(self, query: SessionQuery) -> FlowPage:
        return FlowPage(1, iter([json.dumps(SESSION) + "\n"]))

    async def sources(self, vip: str, limit: int) -> list[Json]:
        counts = {"flows": 5, "sessions": 1, "share_percent": 100.0}
        return [{"client": "10.1.0.2", "vip": "web4", **counts, "is_split": False, "why": ""}]

    async def where(self, question: Question) -> Json:
        found = {"rung": "table", "backend": "b1", "address": "10.10.0.11", "slot": 7, "home": "b1"}
        head = {"client": question.client, "vip": "web4", "pool": "web", "why": "live flows"}
        return {**head, **found, "sessions": [SESSION], "flows": FLOWS}

    async def health(self) -> list[Json]:
        state = {"is_up": True, "since": now(), "reason": "connected", "is_suppressed": False}
        return [
            {
                "pool": "web",
                "backend": "b1",
                **state,
                "checked": now(),
                "check": "tcp",
                "changes": 0,
            }
        ]

    async def drains(self) -> list[Json]:
        return list(self.drain_rows.values())

    async def intents(self) -> Json:
        weights = [
            {"pool": pool, "backend": name, "weight": weight}
            for (pool, name), weight in self.weights.items()
        ]
        drains = [{key: row[key] for key in TERMS} for row in self.drain_rows.values()]
        pops = [{"pop": name, "began": now(), "by": by} for name, by in self.pop_drains.items()]
        found = {"revision": self.revision, "drains": drains, "weights": weights}
        return found | {"pop_drains": pops}

    async def history(self, limit: int) -> list[Json]:
        newest = self.revisions[::-1]
        return newest[:limit] if limit else newest

    async def diff(self) -> Json:
        """As the director's, by its own function."""
        desired = parse(CONFIG)
        drains = {name: Drain(name, 1.5, "nobody") for name in self.drain_rows}
        wanted = Intents(drains, self.weights)
        return effective(desired, wanted, assess(desired, wanted, {}, 2.0, {})).json()

    async def routes(self) -> Json:
        address: Json = {"address": "192.0.2.10", "vips": ["web4"], "state": "announced"}
        address |= {"why": "it can be served", "communities": ["64500:1"], "med": 5, "prepend": 0}
        told = {"to": "r1", "communities": ["64500:1"], "med": 5, "path": []}
        peer: Json = {"name": "r1", "address": "10.0.0.1", "asn": 64_500, "is_up": True}
        peer |= {"state": "Established", "error": "", "routes": 1}
        found: Json = {"speaker": "bird", "error": "", "speaker_pid": 1, "bird_pid": 2}
        found |= {"bird_restarts": 0, "hold_s": 600, "pop": "fra"}
        found |= {"drained_by": self.pop_drains.get("fra")}
        return found | {"routes": [{**address, "told": [told]}], "peers": [peer]}

    async def drain_preview(self, backend: str, request: DrainRequest) -> Json:
        self._known(backend)
        share = {"percent_before": 50.0, "percent_after": 100.0, "sessions": 1}
        shares = [{"pool": "web", "backend": "b2", **share}]
        counts = {"sessions": 1, "flows": 5, "new_sessions_go_to": shares}
        return {**counts, "summary": f"{backend}: 1 session would stay"}

    async def plan(self, text: str) -> Json:
        parse(text)
        return PLAN

    async def apply(self, text: str, by: str, if_revision: int | None) -> Json:
        parse(text)
        return {**PLAN, "revision": 1, "in_effect": True, "is_new": True}

    async def pops(self) -> Json:
        member: Json = {"name": "d", "pop": "fra", "listen": "10.0.0.1:1", "software": __version__}
        member |= {"revision": 1, "generation": 2, "digest": "ab", "preparing": None, "lag": 0}
        member |= {"reachable": True, "reported_s_ago": 0.5, "differences": [], "condition": []}
        pop: Json = {"pop": "fra", "drained_by": None}
        found: Json = {"cluster": "edge", "revision": 1, "generation": 2, "digest": "ab"}
        found |= {"preparing": None, "changed_by": "ann", "changed": "", "what": "", "degraded": []}
        row = member | {"is_leader": True, "bypassed": []}
        return found | {"pops": [pop | {"directors": [row]}]}

    def events(self, since: int | None) -> AsyncIterator[Json]:
        return self.feed.follow(since)

    # --- Changes --------------------------------------------------------------------------------

    async def drain(
        self, backend: str, request: DrainRequest, by: str, if_revision: int | None
    ) -> Json:
        self._known(backend)
        self._compare(if_revision)
        if backend not in self.drain_rows:
            self.drain_rows[backend] = self._drain(backend, request, by)
            self._next(by, f"drain {backend}")
            self.feed.publish("drain_began", backend=backend, by=by)
        return {**PLAN, "revision": self.revision}

    def _drain(self, backend: str, request: DrainRequest, by: str) -> Json:
        left = {"sessions": 1, "flows": 5, "oldest_s": 60.0, "sessions_at_start": 1}
        return {
            "backend": backend,
            "began": now(),
            "by": by,
            "rule": request.rule,
            "deadline": None if request.deadline_s is None else f"in {request.deadline_s:g} s",
            "at_deadline": request.at_deadline,
            "drained": None,
            "state": "draining",
            **left,
            "leaving_per_s": 0.0,
            "estimated_end_s": None,
        }

    async def undrain(self, backend: str, by: str, if_revision: int | None) -> Json:
        self._known(backend)
        self._compare(if_revision)
        if not self.drain_rows.pop(backend, None):
            raise Conflict(f"backend {backend!r} is not draining")
        return self._next(by, f"undrain {backend}")

    async def drain_pop(self, pop: str, by: str, if_revision: int | None) -> Json:
        self._compare(if_revision)
        if pop != "fra":
            raise NotFound(f"there is no PoP {pop!r}; PoPs: fra")
        if pop in self.pop_drains:
            return {**PLAN, "revision": self.revision}
        self.pop_drains[pop] = by
        return self._next(by, f"drain PoP {pop}")

    async def undrain_pop(self, pop: str, by: str, if_revision: int | None) -> Json:
        self._compare(if_revision)
        if self.pop_drains.pop(pop, None) is None:
            raise Conflict(f"PoP {pop!r} is not drained; drained: none")
        return self._next(by, f"undrain PoP {pop}")

    async def set_weight(
        self, pool: str, backend: str, weight: int | None, by: str, if_revision: int | None
    ) -> Json:
        self._known(backend)
        self._compare(if_revision)
        before = dict(self.weights)
        if weight is None:
            self.weights.pop((pool, backend), None)
        else:
            self.weights[pool, backend] = weight
        if self.weights == before:
            return {**PLAN, "revision": self.revision}
        return self._next(by, f"weight {backend} {weight}")

    async def rollback(self, revision: int, by: str, if_revision: int | None) -> Json:
        self._compare(if_revision)
        if revision not in {row["revision"] for row in self.revisions}:
            raise NotFound(f"there is no revision {revision}")
        return self._next(by, f"rollback {revision}")

    async def remove_director(self, name: str, by: str) -> Json:
        if name != "d":
            raise NotFound(f"no director {name!r}")
        return {"director": name, "removed": True}

    async def reload(self) -> Json:
        self.reloads += 1
        return {**PLAN, "program_replaced": False}

    def shutdown(self) -> None:
        self.has_stopped = True

    def _known(self, backend: str) -> None:
        if backend not in ("b1", "b2"):
            raise NotFound(f"there is no backend {backend!r}; backends: b1, b2")

    def _compare(self, expected: int | None) -> None:
        if expected not in (None, self.revision):
            assert expected is not None
            raise Stale(expected, self.revision)

    def _next(self, by: str, what: str) -> Json:
        self.revision += 1
        self.revisions.append(self._revision(by, what))
        return {**PLAN, "revision": self.revision}

    def _revision(self, by: str, what: str) -> Json:
        head = {"revision": self.revision, "at": now(), "by": by, "what": what}
        return {**head, "changes": [what], "file_digest": ""}


CONFIG = """
[director]
name = "memory"
interfaces = ["lo"]

[[backend]]
name = "b1"
address = "10.10.0.11"

[[backend]]
name = "b2"
address = "10.10.0.12"

[[pool]]
name = "web"
backends = { b1 = 1, b2 = 1 }

[[vip]]
name = "web4"
address = "192.0.2.10"
protocol = "tcp"
port = 80
pool = "web"
"""
