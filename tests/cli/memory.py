# SPDX-License-Identifier: Apache-2.0
"""A director in memory behind the real API, for tests of the commands.

It has the names, answers and errors of a running one, and no kernel: who is where is what a test
says. So tests can let the last session go, or restart "the daemon", when they want.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from limpet.api.feed import Feed
from limpet.api.interface import DrainRequest, FlowPage, FlowQuery, Json, Question, SessionQuery
from limpet.api.problem import Stale
from limpet.api.server import serving
from limpet.core.errors import Conflict, NotFound

STARTED_S = 30.0
SESSION = {
    "client": "10.1.0.2",
    "ports": "",
    "vip": "web4",
    "backend": "b1",
    "life": "live",
    "idle_s": 1.5,
    "since_s": 3725.0,
    "flows": 2,
}
FLOW = {
    "client": "10.1.0.2",
    "client_port": 50_000,
    "vip": "web4",
    "vip_port": 443,
    "backend": "b1",
    "life": "established",
    "idle_s": 1.5,
}
HOP = {"state": "resolved", "interface": "eth0", "mac": "02::1", "mtu": 1500, "gateway": None}
RATES = {"packets": 0, "bytes": 0, "packets_per_s": 12.0, "bits_per_s": 9600.0, "flows_created": 9}
OCCUPANCY = {"live": 7, "entries": 4096, "used": 7, "used_percent": 0.17, "by_life": {}}


class MemoryDirector:
    """Pools web (b1, b2) and api (b2, b3). All that a test may change is public."""

    def __init__(self) -> None:
        self.pools_of: dict[str, dict[str, int]] = {
            "web": {"b1": 2, "b2": 2},
            "api": {"b2": 1, "b3": 1},
        }
        self.weights: dict[tuple[str, str], int] = {}
        self.draining: dict[str, Json] = {}
        self.down: dict[str, str] = {}
        self.sessions_at = {"b1": 12, "b2": 3, "b3": 0}
        self.flows_at = {"b1": 30, "b2": 4, "b3": 0}
        self.revisions: list[Json] = []
        self.feed = Feed()
        self.told: list[Json] = []  # what changes were asked for, with who asked
        self.looks: list[dict[str, str]] = []  # states of drains, as they were told

    # --- What it makes of that ------------------------------------------------------------------

    def _why(self, name: str) -> list[str]:
        found = []
        if name in self.draining:
            found.append(f"draining since {self.draining[name]['began']}")
        if name in self.down:
            found.append(f"down: {self.down[name]}")
        return found

    def _weight(self, pool: str, name: str) -> int:
        return self.weights.get((pool, name), self.pools_of[pool][name])

    def _memberships(self, name: str) -> list[Json]:
        found = []
        for pool, members in self.pools_of.items():
            if name in members:
                weight = self._weight(pool, name)
                effective = 0 if self._why(name) else weight
                share = {"slots": 100 * effective, "share_percent": 25.0 * effective}
                row = {"pool": pool, "weight": weight, "effective_weight": effective}
                row["why"] = self._why(name)
                found.append(row | share)
        return found

    def _changed(self, what: str, if_revision: int | None, by: str, event: Json) -> Json:
        self._check(if_revision)
        number = len(self.revisions) + 1
        at = now_iso()
        row = {"revision": number, "at": at, "by": by, "what": what, "changes": [what]}
        self.revisions.append(row)
        self.feed.publish(**event)
        return {"revision": number}

    def _check(self, if_revision: int | None) -> None:
        now = len(self.revisions)
        if if_revision not in (None, now):
            raise Stale(if_revision, now)

    def _require(self, name: str) -> None:
        if name not in self.sessions_at:
            raise NotFound(f"there is no backend {name!r}")

    # --- Reads ----------------------------------------------------------------------------------

    async def status(self) -> Json:
        return {
            "director": "mem",
            "pop": "fra",
            "version": "0",
            "pid": 1,
            "started": "",
            "uptime_s": 5,
            "file": "limpet.toml",
            "file_error": "",
            "state": "",
            "pins": "",
            "program": "",
            "program_id": 1,
            "attachments": [
                {"interface": "eth0", "ifindex": 2, "mode": "native", "state": "up"},
            ],
            "flows": OCCUPANCY,
            "sessions": OCCUPANCY,
            "reconcile": {"state": "done", "error": ""},
        }

    async def vips(self) -> list[Json]:
        vip = {"name": "web4", "id": 1, "address": "192.0.2.10", "protocol": "tcp", "port": 443}
        vip |= {"pool": "web", "affinity": "client", "dropped": 0, "flows": 34, "sessions": 15}
        return [vip | RATES]

    async def pools(self) -> list[Json]:
        found = []
        for number, (pool, members) in enumerate(self.pools_of.items()):
            rows = []
            for name in members:
                membership = next(m for m in self._memberships(name) if m["pool"] == pool)
                rows.append({"name": name, **membership})
            row = {"name": pool, "id": number, "generation": 1, "digest": "", "vips": ["web4"]}
            found.append(row | {"backends": rows})
        return found

    async def backends(self) -> list[Json]:
        return [
            {
                "name": name,
                "id": number,
                "address": f"10.0.0.{number}",
                "encapsulation": "ipip",
                "state": "active",
                "intent": self.draining[name]["state"] if name in self.draining else "active",
                "health": "down" if name in self.down else "up",
                "why_no_new_sessions": self._why(name),
                "sessions": self.sessions_at[name],
                "flows": self.flows_at[name],
                "pools": self._memberships(name),
                "next_hop": HOP,
                **RATES,
            }
            for number, name in enumerate(self.sessions_at, 1)
        ]

    async def counters(self) -> Json:
        row = {"name": "redirect", "value": 5, "meaning": "sent", "severity": "normal"}
        return {"verdicts": [row], "rungs": [], "events": []}

    async def flows(self, query: FlowQuery) -> FlowPage:
        return FlowPage(1, iter([json.dumps(FLOW) + "\n"]))

    async def sessions(self, query: SessionQuery) -> FlowPage:
        rows = [
            {**SESSION, "client": f"10.1.0.{n}", "backend": name}
            for name, count in self.sessions_at.items()
            for n in range(count)
            if query.backend in ("", name)
        ]
        shown = rows[: query.limit or None]
        return FlowPage(len(rows), iter([json.dumps(row) + "\n" for row in shown]))

    async def sources(self, vip: str, limit: int) -> list[Json]:
        row = {"client": "10.9.9.9", "vip": "web4", "flows": 1200, "sessions": 80}
        return [row | {"share_percent": 79.5, "is_split": True, "why": "1200 flows, 1000 split it"}]

    async def where(self, question: Question) -> Json:
        return {
            "client": question.client,
            "vip": "web4",
            "pool": "web",
            "rung": "session_new",
            "backend": "b1",
            "address": "10.0.0.1",
            "why": "a live session of the client",
            "slot": 17,
            "home": "b2",
            "sessions": [SESSION],
            "flows": [FLOW],
        }

    async def health(self) -> list[Json]:
        return [
            {
                "pool": pool,
                "backend": name,
                "is_up": name not in self.down,
                "since": "2023-11-14T22:13:20.000+00:00",
                "reason": self.down.get(name, "2 good answers"),
                "is_suppressed": False,
                "check": "tcp 443, to the VIP",
            }
            for pool, members in self.pools_of.items()
            for name in members
        ]

    async def drains(self) -> list[Json]:
        self.looks.append({name: row["state"] for name, row in self.draining.items()})
        return [
            {**row, "sessions": self.sessions_at[name], "flows": self.flows_at[name]}
            for name, row in self.draining.items()
        ]

    async def intents(self) -> Json:
        return {"revision": len(self.revisions), "drains": {}, "weights": {}}

    async def history(self, limit: int) -> list[Json]:
        return list(reversed(self.revisions))[: limit or None]

    async def diff(self) -> Json:
        said = f"{len(self.draining)} drains over the file"
        return {"file": {}, "intents": {}, "effective": {}, "summary": said}

    async def drain_preview(self, backend: str, request: DrainRequest) -> Json:
        self._require(backend)
        moves = [{"pool": "web", "backend": "b2", "percent_before": 50.0, "percent_after": 100.0}]
        return {
            "sessions": self.sessions_at[backend],
            "flows": self.flows_at[backend],
            "new_sessions_go_to": moves,
            "summary": f"{backend} has {self.sessions_at[backend]} sessions, which stay",
        }

    async def plan(self, text: str) -> Json:
        return {"summary": "nothing changes"}

    def events(self, since: int | None) -> AsyncIterator[Json]:
        return self.feed.follow(since)

    # --- Changes --------------------------------------------------------------------------------

    async def drain(
        self, backend: str, request: DrainRequest, by: str, if_revision: int | None
    ) -> Json:
        self._require(backend)
        running = self.draining.get(backend)
        if running and running["drained"]:
            raise Conflict(f"backend {backend!r} is drained already")
        answer = self._changed(
            f"drain {backend}", if_revision, by, {"kind": "drain_began", "backend": backend}
        )
        deadline = None if request.deadline_s is None else now_iso(request.deadline_s)
        self.draining[backend] = {
            "backend": backend,
            "began": running["began"] if running else now_iso(),
            "by": running["by"] if running else by,
            "rule": None if request.rule is None else str(request.rule),
            "deadline": deadline,
            "at_deadline": str(request.at_deadline),
            "state": "draining",
            "drained": None,
            "oldest_s": 3725.0,
            "leaving_per_s": 0.5,
            "estimated_end_s": 24.0,
            "sessions_at_start": self.sessions_at[backend],
        }
        return answer

    async def undrain(self, backend: str, by: str, if_revision: int | None) -> Json:
        event = {"kind": "drain_ended", "backend": backend}
        answer = self._changed(f"undrain {backend}", if_revision, by, event)
        del self.draining[backend]
        return answer

    async def set_weight(
        self, pool: str, backend: str, weight: int | None, by: str, if_revision: int | None
    ) -> Json:
        event: Json = {"kind": "weight_set", "pool": pool, "backend": backend, "weight": weight}
        answer = self._changed(f"weight {backend}", if_revision, by, event)
        if weight is None:
            self.weights.pop((pool, backend), None)
        else:
            self.weights[(pool, backend)] = weight
        return answer

    async def rollback(self, revision: int, by: str, if_revision: int | None) -> Json:
        if revision > len(self.revisions):
            raise NotFound(f"there is no revision {revision}")
        return self._changed(
            f"rollback to {revision}", if_revision, by, {"kind": "rolled_back", "to": revision}
        )

    async def reload(self) -> Json:
        return {"summary": "nothing changes", "program_replaced": False}

    def shutdown(self) -> None:
        raise AssertionError("no test asks for that")

    # --- What tests do --------------------------------------------------------------------------

    def finish(self, name: str, why: str = "empty", *, sessions_left: int = 0) -> None:
        """A drain ends; with `empty`, because the last that its rule waits for has gone."""
        if why == "empty":
            self.sessions_at[name], self.flows_at[name] = sessions_left, 0
        self.draining[name] |= {"state": "drained", "drained": now_iso()}
        left = {"sessions_left": self.sessions_at[name], "flows_left": self.flows_at[name]}
        self.feed.publish("drained", backend=name, why=why, **left)


def now_iso(after_s: float = 0.0) -> str:
    """A moment as the daemon writes it."""
    return (datetime.now(UTC) + timedelta(seconds=after_s)).isoformat(timespec="milliseconds")


@contextmanager
def served(director: Any, path: Path) -> Iterator[None]:
    """The API of a director on a socket, by a thread with a loop of its own."""
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(director, path, path.parent):
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert up.wait(STARTED_S)
        yield
    finally:
        over.set()
        thread.join(STARTED_S)
