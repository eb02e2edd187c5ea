# SPDX-License-Identifier: Apache-2.0
"""The checker: what it excuses is what its assumption says, and no fault of the protocol is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limpet.cli.sim import app
from limpet.datapath.abi import Rung
from limpet.sim import running
from limpet.sim.director import Director
from limpet.sim.knowledge import Reason
from limpet.sim.scenario import Event, load
from limpet.sim.verdict import Tally
from limpet.sim.world import World

SMALL = replace(load("rough"), clients=500)
SEEDS = 2


def never_sent(patch: pytest.MonkeyPatch) -> None:
    """Entries of the directory are taken from the queue, and go nowhere."""
    honest = World.flush

    def flush(self: World, director: Director, boots: int) -> None:
        director.queue.clear()
        honest(self, director, boots)

    patch.setattr(World, "flush", flush)


def never_learnt(patch: pytest.MonkeyPatch) -> None:
    """Logs are read, and what is in them is not used."""
    patch.setattr(Director, "learn", lambda *a, **b: None)


def never_scanned(patch: pytest.MonkeyPatch) -> None:
    """A change of tables publishes nothing."""
    patch.setattr(Director, "scan", lambda *a: None)


@pytest.mark.parametrize("mutation", [never_sent, never_learnt, never_scanned])
def test_a_fault_of_the_protocol_is_not_excused_by_what_happens_beside_it(
    mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    outcome = running.many(SMALL, 1, SEEDS, 1)
    assert len(outcome.failed) == SEEDS
    assert outcome.tally.failures


def test_machines_that_are_lost_excuse_only_what_they_alone_knew() -> None:
    """Backends come, a machine is lost, more come: orphans are of sessions that were at home."""
    events = (
        *(Event(20.0 + i, "add", 13 + i) for i in range(3)),
        Event(30.0, "crash", 2, 0, 5.0),
        *(Event(31.0 + i, "add", 16 + i) for i in range(4)),
    )
    quiet = replace(SMALL, clients=2_000, loss=0.0)
    tally = running.one(quiet, 1, events)
    assert tally.broken > 1
    assert set(tally.orphans) == {Reason.ONLY_LOST}
    assert not tally.failed
    no_change_after = running.one(quiet, 1, events[:4])
    assert no_change_after.broken == 0


def test_each_orphan_has_a_reason_and_each_reason_a_count() -> None:
    tally = running.many(SMALL, 1, SEEDS, 1).tally
    orphans = tally.orphans.total() + tally.spared.total()
    assert orphans == tally.rungs[Rung.ORPHAN.name] > 0
    assert not tally.failed
    assert {*tally.orphans, *tally.spared, *tally.strayed} <= set(Reason)
    assert tally.broken == tally.orphans.total() + tally.misdelivered.total()


def test_connections_of_a_client_are_sessions_of_their_own_where_affinity_is_flow() -> None:
    tally: Tally = running.many(replace(load("flow"), clients=500), 1, SEEDS, 1).tally
    assert tally.lives == tally.connections > 500 * SEEDS
    assert not tally.strayed
    assert not tally.failed


def test_counts_are_printed_for_machines_by_reason(tmp_path: Path) -> None:
    file = tmp_path / "few.toml"
    file.write_text("clients = 100\n")
    found = CliRunner().invoke(app, ["run", str(file), "--seeds", "1", "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["tally"]["lives"] == 100
    assert said["tally"]["rungs"]["TABLE"] > said["tally"]["lives"]
    assert said["tally"]["orphans"] == {}
