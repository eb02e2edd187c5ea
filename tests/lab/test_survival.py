# SPDX-License-Identifier: Apache-2.0
"""200 live sessions survive every change, one by one and all in sequence. None may break.

At the end stand the tests that show what is not promised, and that a broken session is noticed.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tools.compile_bpf import SOURCES, compile_object

import limpet
from limpet.lab import changes, operations
from limpet.lab.topology import Topology

from .conftest import Report, fresh_name, varied
from .observe import BACKENDS
from .trial import (
    CHANGES,
    SESSIONS,
    Change,
    Trial,
    away_from_home,
    director_rebooted,
    new_clients,
)

pytestmark = pytest.mark.lab

UNUSED = 400  # addresses of each family that other tests here use
FLOOD = 1_000_000  # sources, where the connection table has 65,536 entries


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another build of limpet, whose program differs: a folder for PYTHONPATH.

    Its echo replies live one hop less, so that it can be told from outside which one runs.
    """
    top = tmp_path_factory.mktemp("newer")
    package = top / "limpet"
    shutil.copytree(Path(limpet.__file__).parent, package)
    shutil.copytree(SOURCES, top / "bpf")
    header = top / "bpf" / "encap.h"
    text = header.read_text()
    changed = text.replace("#define OUTER_HOP_LIMIT   64", "#define OUTER_HOP_LIMIT   63")
    assert changed != text
    header.write_text(changed)
    compile_object(top / "bpf" / "director.bpf.c", package / "datapath" / "director.bpf.o")
    return top


@pytest.fixture(scope="module")
def lab_name(one_pop: Topology) -> Iterator[str]:
    with fresh_name() as name:
        operations.up(name, one_pop)
        yield name


@pytest.fixture(scope="module")
def unused() -> Iterator[int]:
    return new_clients()


@pytest.fixture
def trial(lab_name: str, report: Report, newer: Path, unused: Iterator[int]) -> Iterator[Trial]:
    trial = Trial(lab_name, report, newer, unused=unused)
    with trial.serving(*BACKENDS):
        yield trial


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_200_sessions_survive_a_change_and_its_undoing(trial: Trial, change: Change) -> None:
    with trial.sessions() as held:
        resets = trial.resets()
        with change(trial):
            during = held.settle()
            assert (during["broken"], during["alive"]) == ([], SESSIONS)
        after = held.settle()
        assert after["broken"] == []
        assert trial.resets() == resets
        assert held.finish()["alive"] == SESSIONS


def test_200_sessions_survive_all_changes_in_sequence(trial: Trial) -> None:
    trial.flood = FLOOD
    # Clients without a session, so that all are at home when the director forgets everybody.
    with trial.sessions(skip=UNUSED) as held, ExitStack() as done:
        before = held.settle()
        resets = trial.resets()
        for change in CHANGES:
            done.enter_context(change(trial))
            now = held.settle()
            assert (change.__name__, now["broken"]) == (change.__name__, [])
        assert now["alive"] == SESSIONS
        assert now["by_backend"] == before["by_backend"]
        away = away_from_home(trial, now["rows"])
        now_resets = trial.resets()
        assert {name: now_resets[name] for name in resets} == resets
        # Without the connection table these would have broken.
        assert len(away) > SESSIONS / 4
        trial.report(
            f"{SESSIONS} sessions, {now['exchanges']:,} exchanges, {len(away)} away from home, "
            f"longest wait {now['longest_gap_ms']:,} ms: 0 broken"
        )
        assert held.finish()["broken"] == []


def test_a_reboot_of_the_director_spares_all_sessions_that_are_at_home(trial: Trial) -> None:
    """And only these: its connection table is all that knows of the others, and it is gone."""
    with trial.sessions() as held:
        changes.weight(trial.lab, "b2", 3)
        try:
            away = away_from_home(trial, held.settle()["rows"])
            assert 0 < len(away) < SESSIONS
            with director_rebooted(trial):
                broken = [row for row in held.settle()["rows"] if row["broken"]]
        finally:
            changes.weight(trial.lab, "b2", 1)
    assert {row["source"] for row in broken} == {row["source"] for row in away}


def test_without_entries_a_change_of_the_pool_breaks_sessions(
    one_pop: Topology, report: Report, newer: Path
) -> None:
    """The control: were sessions not told from broken ones, the tests above would prove nothing."""
    with fresh_name() as name:
        operations.up(name, varied(one_pop, new_flows_per_s=1))
        trial = Trial(name, report, newer)
        with trial.serving(*BACKENDS), trial.sessions() as held:
            changes.weight(name, "b3", 0)
            found = held.settle()
            resets = trial.resets()
    assert len(found["broken"]) > SESSIONS / 10
    assert sum(resets.values()) > 0
