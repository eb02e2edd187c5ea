# SPDX-License-Identifier: Apache-2.0
"""What happens to new and to live sessions when a backend, the director or its pool changes.

One test an event: both sides are asked, the clients which sessions broke, the servers whom they
serve. Idle timeout, drains under load and mega-proxies have files of their own.
"""

import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import JsonValue

from limpet.lab import changes
from limpet.lab.sessions import HeldSessions, syn_flood
from limpet.lab.topology import Topology

from .conftest import Report
from .hosts import connected
from .observe import BACKENDS, DIRECTOR, PORT
from .stage import HEALTH, Stage, stage_of, staged

pytestmark = pytest.mark.lab

SESSIONS = 60
FLOOD = 100_000  # sources, where the tables have 65,536 entries
RESET = "Connection reset by peer"
HOLD_S = 1


@pytest.fixture(scope="module")
def stage(one_pop: Topology) -> Iterator[Stage]:
    pool: dict[str, JsonValue] = {
        "health": HEALTH,
        "on_down": "hold",
        "hold_s": 30,
        "fail_open": False,
    }
    with stage_of(staged(one_pop, pool=pool)) as stage:
        yield stage


@pytest.fixture
def held(stage: Stage) -> Iterator[HeldSessions]:
    with stage.hold(SESSIONS) as held:
        assert set(held.report()["by_backend"]) == set(BACKENDS)
        yield held


def of(rows: list[dict[str, Any]], backend: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["backend"] == backend]


def test_an_added_backend_gets_new_sessions_at_once_and_no_live_one(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held):
        changes.add(stage.lab, "b4")
        with stage.serving("b4"):
            try:
                stage.until(lambda: stage.is_up("b4"))
                assert set(stage.newcomers()) == {*BACKENDS, "b4"}
                places = {(row["source"], row["source_port"]) for row in held.settle()["rows"]}
                at_b4 = stage.servers["b4"].view()["connected"]
                assert not places & {(each["client"], each["client_port"]) for each in at_b4}
            finally:
                changes.remove(stage.lab, "b4", keep_host=False)


def test_new_sessions_follow_a_weight_within_a_second_and_live_ones_stay(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held):
        stage.limpet("backend", "weight", "b1", "0")
        time.sleep(1)
        assert set(stage.newcomers()) == {"b2", "b3"}
    with stage.all_stay(held):
        stage.limpet("backend", "weight", "b1", "--reset")
        time.sleep(1)
        assert set(stage.newcomers()) == set(BACKENDS)


def test_a_draining_backend_keeps_its_sessions_with_their_new_connections(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held), stage.drained("b2"):
        assert set(stage.newcomers()) == {"b1", "b3"}
        assert stage.drain_of("b2")["state"] == "draining"
        assert stage.backend("b2")["intent"] == "draining"
    assert set(stage.newcomers()) == set(BACKENDS)


def test_with_rule_flows_new_connections_leave_a_draining_backend(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held, may_stray=("b2",)), stage.drained("b2", "--rule", "flows"):
        here = held.fresh()["agains"]
        stage.until(lambda: held.fresh()["agains"] > here + 2 * SESSIONS)
        rows = of(held.report()["rows"], "b2")
        assert all(row["strays"] for row in rows)
        assert not {backend for row in rows for _, backend in row["strays"]} & {"b2"}


def test_sessions_that_a_deadline_finds_are_kept(stage: Stage, held: HeldSessions) -> None:
    with stage.all_stay(held, may_stray=("b2",)):
        words = ("--deadline", "1s", "--at-deadline", "keep")
        with stage.drained("b2", *words):
            stage.until(lambda: stage.drain_of("b2")["state"] == "drained")
            held.settle()
            assert set(stage.newcomers()) == {"b1", "b3"}
            assert stage.drain_of("b2")["flows"] >= len(of(held.report()["rows"], "b2"))


def test_a_deadline_resets_both_ends_of_those_that_are_left(
    stage: Stage, held: HeldSessions, report: Report
) -> None:
    """Within a second, also of those that are silent; and nobody else."""
    words = ("--deadline", "2s", "--at-deadline", "reset")
    with stage.drained("b2", *words):
        with held.half_resting():
            deadline = stage.deadline_of("b2")
            stage.until(lambda: stage.drain_of("b2")["state"] == "drained")
        late = were_reset(stage, held.settle()["rows"], "b2", since=deadline)
    report(f"the last of the reset sessions knew it {late:.2f} s after the deadline")
    assert late < 1


def were_reset(stage: Stage, rows: list[dict[str, Any]], backend: str, since: float) -> float:
    """All sessions of the backend saw a RST, on both sides, and those of others none.

    How long after that moment the last one did.
    """
    gone = of(rows, backend)
    assert {row["broken"] for row in gone} == {RESET}
    assert {row["broken"] for row in rows if row not in gone} == {""}
    ends = stage.ended(backend, gone)
    assert [end["ended_by"] for end in ends] == ["reset"] * len(gone)
    moments = [row["broken_at"] for row in gone] + [end["ended_at"] for end in ends]
    assert min(moments) > since - 0.1
    stage.agree(rows)
    return float(max(moments)) - since


def test_a_removed_backend_keeps_its_flows_and_gets_nothing_new(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held, may_stray=("b2",)):
        changes.remove(stage.lab, "b2", keep_host=True)
        try:
            assert set(stage.newcomers()) == {"b1", "b3"}
            held.settle()
        finally:
            changes.add(stage.lab, "b2")
            stage.until(lambda: stage.is_up("b2"))


# Each backend falls twice in all of this: at the third time, damping would keep it down.


def test_a_down_backend_is_held_to_its_flows_and_gets_nothing_new(
    stage: Stage, held: HeldSessions
) -> None:
    with stage.all_stay(held, may_stray=("b1",)):
        with stage.sick("b1"):
            assert set(stage.newcomers()) == {"b2", "b3"}
            assert stage.backend("b1")["health"] == "down"
            assert stage.backend("b1")["intent"] == "active"
            held.settle()
        assert set(stage.newcomers()) == set(BACKENDS)


def test_flows_of_a_backend_that_stays_down_are_reset(stage: Stage, held: HeldSessions) -> None:
    with stage.pool(on_down="reset", hold_s=HOLD_S):
        before = time.time()
        with held.half_resting(), stage.sick("b2"):
            all_broken(stage, held, "b2")
        rows = held.settle()["rows"]
    assert were_reset(stage, rows, "b2", since=before + HOLD_S) < 5


def test_flows_of_a_backend_that_stays_down_are_placed_anew(
    stage: Stage, held: HeldSessions
) -> None:
    """Nobody is told: its server still waits, and the new one knows nothing of the session."""
    with stage.pool(on_down="rehash", hold_s=HOLD_S), stage.counting() as moved:
        resets = stage.resets()
        with stage.sick("b3"):
            all_broken(stage, held, "b3")
            rows = held.settle()["rows"]
            gone = of(rows, "b3")
            assert {row["broken"] for row in gone} == {RESET}
            assert stage.ended("b3", gone) == []
            assert {row["broken"] for row in rows if row not in gone} == {""}
            rises = {name: count - resets[name] for name, count in stage.resets().items()}
    assert moved["flow_moved"] >= len(gone)
    assert rises["b3"] == 0
    assert rises["b1"] + rises["b2"] >= len(gone)


def all_broken(stage: Stage, held: HeldSessions, backend: str) -> None:
    """Wait until no session of the backend is left."""
    stage.until(lambda: all(row["broken"] for row in of(held.fresh()["rows"], backend)))


def test_with_all_backends_down_new_sessions_are_refused_or_fail_open(
    stage: Stage, held: HeldSessions
) -> None:
    """And live ones stay, either way."""
    with stage.all_stay(held, may_stray=BACKENDS), stage.sick(*BACKENDS):
        with stage.counting() as moved, pytest.raises(TimeoutError):
            newcomer(stage)
        assert moved["drop_no_backend"] > 0
        held.settle()
        with stage.pool(fail_open=True):
            assert set(stage.newcomers()) == set(BACKENDS)


def newcomer(stage: Stage) -> None:
    """One new client connects."""
    source = ip_address("10.2.4.0") + stage.fresh(1)
    connected(stage.lab, source, ip_address(stage.vips[0]), PORT).close()


def test_sessions_live_and_begin_while_no_daemon_runs(stage: Stage, held: HeldSessions) -> None:
    with stage.all_stay(held):
        changes.kill(stage.lab, DIRECTOR, daemon_only=True)
        try:
            came = held.fresh()["agains"]
            assert set(stage.newcomers()) == set(BACKENDS)
            stage.until(lambda: held.fresh()["agains"] > came + SESSIONS)
        finally:
            changes.start(stage.lab, DIRECTOR)
            stage.until(lambda: all(stage.is_up(name) for name in BACKENDS))


def test_sessions_live_on_over_another_program(stage: Stage, held: HeldSessions) -> None:
    """A constant of the program changes: another one takes over between two packets."""
    with stage.all_stay(held):
        before = stage.api.get("/v1/status")["program_id"]
        changes.director(stage.lab, new_flows_per_s=150_000)
        assert stage.api.get("/v1/status")["program_id"] != before


def test_a_syn_flood_takes_neither_flows_nor_sessions(stage: Stage, held: HeldSessions) -> None:
    with stage.all_stay(held), stage.no_orphans():
        with stage.counting() as moved, held.half_resting():
            syn_flood(stage.lab, "client1", stage.vips[0], PORT, FLOOD)
        held.settle()
    assert moved["flow_created"] > FLOOD / 3
    assert moved["session_evicted"] + moved["evicted_opening"] > 0
