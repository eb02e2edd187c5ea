# SPDX-License-Identifier: Apache-2.0
"""One address with very many connections is spread over all backends; nothing of it ever moves."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import JsonValue

from limpet.lab.sessions import HeldSessions
from limpet.lab.topology import Topology

from .conftest import Report
from .observe import PORT
from .stage import Stage, stage_of, staged

pytestmark = pytest.mark.lab

CLIENT = "10.1.0.2"  # client1's only address
SPLIT_FLOWS = 200
BEFORE, CROWD = 150, 1_800
RANGE_PORTS = 16  # of one of 4,096 ranges
FIRST, SECOND, THIRD = 20_000, 22_000, 28_000  # source ports, each the first of a range
BACKENDS = ("b1", "b2", "b3", "b4")
SPREAD_MAX = 1.1  # heaviest backend, over the mean
PORT_STEP = 2  # so that every range has ports left
KEPT_EARLY, KEPT = 20, 70  # together less than half of SPLIT_FLOWS


@pytest.fixture(scope="module")
def stage(one_pop: Topology) -> Iterator[Stage]:
    proxy: dict[str, JsonValue] = {"flows": SPLIT_FLOWS, "port_ranges": 65_536 // RANGE_PORTS}
    pool: dict[str, JsonValue] = {"policy": "least-sessions"}
    with stage_of(staged(one_pop, weights=(1, 1, 1, 1), pool=pool, mega_proxy=proxy)) as stage:
        yield stage


def crowd(stage: Stage, number: int, port_first: int) -> HeldSessions:
    """Connections of one client to one VIP."""
    options = {"source": CLIENT, "port_first": port_first, "port_step": PORT_STEP, "every": 2.0}
    return HeldSessions(stage.lab, "client1", number, PORT, stage.vips[:1], **options)


def test_a_client_with_very_many_connections_is_split_and_later_whole_again(
    stage: Stage, report: Report
) -> None:
    with crowd(stage, BEFORE, FIRST) as early:
        opened = early.wait_open()
        (base,) = opened["by_backend"]
        assert not is_split(stage)
        with crowd(stage, CROWD, SECOND) as many:
            rows = many.wait_open()["rows"]
            beyond = Counter(row["backend"] for row in rows[SPLIT_FLOWS - BEFORE :])
            mean = sum(beyond.values()) / len(BACKENDS)
            report(f"before the split {base} only; then {dict(beyond)}")
            assert {row["backend"] for row in rows[: SPLIT_FLOWS - BEFORE]} == {base}
            assert max(beyond[name] for name in BACKENDS) / mean <= SPREAD_MAX
            assert is_split(stage)
            stays(stage, early, many)
            ends(stage, early, many, base)


def stays(stage: Stage, *crowds: HeldSessions) -> None:
    """Nothing broke, and each server knows just its own."""
    for each in crowds:
        now = each.settle()
        assert (now["broken"], now["alive"]) == ([], len(now["rows"]))
        stage.agree(now["rows"])


def ends(stage: Stage, early: HeldSessions, many: HeldSessions, base: str) -> None:
    """Few are left: new ranges follow the client's own session, those that live stay."""
    keep(stage, early, KEPT_EARLY)
    keep(stage, many, KEPT)
    live = next(row for row in many.report()["rows"][:KEPT] if row["backend"] != base)
    with crowd(stage, RANGE_PORTS, THIRD) as late:
        opened = late.wait_open()
        assert opened["by_backend"] == {base: RANGE_PORTS}
        for held, count in ((early, KEPT_EARLY), (many, KEPT)):
            now = held.settle()
            assert (now["broken"], now["alive"]) == ([], count)
        assert reconnect(stage, live["source_port"] + 1)["backend"] == live["backend"]


def keep(stage: Stage, held: HeldSessions, number: int) -> None:
    held.say(f"keep {number}")
    stage.until(lambda: bool(held.fresh()["alive"] == number))


def reconnect(stage: Stage, port: int) -> dict[str, Any]:
    with crowd(stage, 1, port) as one:
        row: dict[str, Any] = one.wait_open()["rows"][0]
    assert not row["broken"]
    return row


def is_split(stage: Stage) -> bool:
    rows = stage.api.get("/v1/sources", limit=5)
    return any(row["is_split"] for row in rows if row["client"].startswith(CLIENT))
