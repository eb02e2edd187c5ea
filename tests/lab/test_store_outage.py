# SPDX-License-Identifier: Apache-2.0
"""All nodes of the store are dead for a time: sessions go on, also those that are moved meanwhile.

Directors ask each other directly. What would change the desired state is refused and says why;
afterwards all is as it would have been. `make soak` waits ten minutes, `make test` 20 seconds.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from limpet.api.client import Client
from limpet.api.places import places
from limpet.lab import changes, folder

from .conftest import Report
from .journey import AWAY, DRAINED, HOME, IS_WHOLE, SESSIONS, STORES, Journey, many_pops
from .stage import stage_of

pytestmark = pytest.mark.lab

OUTAGE_S = 600.0 if IS_WHOLE else 20.0
UNAVAILABLE = 10  # exit status
RECOVERY_S = 60.0
MEMBERS = ("fra-d1", "par-d1")


@pytest.fixture
def journey() -> Iterator[Journey]:
    with stage_of(many_pops("two-pop")) as stage:
        journey = Journey(stage)
        with journey.programs():
            yield journey


def member(way: Journey, name: str) -> Client:
    return Client(places(f"{way.lab}-{name}").socket)


def degraded(way: Journey) -> list[bool]:
    """Of each director, whether it says that it cannot reach the store."""
    found = (member(way, name).get("/v1/pops")["degraded"] for name in MEMBERS)
    return [any("store cannot be reached" in each for each in said) for said in found]


def refused(way: Journey, *words: str) -> None:
    done = subprocess.run(way.stage.command(*words), capture_output=True, text=True, timeout=60)
    assert done.returncode == UNAVAILABLE, (words, done.returncode, done.stdout + done.stderr)
    assert "store" in done.stderr


@pytest.mark.timeout(1_200)
def test_ten_minutes_without_the_store(journey: Journey, report: Report) -> None:
    def outage(way: Journey, undone: ExitStack) -> None:
        for node in STORES:
            way.kill(undone, node)
        way.stage.until(lambda: all(degraded(way)), 30.0)
        until = time.monotonic() + OUTAGE_S
        for pop in (AWAY, HOME, AWAY):
            way.shift(pop)
            assert set(way.stage.newcomers(60)) == set(way.stage.servers)
        refused(way, "backend", "drain", DRAINED)
        refused(way, "apply", str(folder.of(way.lab) / "shared.toml"))
        time.sleep(max(until - time.monotonic(), 0))
        with way.stage.hold(SESSIONS) as later:  # begun while nobody could be told
            for node in STORES:
                changes.start(way.lab, node)
            took = way.stage.until(lambda: not any(degraded(way)), RECOVERY_S)
            report(f"the store is known to be back after {took:.1f} s")
            with way.stage.all_stay(later):
                way.shift(HOME)
            later.finish()

    journey.survives(f"two-pop, no store for {OUTAGE_S:.0f} s", outage, report)
    with ExitStack() as undone:
        journey.drain(undone)
        newcomers = journey.stage.newcomers(60)
        assert DRAINED not in newcomers
    rows = member(journey, MEMBERS[0]).get("/v1/pops")
    report(f"{rows}"[:600])
