# SPDX-License-Identifier: Apache-2.0
"""A lab on which sessions are held while things happen, and how both sides see it.

The client says which of its sessions broke, and when; the server on each backend says who is
connected to it, and how the others ended; and the kernel of each backend counts the RSTs that it
sent, which it does for every packet of a session that it does not know. `all_stay` asks all three.

New clients come from addresses that had no session before: each is used once in a lab.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue

from limpet.api.client import Client
from limpet.lab import changes, operations, state
from limpet.lab.sessions import HeldSessions, Server, short_connections
from limpet.lab.topology import Topology

from .conftest import SLOT_KEY, fresh_name
from .observe import DIRECTOR, PORT, Moved, counters, director, snmp

CHECK_PORT = 7_003
HEALTH: dict[str, JsonValue] = {
    "kind": "http",
    "port": CHECK_PORT,
    "interval_s": 0.8,
    "timeout_s": 0.8,  # on a busy machine; a backend that falls three times is damped
    "rise": 1,
    "fall": 2,
}
UNTIL_S = 60.0  # on a machine that is busy with other labs; it ends when it holds
AGAIN_PER_S = 60
NEWEST_MAX = AGAIN_PER_S // 5  # packets of the further connections of a moment


def staged(
    topology: Topology,
    *,
    weights: tuple[int, ...] = (1, 1, 1),
    idle_s: int = 1_800,
    sources: int = 1_024,
    pool: dict[str, JsonValue] | None = None,
    **tables: dict[str, JsonValue],
) -> Topology:
    """one-pop with so many backends and client addresses; the slot key is fixed.

    Backends beyond the third are like b1, and have the next numbers.
    """
    plain = topology.model_dump()
    known = {host["name"]: host for host in plain["host"]}
    names = [f"b{number}" for number in range(1, len(weights) + 1)]
    extra = [
        known["b1"] | {"name": name, "number": 11 + index}
        for index, name in enumerate(names)
        if name not in known
    ]
    known["client2"] |= {
        "sources": sources,
        "sources4": "10.2.4.0/22",
        "sources6": "2001:db8:2:400::/54",
    }
    hosts = [*plain["host"], *extra]
    for host in hosts:
        if host["name"] in names:
            host["weight"] = weights[names.index(host["name"])]
    vips = [vip | {"settings": {"timeouts": _timeouts(idle_s)}} for vip in plain["vip"]]
    settings = {**topology.director, "slot_key": SLOT_KEY}
    changed = {"host": hosts, "vip": vips, "director": settings, "pool": pool or {}, **tables}
    return Topology.model_validate({**plain, **changed})


def _timeouts(idle_s: int) -> dict[str, JsonValue]:
    return {"tcp_established_s": idle_s}


@dataclass
class Stage:
    """A lab, its servers, and the client addresses that nobody has used yet."""

    lab: str
    servers: dict[str, Server] = field(default_factory=dict)
    used: int = 0  # addresses of client2, of each family

    # --- Reads ----------------------------------------------------------------------------------

    @property
    def vips(self) -> list[str]:
        return [str(vip.address) for vip in state.read(self.lab).topology.vip]

    @property
    def api(self) -> Client:
        return director(self.lab)

    def backend(self, name: str) -> dict[str, Any]:
        return next(row for row in self.api.get("/v1/backends") if row["name"] == name)

    def drain_of(self, name: str) -> dict[str, Any]:
        return next(row for row in self.api.get("/v1/drains") if row["backend"] == name)

    def deadline_of(self, name: str) -> float:
        """Of its drain, in Unix seconds."""
        deadline = self.drain_of(name)["deadline"]
        if isinstance(deadline, str):
            return datetime.fromisoformat(deadline).timestamp()
        return float(deadline)

    def health(self) -> dict[str, bool]:
        """Whether each backend that is checked counts as up."""
        return {row["backend"]: row["is_up"] for row in self.api.get("/v1/health")}

    def is_up(self, name: str) -> bool:
        """A check has said so, and it is in effect. False also as long as nothing was found."""
        return self.health().get(name, False) and self.backend(name)["health"] != "down"

    def is_down(self, name: str) -> bool:
        """In effect: a check that failed a moment ago may not be."""
        return bool(self.backend(name)["health"] == "down")

    def resets(self) -> dict[str, int]:
        """RSTs that each backend has sent."""
        return {name: snmp(self.lab, name)["TcpOutRsts"] for name in self.servers}

    # --- Acts -----------------------------------------------------------------------------------

    def limpet(self, *words: str) -> str:
        """A command as an operator gives it to the director; what it says."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"limpet {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "limpet", *words, "--socket", str(self.api.path)]

    @contextlib.contextmanager
    def serving(self, *backends: str) -> Iterator[None]:
        for name in backends:
            self.servers[name] = Server(self.lab, name, PORT, CHECK_PORT)
        try:
            yield
        finally:
            for name in backends:
                self.servers.pop(name).close()

    @contextlib.contextmanager
    def drained(self, name: str, *words: str) -> Iterator[None]:
        """A drain that is taken back."""
        self.limpet("backend", "drain", name, *words)
        try:
            yield
        finally:
            self.limpet("backend", "undrain", name)

    @contextlib.contextmanager
    def sick(self, *backends: str) -> Iterator[None]:
        """Their health checks fail, while every session lives; entered when they count as down."""
        for name in backends:
            self.servers[name].sicken()
        try:
            self.until(lambda: all(self.is_down(name) for name in backends))
            yield
        finally:
            for name in backends:
                self.servers[name].recover()
            self.until(lambda: all(self.is_up(name) for name in backends))

    @contextlib.contextmanager
    def pool(self, **options: JsonValue) -> Iterator[None]:
        """Other keys of the pool; what they were before, afterwards."""
        before = state.read(self.lab).topology.pool
        changes.pool(self.lab, **options)
        try:
            yield
        finally:
            changes.pool(self.lab, **{key: before[key] for key in options})

    # --- Sessions -------------------------------------------------------------------------------

    def fresh(self, number: int) -> int:
        """How many addresses to skip, so that so many sessions are of new clients."""
        first = self.used
        self.used += -(-number // len(self.vips))
        return first

    @contextlib.contextmanager
    def hold(
        self, number: int, *, host: str = "client2", **options: object
    ) -> Iterator[HeldSessions]:
        """Sessions of new clients, over all backends; each comes again now and then."""
        wanted = {"skip": self.fresh(number), "again": AGAIN_PER_S} | options
        with HeldSessions(self.lab, host, number, PORT, self.vips, **wanted) as held:
            opened = held.wait_open()
            assert (opened["broken"], opened["alive"]) == ([], number)
            yield held

    def newcomers(self, number: int = 60) -> dict[str, int]:
        """Where new clients go; all must be answered."""
        skip = self.fresh(number)
        found = short_connections(self.lab, "client2", number, PORT, self.vips, skip=skip)
        assert found["failed"] == {}
        by_backend: dict[str, int] = found["by_backend"]
        return by_backend

    @contextlib.contextmanager
    def all_stay(
        self, held: HeldSessions, may_stray: tuple[str, ...] = (), *, newest_may_go: bool = False
    ) -> Iterator[None]:
        """Whatever the body does, no session breaks, and none is known where it does not belong.

        Further connections of its clients reach its backend too, but for sessions of those that
        `may_stray`. Each client has come again at least once after the body. `newest_may_go`: the
        body takes a machine away, and with it what it has not told anybody yet, of the further
        connections of the last moment; a few of their packets may meet a backend of which they
        are not.
        """
        resets = self.resets()
        yield
        came = held.fresh()["agains"]
        number = held.report()["alive"]
        self.until(lambda: held.report()["agains"] >= came + number, see=held.report)
        after = held.settle()
        assert (after["broken"], after["alive"]) == ([], len(after["rows"]))
        strays = [row for row in after["rows"] if row["strays"] and row["backend"] not in may_stray]
        assert strays == [], strays[:5]
        self.agree(after["rows"])
        sent = self.resets()  # those that came meanwhile began with none
        rose = {name: sent[name] - resets.get(name, 0) for name in sent}
        assert sum(rose.values()) <= (NEWEST_MAX if newest_may_go else 0), rose

    def agree(self, rows: list[dict[str, Any]]) -> None:
        """Each live session is known to the server that its client names, and to no other one."""
        knowing: dict[tuple[str, int], list[str]] = {}
        for name, server in self.servers.items():
            for each in server.view()["connected"]:
                knowing.setdefault((each["client"], each["client_port"]), []).append(name)
        for row in rows:
            if not row["broken"] and not row["ended_at"]:
                assert knowing.get((row["source"], row["source_port"])) == [row["backend"]], row

    def ended(self, backend: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the backend's server says of these sessions' ends; those that ended, in order."""
        known = {
            (each["client"], each["client_port"]): each
            for each in self.servers[backend].view()["ended"]
        }
        places = [(row["source"], row["source_port"]) for row in rows]
        return [known[place] for place in places if place in known]

    def until(
        self, holds: Callable[[], bool], wait_s: float = UNTIL_S, see: Callable[[], object] = str
    ) -> float:
        """Seconds until it holds. If it never does, the failure tells what there is to `see`."""
        begun = time.monotonic()
        while not holds():
            assert time.monotonic() < begun + wait_s, f"it never came: {see()}"
            time.sleep(0.05)
        return time.monotonic() - begun

    @contextlib.contextmanager
    def counting(self) -> Iterator[Moved]:
        """The director's counters over the body; filled when it ends."""
        before, moved = counters(self.lab), Moved()
        yield moved
        moved.update(counters(self.lab) - before)

    @contextlib.contextmanager
    def no_orphans(self) -> Iterator[None]:
        """No packet of a client's flow, over the body, of which the director knew nothing.

        The director's own kernel sends a RST when an answer to a health check finds no socket any
        more; it comes back by the router, and is nobody's.
        """
        before = snmp(self.lab, DIRECTOR)["TcpOutRsts"]
        with self.counting() as moved:
            yield
        own = snmp(self.lab, DIRECTOR)["TcpOutRsts"] - before
        assert moved["home_existing"] + moved["session_existing"] <= own
        assert moved["drop_unknown_backend"] == 0


@contextlib.contextmanager
def stage_of(topology: Topology) -> Iterator[Stage]:
    """A lab of this topology, with a session server on every backend."""
    with fresh_name() as name, ExitStack() as running:
        now = operations.up(name, topology)
        stage = Stage(name)
        backends = [host.name for host in now.topology.host if host.role == "backend"]
        running.enter_context(stage.serving(*backends))
        if topology.pool.get("health"):
            stage.until(lambda: all(stage.is_up(backend) for backend in backends))
        yield stage
