# SPDX-License-Identifier: Apache-2.0
"""Packets of flows that nobody has, as many as the machine sends, and live sessions among them.

New sessions are placed by turns, so a director is sure of no slot: every packet of the flood is a
question for the others, and most are over the limits of that. Meanwhile BGP moves sessions there,
of which most are silent until then: the directory knows where they belong. The same is done without
a flood, to compare. Sessions that are moved have a machine of their own; the others share theirs,
and its link, with the flood, so the two are told apart.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from limpet.api.client import Client
from limpet.api.places import places
from limpet.lab import shifting
from limpet.lab.sessions import AckFlood, HeldSessions

from .conftest import Report
from .journey import AWAY, HOME, IS_WHOLE, many_pops
from .observe import PORT
from .outcomes import percentile
from .stage import Stage, stage_of

pytestmark = pytest.mark.lab

SESSIONS = 100  # of each of the two clients
EXCHANGING = 3  # every third; the others are silent until they have been moved
FLOODER, STAYS, MOVES = "client1", "client1", "client2"
FLOODED = "par-d1"
SHIFTS = 20 if IS_WHOLE else 1  # and back
FLOOD_PER_S = 1_000  # at least, else it was none; 50,000 and more where the machine has time for it
FIGURES = (
    "directory_existing",
    "evicted_opening",
    "orphan_unknown",
    "orphan_rate",
    "orphan_full",
    "refused_rate",
    "refused_full",
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with stage_of(many_pops("two-pop", policy="round-robin")) as stage:
        yield stage


@dataclass
class Trial:
    """Sessions of two clients: one is moved to where the other is, and where the flood goes."""

    stage: Stage
    stays: HeldSessions
    moves: HeldSessions

    def run(self) -> None:
        for _ in range(SHIFTS):
            self.moves.say(f"rest but {EXCHANGING}")
            self.moves.fresh()
            shifting.shift(self.stage.lab, MOVES, AWAY)
            self.settle()
            self.moves.say("go on")
            self.settle()
            shifting.shift(self.stage.lab, MOVES, HOME)
            self.settle()

    def settle(self) -> None:
        """Those that exchange have had an answer more; the others rest."""
        for held in (self.stays, self.moves):
            held.fresh()
            held.fresh()

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All of them exchange now."""
        return {"stay": self.stays.settle()["rows"], "are moved": self.moves.settle()["rows"]}


def figures(stage: Stage) -> dict[str, int]:
    """Of the director that is flooded."""
    api = Client(places(f"{stage.lab}-{FLOODED}").socket)
    found = api.get("/v1/counters")
    return {row["name"]: row["value"] for kind in ("rungs", "events") for row in found[kind]}


def survived(stage: Stage, *, is_flooded: bool, report: Report) -> None:
    """All sessions live, and where they were; reports the longest wait of each."""
    with ExitStack() as open_:
        stays, moves = (
            open_.enter_context(stage.hold(SESSIONS, again=0, host=host)) for host in (STAYS, MOVES)
        )
        trial, before = Trial(stage, stays, moves), figures(stage)
        flood = AckFlood(stage.lab, FLOODER, stage.vips[0], PORT) if is_flooded else nullcontext()
        with flood:
            trial.run()
            found = flood.finish() if isinstance(flood, AckFlood) else None
        after, kinds = figures(stage), trial.rows()
        rows = [row for kind in kinds.values() for row in kind]
        assert [row for row in rows if row["broken"]] == []
        assert len(rows) == 2 * SESSIONS
        stage.agree(rows)
    rose = {name: after.get(name, 0) - before.get(name, 0) for name in FIGURES}
    what = "no flood" if found is None else flooded(found, rose)
    for kind, of_kind in kinds.items():
        report(f"{what}: 0 of {len(of_kind)} that {kind} broken, longest wait {waits(of_kind)}")
    report(f"{what}: {rose}")


def flooded(found: dict[str, Any], rose: dict[str, int]) -> str:
    """It was a flood, and met the director as flows that nobody knows, asked for or not."""
    per_s = found["sent"] / found["seconds"]
    assert per_s > FLOOD_PER_S
    orphans = rose["orphan_unknown"] + rose["orphan_rate"] + rose["orphan_full"]
    assert orphans > found["sent"] / 4  # the others were lost on full links, or wait
    return f"flood of {found['sent']:,} ACKs, {per_s:,.0f} a second"


def waits(rows: list[dict[str, Any]]) -> str:
    gaps = [int(row["longest_gap_ms"]) for row in rows]
    return f"p50 {percentile(gaps, 0.5)} ms, p99 {percentile(gaps, 0.99)} ms, most {max(gaps)} ms"


def test_a_flood_of_unknown_flows_breaks_no_session_that_is_moved_there(
    stage: Stage, report: Report
) -> None:
    shifting.shift(stage.lab, STAYS, AWAY)
    shifting.shift(stage.lab, MOVES, HOME)
    survived(stage, is_flooded=False, report=report)
    survived(stage, is_flooded=True, report=report)
