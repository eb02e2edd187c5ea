# SPDX-License-Identifier: Apache-2.0
"""A drain under load: 500 live sessions that end at random, 200 new clients a second."""

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from limpet.lab.sessions import Arrivals
from limpet.lab.topology import Topology

from .conftest import Report
from .observe import PORT
from .stage import Stage, stage_of, staged

pytestmark = pytest.mark.lab

SESSIONS, ARRIVALS_PER_S = 500, 200
LIFE_S = (3.0, 9.0)
IDLE_S = 3
WAIT_MAX_S = 2.0  # that `--wait` may return after the last one has gone
# A command takes so long where the machine has time for it. Where it takes longer, everybody who is
# between the last packet and the return of `--wait` does: about five such turns.
COMMAND_USUAL_S, TURNS = 0.25, 5
EARLY_S = 0.5  # ticks are a fraction of a second, and an entry is refreshed every other one
COMMAND_S = 60.0


@dataclass
class Waiting:
    """What `limpet backend drain --wait` did. Moments are Unix seconds."""

    began: float  # when it had said that the drain is on
    returned: float
    status: int
    said: str


@pytest.fixture(scope="module")
def stage(one_pop: Topology) -> Iterator[Stage]:
    with stage_of(staged(one_pop, weights=(1, 1, 1, 1), idle_s=IDLE_S)) as stage:
        yield stage


def wait_for_drain(stage: Stage, *words: str) -> Waiting:
    argv = stage.command("backend", "drain", *words, "--wait")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        first = run.stdout.readline()
        began = time.time()
        try:
            rest, _ = run.communicate(timeout=COMMAND_S)
        finally:
            run.kill()
    return Waiting(began, time.time(), run.returncode, first + rest)


@pytest.mark.parametrize("rule", ["flows", "sessions"])
def test_nothing_new_reaches_a_draining_backend_and_nothing_old_breaks(
    stage: Stage, report: Report, rule: str
) -> None:
    """And `--wait` ends with the last flow, or with the last session by its idle timeout."""
    stage.used = 0  # the sessions of the test before have expired by now, or will have
    time.sleep(IDLE_S)
    with stage.hold(SESSIONS, every=1.0, again=0, life=LIFE_S) as held, arriving(stage) as arrivals:
        assert held.report()["by_backend"]["b2"] > SESSIONS / 8
        resets = stage.resets()
        arrivals.wait()  # a quarter of those who came go to the backend that is to drain
        waited = wait_for_drain(stage, "b2", "--rule", rule)
        try:
            rows = held.fresh()["rows"]
            command_s = time_of_a_command(stage)
            came = arrivals.finish()
        finally:
            stage.limpet("backend", "undrain", "b2")
    assert waited.status == 0, waited.said
    assert [row for row in rows if row["broken"]] == []
    assert stage.resets() == resets
    judge_arrivals(came, waited, report)
    last = max(row["ended_at"] for row in rows if row["backend"] == "b2")
    assert all(row["ended_at"] for row in rows if row["backend"] == "b2")
    last_end = last + (IDLE_S if rule == "sessions" else 0)
    report(f"rule {rule}: --wait returned {waited.returned - last_end:.2f} s after the last end")
    report(f"a command takes {command_s:.2f} s")
    slow_s = TURNS * max(0.0, command_s - COMMAND_USUAL_S)
    assert -EARLY_S < waited.returned - last_end < WAIT_MAX_S + slow_s
    assert servers_agree(stage, rows)


def time_of_a_command(stage: Stage) -> float:
    begun = time.monotonic()
    stage.limpet("drains")
    return time.monotonic() - begun


@contextlib.contextmanager
def arriving(stage: Stage) -> Iterator[Arrivals]:
    """From all addresses that are left; one comes again when its session has expired."""
    options = {"skip": stage.used}
    with Arrivals(stage.lab, "client2", ARRIVALS_PER_S, PORT, stage.vips, **options) as arrivals:
        yield arrivals


def judge_arrivals(came: list[tuple[float, str]], waited: Waiting, report: Report) -> None:
    new = Counter(backend for at, backend in came if waited.began < at < waited.returned)
    rate = sum(new.values()) / (waited.returned - waited.began)
    report(f"new sessions while b2 drained: {dict(new)}, {rate:.0f}/s")
    assert [backend for _, backend in came if backend.startswith("failed")] == []
    assert set(new) == {"b1", "b3", "b4"}
    assert rate > ARRIVALS_PER_S / 2  # on a busy machine; reported
    before = Counter(backend for at, backend in came if at < waited.began)
    assert before["b2"] > 0


def servers_agree(stage: Stage, rows: list[dict[str, Any]]) -> bool:
    """The draining backend's server saw each of its sessions close, and none reset."""
    gone = [row for row in rows if row["backend"] == "b2"]
    stage.agree(rows)
    return [each["ended_by"] for each in stage.ended("b2", gone)] == ["close"] * len(gone)
