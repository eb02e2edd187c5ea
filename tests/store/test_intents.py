# SPDX-License-Identifier: Apache-2.0
"""Revisions and outbox against a plain model, under any series of calls and restarts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from limpet.core.errors import Conflict, LimpetError, NotFound
from limpet.core.intent import Drain, Intents
from limpet.core.model import AtDeadline, DrainRule
from limpet.store import outbox, revisions
from limpet.store.revisions import Revision
from limpet.store.state import State

FEW = 5  # limits in the stateful test, so that they are reached
TARGETS = ("command", "webhook")

names = st.sampled_from(["b1", "b2", "b3"])
moments = st.none() | st.integers(1, 2_000_000_000).map(float)
drains = st.builds(
    Drain,
    names,
    st.floats(1, 2e9),
    st.text(max_size=5),
    st.none() | st.sampled_from(DrainRule),
    moments,
    st.sampled_from(AtDeadline),
    moments,
)
weights = st.dictionaries(st.tuples(st.sampled_from(["p1", "p2"]), names), st.integers(0, 65_535))
intents = st.builds(
    lambda some, heavy: Intents({drain.backend: drain for drain in some}, heavy),
    st.lists(drains, max_size=3),
    weights,
)
events = st.lists(
    st.fixed_dictionaries({"kind": st.text(max_size=5), "left": st.none() | st.integers()}),
    max_size=FEW + 2,
)


class Store(RuleBasedStateMachine):
    """A state file beside a list of all revisions, and a list of all events."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name, "state.db")
        self.limits = (
            patch.object(revisions, "REVISIONS_MAX", FEW),
            patch.object(outbox, "EVENTS_MAX", FEW),
        )
        for limit in self.limits:
            limit.start()
        self.state = State(self.path)
        self.revisions = [revisions.FIRST]
        self.events: list[Mapping[str, Any]] = []
        self.targets: set[str] = set()
        self.last: dict[str, int] = {}
        self.first = 0  # how many events are gone from the beginning of the list

    @initialize(names=st.sets(st.sampled_from(TARGETS)))
    def begin(self, names: set[str]) -> None:
        self.change_targets(names)

    @rule(new=intents, queued=events, who=st.text(max_size=9), what=st.text(max_size=9))
    def put(self, new: Intents, queued: list[Any], who: str, what: str) -> None:
        now = len(self.revisions) * 1.5
        number = self.state.put_intents(
            new, len(self.revisions) - 1, who, what, "digest", now, queued
        )
        self.revisions.append(Revision(number, now, who, what, "digest", new))
        assert number == len(self.revisions) - 1
        self.queued(queued)

    @rule(new=intents, queued=events, off=st.sampled_from([-3, -1, 1, 7]))
    def put_over_what_was_not_seen(self, new: Intents, queued: list[Any], off: int) -> None:
        now = len(self.revisions) - 1
        with pytest.raises(Conflict, match=f"at revision {now} by now, not at {now + off}:"):
            self.state.put_intents(new, now + off, "", "", "", 0.0, queued)

    def queued(self, new: list[Any]) -> None:
        self.events += new
        if new:
            self.first = max(self.first, len(self.events) - FEW)

    @rule(name=st.sampled_from(TARGETS), many=st.integers(1, FEW))
    def deliver(self, name: str, many: int) -> None:
        if name in self.targets and (waiting := self.state.pending(name, many)):
            self.state.delivered(waiting[-1].id, name, self.targets)
            self.last[name] = waiting[-1].id
            self.forget()

    @rule(names=st.sets(st.sampled_from(TARGETS)))
    def change_targets(self, names: set[str]) -> None:
        self.state.settle_targets(names)
        self.targets = names
        self.last = {name: last for name, last in self.last.items() if name in names}
        self.forget()

    def forget(self) -> None:
        had_by_all = min((self.last.get(t, 0) for t in self.targets), default=len(self.events))
        self.first = max(self.first, had_by_all)

    @rule()
    def restart(self) -> None:
        self.state.close()
        self.state = State(self.path)

    @invariant()
    def what_is_kept_is_the_newest_of_what_was_put(self) -> None:
        assert self.state.intents() == (len(self.revisions) - 1, self.revisions[-1].intents)
        kept = self.revisions[1:][-FEW:]
        assert self.state.history(100) == kept[::-1]
        assert self.state.history(2) == kept[::-1][:2]
        assert [self.state.revision(each.number) for each in kept] == kept
        if kept and kept[0].number > 1:
            with pytest.raises(NotFound, match=f"from {kept[0].number} to {kept[-1].number}"):
                self.state.revision(kept[0].number - 1)

    @invariant()
    def each_target_gets_what_it_has_not_had(self) -> None:
        for target in self.targets:
            first = max(self.first, self.last.get(target, 0))
            waiting = [(number + 1, e) for number, e in enumerate(self.events) if number >= first]
            assert [(each.id, each.event) for each in self.state.pending(target)] == waiting
            assert self.state.pending_count(target) == len(waiting)

    def teardown(self) -> None:
        self.state.close()
        for limit in self.limits:
            limit.stop()
        self.folder.cleanup()


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def weighing(weight: int) -> Intents:
    return Intents(weights={("web", "b1"): weight})


def test_history_is_bounded_in_bytes_and_keeps_the_current_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with State(path) as state:
        for number in range(20):
            state.put_intents(weighing(number), number, "", "", "", 0.0)
        size = state._db.execute("SELECT sum(length(intents)) FROM revisions").fetchone()[0]
        monkeypatch.setattr(revisions, "HISTORY_BYTES_MAX", size // 2)
        state.put_intents(weighing(20), 20, "", "", "", 0.0)
        assert 5 < len(state.history(100)) < 15
        monkeypatch.setattr(revisions, "HISTORY_BYTES_MAX", 1)
        state.put_intents(weighing(21), 21, "", "", "", 0.0)
        assert [revision.number for revision in state.history(100)] == [22]
        assert state.intents() == (22, weighing(21))


def test_rollback_is_a_new_revision_with_the_intents_of_an_old_one(path: Path) -> None:
    with State(path) as state:
        state.put_intents(weighing(1), 0, "ann", "weight", "", 1.0)
        state.put_intents(weighing(2), 1, "bob", "weight", "", 2.0)
        state.put_intents(state.revision(1).intents, 2, "ann", "rollback to 1", "", 3.0)
        assert state.intents() == (3, weighing(1))
        assert [each.who for each in state.history(9)] == ["ann", "bob", "ann"]
        state.put_intents(state.revision(0).intents, 3, "ann", "rollback to 0", "", 4.0)
        assert state.intents() == (4, Intents())


def test_event_is_not_queued_when_its_change_is_refused(path: Path) -> None:
    with State(path) as state:
        with pytest.raises(Conflict):
            state.put_intents(weighing(1), 7, "", "", "", 0.0, [{"kind": "weight_set"}])
        with pytest.raises(ValueError, match="not JSON compliant"):
            state.put_intents(weighing(1), 0, "", "", "", 0.0, [{"left": float("nan")}])
        assert state.pending("command") == []
        assert state.intents() == (0, Intents())


def test_full_outbox_drops_the_oldest_and_says_how_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "EVENTS_MAX", 3)
    with State(path) as state:
        for number in range(5):
            state.put_intents(Intents(), number, "", "", "", 0.0, [{"number": number}])
        assert [each.id for each in state.pending("webhook")] == [3, 4, 5]
        assert state.events_dropped == 2


def unpacked(value: bytes) -> Callable[[State], None]:
    def damage(state: State) -> None:
        state._db.execute("UPDATE revisions SET intents = ?", (value,))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        unpacked(b"no zlib"),
        unpacked(bytes.fromhex("789c") + b"cut"),
        lambda state: state._db.execute("UPDATE events SET event = '{'"),
        lambda state: state._db.execute("UPDATE events SET event = '[]'"),
    ],
)
def test_revision_or_event_that_cannot_be_is_reported(
    path: Path, damage: Callable[[State], None]
) -> None:
    with State(path) as state:
        state.put_intents(weighing(1), 0, "", "", "", 0.0, [{"kind": "x"}])
        damage(state)
        with pytest.raises(LimpetError, match="is damaged"):
            (state.intents(), state.pending("command"))
