# SPDX-License-Identifier: Apache-2.0
"""Killed at any moment, raced by another process, left by an older version: nothing is lost."""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_state import numbered

from limpet.core.errors import Conflict
from limpet.core.intent import Intents
from limpet.core.registry import Registry
from limpet.store import rows, state
from limpet.store.state import State

KILLS = 60
LIVES_S = 0.03  # the longest that a child lives
RACE = 150  # revisions


def weighing(number: int) -> Intents:
    return Intents(weights={("web", f"b{number % 7}"): number % 65_536})


class Child:
    """A process that does something with the state file, and says numbers."""

    def __init__(self, work: Callable[[Callable[[int], None]], None]) -> None:
        self._end, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                work(lambda number: _write(said, number))
                status = 0
            finally:
                os._exit(status)
        os.close(said)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def listen(self) -> list[int]:
        """All that it said, when it has ended."""
        with os.fdopen(self._end, "rb") as pipe:
            said = pipe.read().split()
        _, self.status = os.waitpid(self.pid, 0)
        return [int(number) for number in said]


def _write(said: int, number: int) -> None:
    os.write(said, b"%d\n" % number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def put_until_killed(path: Path) -> Callable[[Callable[[int], None]], None]:
    def work(say: Callable[[int], None]) -> None:
        with State(path) as opened:
            number, _ = opened.intents()
            while True:
                event = [{"revision": number + 1}]
                number = opened.put_intents(
                    weighing(number + 1), number, "ann", f"to {number + 1}", "", 1.0, event
                )
                say(number)

    return work


def test_kill_loses_no_revision_and_no_event_that_was_acknowledged(path: Path) -> None:
    """SIGKILL at 60 random moments; what was on its way is there wholly, or not at all."""
    chance, last = random.Random(1), 0
    for _ in range(KILLS):
        child = Child(put_until_killed(path))
        time.sleep(chance.uniform(0.0, LIVES_S))
        child.kill()
        acknowledged = max([last, *child.listen()])
        assert os.WTERMSIG(child.status) == signal.SIGKILL
        with State(path) as opened:
            now, intents = opened.intents()
            assert acknowledged <= now <= acknowledged + 1
            assert now == 0 or intents == weighing(now)
            waiting = opened.pending("command", 100_000)
            assert [each.event["revision"] for each in waiting] == list(range(1, now + 1))
            history = opened.history(100_000)
            assert [each.number for each in history] == list(range(now, 0, -1))
            assert all(each.intents == weighing(each.number) for each in history)
        last = now
    assert last > KILLS  # else it was killed too early to mean much


def first_version(path: Path, registry: Registry) -> bytes:
    """A state file of the first schema, with a secret. What the secret is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "SCHEMAS", (rows.SCHEMA,))
        patch.setattr(state, "SCHEMA_VERSION", 1)
        with State(path) as opened:
            opened.save(registry)
            return opened.secret("slot_key", 16)


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


def test_file_of_the_first_version_keeps_its_ids_and_secrets(path: Path) -> None:
    secret = first_version(path, numbered(3))
    assert version(path) == 1
    for _ in range(2):
        with State(path) as opened:
            assert opened.load() == numbered(3)
            assert opened.secret("slot_key", 16) == secret
            assert opened.intents() == (0, Intents())
            assert opened.history(9) == []
            assert opened.pending("command") == []
    assert version(path) == 2


def test_kill_during_the_upgrade_leaves_one_version_or_the_other(tmp_path: Path) -> None:
    chance, seen = random.Random(2), set()
    for number in range(40):
        path = tmp_path / f"{number}.db"
        secret = first_version(path, numbered(number))
        child = Child(put_until_killed(path))
        time.sleep(chance.uniform(0.0, LIVES_S / 3))
        child.kill()
        child.listen()
        seen.add(version(path))
        with State(path) as opened:
            assert opened.load() == numbered(number)
            assert opened.secret("slot_key", 16) == secret
    assert seen == {1, 2}


def put_until_many(path: Path, who: str) -> Callable[[Callable[[int], None]], None]:
    def work(say: Callable[[int], None]) -> None:
        with State(path) as opened:
            while (seen := opened.intents()[0]) < RACE:
                try:
                    say(opened.put_intents(weighing(seen + 1), seen, who, "", "", 1.0))
                except Conflict:
                    continue

    return work


def test_two_who_race_for_a_revision_have_one_winner(path: Path) -> None:
    State(path).close()
    children = {who: Child(put_until_many(path, who)) for who in ("ann", "bob")}
    won = {who: child.listen() for who, child in children.items()}
    assert [child.status for child in children.values()] == [0, 0]
    assert sorted(won["ann"] + won["bob"]) == list(range(1, RACE + 1))
    with State(path) as opened:
        for revision in opened.history(RACE):
            assert revision.number in won[revision.who]
            assert revision.intents == weighing(revision.number)
    assert min(len(won["ann"]), len(won["bob"])) > 0


def test_two_who_upgrade_at_once_both_find_it_done(path: Path) -> None:
    first_version(path, numbered(5))
    children = [Child(put_until_many(path, who)) for who in ("ann", "bob")]
    won = [child.listen() for child in children]
    assert [child.status for child in children] == [0, 0]
    assert len(won[0]) + len(won[1]) == RACE
    with State(path) as opened:
        assert opened.load() == numbered(5)
