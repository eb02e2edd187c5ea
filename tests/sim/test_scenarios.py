# SPDX-License-Identifier: Apache-2.0
"""Whole runs: promises are kept, what is broken on purpose is found, shortened and shown again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from limpet.core.errors import ConfigError, NotFound
from limpet.datapath.abi import Rung
from limpet.sim import running
from limpet.sim.datapath import DataPath, Result
from limpet.sim.scenario import BUILT_IN, draw, load, parse

FEW = 400  # clients


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_promise_is_kept_in_a_built_in_scenario(name: str) -> None:
    scenario = replace(load(name), clients=FEW)
    outcome = running.many(scenario, 1, 4)
    assert not outcome.failed, outcome.tally.failures
    assert outcome.tally.lives > 3 * FEW
    assert (outcome.tally.shifted > 10) or name == "stable"


def test_nothing_breaks_where_no_machine_is_lost_and_nobody_cut_off() -> None:
    outcome = running.many(replace(load("usual"), clients=FEW, changes=10, shifts=20), 100, 4)
    assert outcome.tally.broken == 0
    assert outcome.tally.held > 0


def test_same_seed_gives_the_same_run() -> None:
    scenario = replace(load("rough"), clients=FEW)
    assert running.one(scenario, 7) == running.one(scenario, 7)
    assert running.one(scenario, 7) != running.one(scenario, 8)


def test_failing_run_is_shortened_and_shown_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A data path that never asks: an added backend and a shift are enough to miss it."""

    def packet(self: DataPath, *what: object) -> Result:
        result = honest(self, *what)  # type: ignore[arg-type] # the arguments of the real one
        return result._replace(rung=Rung.HOME_EXISTING) if result.rung is Rung.ORPHAN else result

    honest = DataPath.packet
    scenario = replace(load("rough"), clients=FEW, crashes=4)
    monkeypatch.setattr(DataPath, "packet", packet)
    seed = running.many(scenario, 1, 4, processes=1).failed[0]
    events = running.shorten(scenario, seed, draw(scenario, seed))
    assert 0 < len(events) < len(draw(scenario, seed)) / 2
    file = tmp_path / "run.json"
    running.write(file, scenario, seed, events)
    assert running.one(*running.read(file)) == running.one(scenario, seed, events)
    assert running.one(*running.read(file)).failures
    for left_out in range(len(events)):
        fewer = events[:left_out] + events[left_out + 1 :]
        assert not running.one(scenario, seed, fewer).failed


def test_run_says_what_it_ran() -> None:
    """The commit in a checkout, with a + if that was changed; else the version."""
    assert re.fullmatch(r"commit [0-9a-f]{12}\+?|version \S+", running.what_runs())


def test_scenario_that_makes_no_sense_is_refused() -> None:
    for text in ("pops = 'two'", "popes = 2", "policy = 'best'", "pops = 40", "pops ="):
        with pytest.raises(ConfigError):
            parse(text, "x.toml")
    with pytest.raises(NotFound):
        load("no-such-scenario")
