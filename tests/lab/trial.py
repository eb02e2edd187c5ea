# SPDX-License-Identifier: Apache-2.0
"""200 live sessions, and the changes that they must survive.

Each change is a context manager: done when entered, undone when left. A session is one TCP
connection with state in its server, which counts its requests and bears its name: whatever reaches
another backend, is lost for long or comes twice is noticed by the client. A packet that reaches a
backend without its connection makes that backend send a RST, so there must be none of these.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from limpet.lab import changes, probe, state
from limpet.lab.sessions import HeldSessions, Server, short_connections, syn_flood

from .observe import BACKENDS, DIRECTOR, PORT, counters, counting, director, snmp

SESSIONS = 200
NEW_CLIENTS = 60  # whose addresses have no session yet, half of them of each family
NEWCOMERS = ("b4", "b5")
TABLE_ENTRIES = 65_536
FLOOD_FIGURES = (
    "flow_created",
    "flow_spilled",
    "evicted_opening",
    "evicted_closing",
    "refused_full",
    "refused_rate",
    "race_lost",
)
WAIT_S = 2.0
Report = Callable[[str], None]


def new_clients() -> Iterator[int]:
    """How many addresses to skip for clients without a session: one number a time it is asked."""
    return count(SESSIONS // 2, NEW_CLIENTS // 2)


@dataclass
class Trial:
    """A lab, servers on its backends, and sessions held by client2."""

    lab: str
    report: Report
    newer: Path  # PYTHONPATH of another build
    flood: int = 200_000  # sources of a SYN flood
    servers: dict[str, Server] = field(default_factory=dict)
    held: HeldSessions | None = None
    unused: Iterator[int] = field(default_factory=new_clients)

    @property
    def vips(self) -> list[str]:
        return [str(vip.address) for vip in state.read(self.lab).topology.vip]

    @contextlib.contextmanager
    def serving(self, *backends: str) -> Iterator[None]:
        for name in backends:
            self.servers[name] = Server(self.lab, name, PORT)
        try:
            yield
        finally:
            for name in backends:
                self.servers.pop(name).close()

    @contextlib.contextmanager
    def sessions(self, number: int = SESSIONS, skip: int = 0) -> Iterator[HeldSessions]:
        with HeldSessions(self.lab, "client2", number, PORT, self.vips, skip=skip) as held:
            opened = held.wait_open()
            assert (opened["broken"], opened["alive"]) == ([], number)
            assert set(opened["by_backend"]) >= set(BACKENDS)
            self.held = held
            yield held

    def resets(self) -> dict[str, int]:
        """RSTs that each backend has sent."""
        return {name: snmp(self.lab, name)["TcpOutRsts"] for name in self.servers}

    def short(self) -> dict[str, int]:
        """Where new clients go; all must be answered."""
        skip = next(self.unused)
        found = short_connections(self.lab, "client2", NEW_CLIENTS, PORT, self.vips, skip=skip)
        assert found["failed"] == {}
        by_backend: dict[str, int] = found["by_backend"]
        return by_backend


def away_from_home(trial: Trial, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sessions whose slot belongs to another backend now; every session is where it should be."""
    client, away = director(trial.lab), []
    for row in rows:
        place = {"client": row["source"], "vip": row["vip"], "client_port": row["source_port"]}
        found = client.get("/v1/where", protocol="tcp", **place)
        assert (found["rung"], found["backend"]) == ("table", row["backend"]), found
        if found["home"] != row["backend"]:
            away.append(row)
    return away


# --- Changes ------------------------------------------------------------------------------------


@contextlib.contextmanager
def director_rebooted(trial: Trial) -> Iterator[None]:
    """Power off and on: the connection table is lost, the slot tables are on its disk.

    What holds: a session whose slot has not moved since it began survives, since its home is where
    it is. It stalls while the director is away.
    """
    changes.kill(trial.lab, DIRECTOR, daemon_only=False)
    changes.start(trial.lab, DIRECTOR)
    yield


@contextlib.contextmanager
def two_backends_added(trial: Trial) -> Iterator[None]:
    for name in NEWCOMERS:
        changes.add(trial.lab, name)
    with trial.serving(*NEWCOMERS):
        assert set(trial.short()) > set(NEWCOMERS)
        try:
            yield
        finally:
            for name in NEWCOMERS:
                changes.remove(trial.lab, name, keep_host=False)


@contextlib.contextmanager
def backend_removed(trial: Trial) -> Iterator[None]:
    """b2 leaves the file; its machine, and the sessions it has, live on."""
    changes.remove(trial.lab, "b2", keep_host=True)
    states = {row["name"]: row["state"] for row in director(trial.lab).get("/v1/backends")}
    assert states["b2"] == "lingering"
    try:
        assert "b2" not in trial.short()
        yield
    finally:
        changes.add(trial.lab, "b2")


@contextlib.contextmanager
def weights_changed(trial: Trial) -> Iterator[None]:
    changes.weight(trial.lab, "b1", 5)
    changes.weight(trial.lab, "b3", 0)
    try:
        assert "b3" not in trial.short()
        yield
    finally:
        changes.weight(trial.lab, "b1", 1)
        changes.weight(trial.lab, "b3", 1)


@contextlib.contextmanager
def daemon_killed(trial: Trial) -> Iterator[None]:
    """New sessions are placed while no limpet process runs on the director; then it is back."""
    changes.kill(trial.lab, DIRECTOR, daemon_only=True)
    assert trial.short()
    changes.start(trial.lab, DIRECTOR)
    yield


@contextlib.contextmanager
def program_replaced(trial: Trial) -> Iterator[None]:
    """The daemon ends and a newer build starts: it adopts the maps and swaps the program in."""

    def restart() -> str:
        changes.kill(trial.lab, DIRECTOR, daemon_only=True)
        changes.start(trial.lab, DIRECTOR)
        return str(director(trial.lab).get("/v1/status")["program"])

    before, ttl = director(trial.lab).get("/v1/status")["program"], echo_ttl(trial.lab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(trial.newer))
        after = restart()
    try:
        assert after != before
        assert echo_ttl(trial.lab) == ttl - 1
        yield
    finally:
        after = restart()
    assert (after, echo_ttl(trial.lab)) == (before, ttl)


def echo_ttl(lab: str) -> int:
    """Of an echo reply of the director's, so of the program that runs."""
    topology = state.read(lab).topology
    address = topology.interface4(topology.find("client1")).ip
    with probe.Listener(f"{lab}-client1", address) as listener:
        listener.socket.settimeout(WAIT_S)
        listener.ask(topology.vip[0].address, 1)
        reply: bytes = listener.socket.recv(100)
    return reply[8]


@contextlib.contextmanager
def flooded(trial: Trial) -> Iterator[None]:
    """SYNs, each from another source, many more than the connection table has entries.

    Half of the sessions are silent meanwhile: theirs are the oldest entries of their buckets.
    """
    assert trial.held is not None
    assert director(trial.lab).get("/v1/status")["flows"]["entries"] == TABLE_ENTRIES
    sent, seconds = 0, 0.0
    with counting(trial.lab) as moved:
        before = arrived(trial.lab)
        with trial.held.half_resting():
            # Some are lost on full links before the director: as many more are sent.
            while (missing := trial.flood - (arrived(trial.lab) - before)) > 0:
                said = syn_flood(trial.lab, "client1", trial.vips[0], PORT, missing, first=sent)
                sent, seconds = sent + said["sent"], seconds + said["seconds"]
        trial.held.settle()
    figures = ", ".join(f"{name} {moved[name]:,}" for name in FLOOD_FIGURES)
    trial.report(f"SYN flood: {sent:,} sources, {sent / seconds:,.0f} packets/s; {figures}")
    assert moved["home_existing"] == 0  # no session had lost its entry
    assert moved["evicted_opening"] > (trial.flood - TABLE_ENTRIES) / 2
    assert trial.short()
    yield


def arrived(lab: str) -> int:
    """First packets of new flows that the director has seen."""
    return counters(lab)["home_new"]


Change = Callable[[Trial], AbstractContextManager[None]]
CHANGES: tuple[Change, ...] = (
    director_rebooted,  # first: it spares only sessions whose slots have not moved
    two_backends_added,
    backend_removed,
    weights_changed,
    daemon_killed,
    program_replaced,
    flooded,
)
