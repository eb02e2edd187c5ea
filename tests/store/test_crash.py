# SPDX-License-Identifier: Apache-2.0
"""Killed at any moment, raced by another process, left by an older version: nothing is lost."""

import os
import random
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from limpet.core.errors import Conflict
from limpet.core.intent import Intents
from limpet.core.registry import Registry
from limpet.store import rows, state
from limpet.store.state import SCHEMA_VERSION, State
from store.test_state import numbered

KILLS = 60
PUTS_MAX = 5  # that a child acknowledges before it is killed
ROUNDS = 60  # of the race
UPGRADES, UPGRADES_MAX = 40, 1_000
Work = Callable[["Talk"], None]


def weighing(number: int) -> Intents:
    return Intents(weights={("web", f"b{number % 7}"): number % 65_536})


class Talk:
    """One end of a line on which numbers are said."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line.makefile("rwb", buffering=0)

    def say(self, number: int) -> None:
        self._line.write(b"%d\n" % number)

    def hear(self) -> int:
        """The next number. Raises EOFError when the other has gone."""
        said = self._line.readline()
        if not said.endswith(b"\n"):
            raise EOFError
        return int(said)


class Child(Talk):
    """A process that does something with the state file, and talks about it."""

    def __init__(self, work: Work) -> None:
        ours, its = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ours.close()
                work(Talk(its))
                status = 0
            finally:
                os._exit(status)
        its.close()
        with ours:
            super().__init__(ours)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def rest(self) -> list[int]:
        """What it has said and nobody has heard, when it has ended."""
        said = []
        with suppress(EOFError, ConnectionResetError):
            while True:
                said.append(self.hear())
        self._line.close()
        _, self.status = os.waitpid(self.pid, 0)
        return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def put_until_killed(path: Path) -> Work:
    def work(talk: Talk) -> None:
        talk.say(0)
        with State(path) as opened:
            number, _ = opened.intents()
            while True:
                event = [{"revision": number + 1}]
                number = opened.put_intents(
                    weighing(number + 1), number, "ann", f"to {number + 1}", "", 1.0, event
                )
                talk.say(number)

    return work


def test_kill_loses_no_revision_and_no_event_that_was_acknowledged(path: Path) -> None:
    """SIGKILL at 60 random moments; what was on its way is there wholly, or not at all."""
    chance, last = random.Random(1), 0
    for _ in range(KILLS):
        child = Child(put_until_killed(path))
        began, count = time.monotonic(), chance.randrange(PUTS_MAX)
        heard = [child.hear() for _ in range(1 + count)]
        time.sleep(chance.uniform(0.0, 1.5) * (time.monotonic() - began) / (1 + count))
        child.kill()
        acknowledged = max([last, *heard, *child.rest()])
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
    assert last > KILLS


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
    assert version(path) == SCHEMA_VERSION


def test_kill_during_the_upgrade_leaves_one_version_or_the_other(tmp_path: Path) -> None:
    chance, seen, took_s = random.Random(2), set[int](), 0.0
    for number in range(UPGRADES_MAX):
        path = tmp_path / f"{number}.db"
        secret = first_version(path, numbered(number))
        child = Child(put_until_killed(path))
        assert child.hear() == 0
        began = time.monotonic()
        if number % 10 == 0:
            child.hear()  # opened, and more
            took_s = time.monotonic() - began
        else:
            time.sleep(chance.uniform(0.0, took_s))
        child.kill()
        child.rest()
        seen.add(version(path))
        with State(path) as opened:
            assert opened.load() == numbered(number)
            assert opened.secret("slot_key", 16) == secret
        if number >= UPGRADES and seen == {1, SCHEMA_VERSION}:
            return
    raise AssertionError("killed too early, or too late")


def put_when_told(path: Path, who: str) -> Work:
    def work(talk: Talk) -> None:
        with State(path) as opened:
            talk.say(0)
            while (seen := talk.hear()) < ROUNDS:
                try:
                    talk.say(opened.put_intents(weighing(seen + 1), seen, who, "", "", 1.0))
                except Conflict:
                    talk.say(-1)

    return work


@pytest.mark.parametrize("first", [1, 2])
def test_two_who_race_for_a_revision_have_one_winner(path: Path, first: int) -> None:
    """Both open the file at once, new or of the first version; then both put at once."""
    if first == 1:
        first_version(path, numbered(5))
    children = {who: Child(put_when_told(path, who)) for who in ("ann", "bob")}
    assert [child.hear() for child in children.values()] == [0, 0]
    winners = []
    for seen in range(ROUNDS):
        for child in children.values():
            child.say(seen)
        answers = {who: child.hear() for who, child in children.items()}
        assert sorted(answers.values()) == [-1, seen + 1]
        winners.append(max(answers, key=lambda who: answers[who]))
    for child in children.values():
        child.say(ROUNDS)
        assert (child.rest(), child.status) == ([], 0)
    with State(path) as opened:
        assert [each.who for each in opened.history(ROUNDS)] == winners[::-1]
        assert opened.load() == (numbered(5) if first == 1 else Registry())
