# SPDX-License-Identifier: Apache-2.0
"""Directors that follow these steps run one generation, in whatever order they take them."""

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.cluster import (
    DOUBT_S,
    NOTHING,
    PHASE_MAX_S,
    REACHABLE_S,
    WAIT,
    Apply,
    Head,
    Loaded,
    Member,
    Prepare,
    Put,
    Refuse,
    Report,
    Seen,
    Version,
    agreed_down,
    follow,
    is_cut_off,
    is_free,
    lead,
    left,
    next_generation,
    propose,
    referenced,
)
from limpet.core.cluster_wire import decode_head, decode_report, encode_head, encode_report
from limpet.core.intent import Intents, PopDrain

ONE, TWO = Version(1, "a"), Version(2, "b")
NAMES = ("d1", "d2", "d3")
HEAD = Head(1, "text", bytes(16), current=ONE)


class World:
    """Directors, the head, and logs of which each director has read so much."""

    def __init__(self, *, cut_off: frozenset[str] = frozenset()) -> None:
        self.head = replace(HEAD, following=TWO)
        self.members = {name: Member(name, ONE) for name in NAMES}
        self.sequence = dict.fromkeys(NAMES, 0)
        self.read = {name: dict.fromkeys(NAMES, 0) for name in NAMES}
        self.seen = {name: Seen(Report(name, current=ONE), 0.0) for name in NAMES}
        self.cut_off, self.now = cut_off, 0.0
        self.flipped_before_loaded: list[str] = []

    def step(self, name: str) -> None:
        if name in self.cut_off:
            return
        me = self.members[name]
        match follow(self.head, me, self.seen, self.read[name], self.now):
            case Prepare(version):
                self.sequence[name] += 3
                me = replace(me, prepared=version)
            case Loaded(version):
                me = replace(me, loaded=version)
            case Apply(version):
                others = [n for n in NAMES if n not in self.cut_off and n != name]
                if any(self.read[name][n] < 3 for n in others):
                    self.flipped_before_loaded.append(name)
                me = replace(me, current=version)
        self.members[name] = me

    def report(self, name: str) -> None:
        if name in self.cut_off:
            return
        me = self.members[name]
        said = Report(
            name,
            current=me.current,
            prepared=me.prepared,
            loaded=me.loaded,
            sequence=self.sequence[name],
        )
        self.seen[name] = Seen(said, self.now)

    def load(self, name: str) -> None:
        self.read[name] = dict(self.sequence)

    def lead(self) -> None:
        step = lead(self.head, 0.0, self.seen, self.now)
        if isinstance(step, Put):
            self.head = step.head


events = st.tuples(st.sampled_from(("step", "report", "load", "lead")), st.sampled_from(NAMES))


@given(st.lists(events, max_size=60))
def test_nobody_flips_before_all_exceptions_are_loaded(order: list[tuple[str, str]]) -> None:
    world = World()
    for what, name in order:
        world.lead() if what == "lead" else getattr(world, what)(name)
    assert world.flipped_before_loaded == []
    for _ in range(6):  # and then everybody gets there
        for name in NAMES:
            world.step(name)
            world.report(name)
            world.load(name)
        world.lead()
    assert {member.current for member in world.members.values()} == {TWO}
    assert world.head.following is None


EVENTS = [(what, name) for what in ("step", "report", "load", "lead") for name in NAMES]


@given(st.lists(st.permutations(EVENTS), min_size=4, max_size=6), st.sampled_from(NAMES))
def test_while_one_has_not_loaded_nobody_flips(
    rounds: list[list[tuple[str, str]]], slow: str
) -> None:
    world = World()
    for what, name in (event for order in rounds for event in order):
        if (what, name) != ("load", slow):
            world.lead() if what == "lead" else getattr(world, what)(name)
    assert {member.current for member in world.members.values()} == {ONE}
    assert world.members[slow].prepared == TWO


@given(st.lists(events, max_size=40))
def test_who_is_cut_off_is_not_waited_for_and_stays_where_it_is(
    order: list[tuple[str, str]],
) -> None:
    world = World(cut_off=frozenset({"d3"}))
    world.now = REACHABLE_S + 1
    for name in NAMES:
        world.report(name)
    for what, name in [*order, *(EVENTS * 5)]:
        world.lead() if what == "lead" else getattr(world, what)(name)
    assert world.members["d1"].current == world.members["d2"].current == TWO
    assert world.members["d3"].current == ONE
    world.cut_off = frozenset()
    world.step("d3")
    assert world.members["d3"].prepared == TWO, "its own sessions are told before it flips"
    assert world.members["d3"].current == ONE
    world.step("d3")
    assert world.members["d3"].current == TWO


def test_a_change_does_not_wait_for_ever_and_says_for_whom_not() -> None:
    world = World()
    for name in ("d1", "d2"):
        world.step(name)
        world.report(name)
    world.now = PHASE_MAX_S
    for name in NAMES:
        world.report(name)
    assert lead(world.head, 0.1, world.seen, world.now) == WAIT
    step = lead(world.head, 0.0, world.seen, world.now)
    assert isinstance(step, Put)
    assert step.late == ("d1", "d2", "d3")
    assert (step.head.current, step.head.following) == (TWO, None)


@pytest.mark.parametrize(
    ("current", "why"), [(Version(0, ""), "restored"), (Version(1, "z"), "another generation 1")]
)
def test_a_generation_is_not_left_for_a_lower_or_another_one(current: Version, why: str) -> None:
    action = follow(replace(HEAD, current=current), Member("d1", ONE), {}, {}, 0.0)
    assert isinstance(action, Refuse)
    assert why in action.why


def test_the_next_generation_is_beyond_all_that_anybody_runs() -> None:
    seen = {"d1": Seen(Report("d1", current=Version(7, "x")), 0.0)}
    assert next_generation(HEAD, seen) == 8
    assert next_generation(replace(HEAD, following=Version(9, "y")), seen) == 10
    assert next_generation(None, {}) == 1


def test_what_moves_no_slot_needs_no_phase() -> None:
    assert propose(HEAD, TWO, moves_slots=False).current == TWO
    assert propose(HEAD, TWO, moves_slots=True) == replace(HEAD, following=TWO)


def test_a_backend_is_down_for_all_when_every_director_that_checks_it_says_so() -> None:
    key, checks = ("web", "b1"), frozenset({"web"})
    yes = Report("d1", checked=checks, down=frozenset({key}))
    no, other = Report("d2", checked=checks), Report("d3")
    assert agreed_down({"d1": Seen(yes, 0), "d3": Seen(other, 0)}, 0) == {key}
    assert agreed_down({"d1": Seen(yes, 0), "d2": Seen(no, 0)}, 0) == frozenset()
    late = REACHABLE_S + 1
    assert agreed_down({"d1": Seen(yes, late), "d2": Seen(no, 0)}, late) == {key}


def test_an_id_is_free_only_if_nobody_names_it_and_all_have_looked() -> None:
    seen = {
        "d1": Seen(Report("d1", scanned=4, referenced=frozenset({3})), 0),
        "d2": Seen(Report("d2", scanned=4, referenced=frozenset({5})), -1e9),
    }
    assert referenced(seen, 4) == frozenset({3, 5}), "also who is cut off counts"
    assert referenced(seen, 5) is None


def test_who_is_left_on_a_draining_backend_is_known_when_all_know_it() -> None:
    here = Seen(Report("d1"), 0)
    there = Report("d2", revision=3, left={"b1": (2, 5)})
    assert left("b1", {"d1": here, "d2": Seen(there, 0)}, "d1", 3, 0) == (2, 5)
    assert left("b1", {"d1": here, "d2": Seen(there, 0)}, "d1", 4, 0) is None
    assert left("b2", {"d1": here, "d2": Seen(there, 0)}, "d1", 3, 0) is None
    assert left("b2", {"d1": here}, "d1", 3, 0) == (0, 0)


def test_a_lease_is_free_when_it_has_not_changed_for_a_while() -> None:
    assert not is_free(0.0, 4.0)
    assert is_free(0.0, 4.1)


# --- Bytes -------------------------------------------------------------------------------------

texts = st.text(max_size=5)
versions = st.builds(Version, st.integers(0, 1 << 40), texts)
heads = st.builds(
    Head,
    st.integers(0, 1 << 40),
    texts,
    st.binary(min_size=16, max_size=16),
    st.just(Intents(pop_drains={"fra": PopDrain("fra", 1.0, "ann")})),
    versions,
    st.none() | versions,
    texts,
    texts,
    st.floats(0, 4e9),
)
counts = st.dictionaries(texts, st.integers(0, 1 << 40), max_size=2)
reports = st.builds(
    Report,
    texts,
    current=versions,
    prepared=st.none() | versions,
    loaded=st.none() | versions,
    tables=st.dictionaries(texts, texts, max_size=2),
    checked=st.frozensets(texts, max_size=2),
    down=st.frozensets(st.tuples(texts, texts), max_size=2),
    referenced=st.frozensets(st.integers(1, 4_095), max_size=2),
    sessions=counts,
    left=st.dictionaries(texts, st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2),
    watermarks=counts,
    condition=st.lists(texts, max_size=2).map(tuple),
    at=st.floats(0, 4e9),
)


@given(heads, reports)
def test_what_is_written_is_read_back(head: Head, report: Report) -> None:
    assert decode_head(encode_head(head)) == head
    assert decode_report(encode_report(report)) == report


@given(st.binary(max_size=64), st.integers(0, 200), st.integers(0, 7))
def test_anything_else_is_refused(data: bytes, place: int, bit: int) -> None:
    with pytest.raises(ValueError, match="head"):
        decode_head(data)
    whole = bytearray(encode_head(HEAD))
    whole[place % len(whole)] ^= 1 << bit
    with suppress(ValueError):
        assert decode_head(bytes(whole)) == HEAD  # a bit that does not count


def test_nothing_is_before_the_first_agreement() -> None:
    assert follow(Head(1, "", bytes(16)), Member("d1"), {}, {}, 0.0) == WAIT
    assert NOTHING.generation == 0


def test_director_that_the_store_does_not_hear_doubts_before_others_stop_waiting() -> None:
    seen = {"a": Seen(Report("a"), 100.0)}
    assert not is_cut_off("a", seen, 100.0 + DOUBT_S)
    assert is_cut_off("a", seen, 100.1 + DOUBT_S)
    assert not is_cut_off("b", seen, 200.0)  # it has never been heard: it has no tables yet
    assert DOUBT_S + 1 < REACHABLE_S
