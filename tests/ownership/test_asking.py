# SPDX-License-Identifier: Apache-2.0
"""Who is asked when, when a question is over, and which answer counts; without sockets or time."""

from itertools import accumulate, count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core import ownership
from limpet.core.ownership import ANSWER, QUESTION, Known, Records
from limpet.core.remembered import Remembered
from limpet.daemon.ownership.asking import HASTY, PATIENCE_S, PAUSES_S, Asking, Steps
from limpet.daemon.ownership.budget import Budget
from limpet.daemon.ownership.holding import WAITING_MAX, WAITING_OF_FLOW_MAX, Holding, Packet
from limpet.daemon.ownership.peers import SILENT_S, Peers

NOW = 1_000.0
AGAIN_S = tuple(accumulate(PAUSES_S[:-1]))  # when a peer is asked again


def answer(known: Known, backend: int = 0, idle_ms: int = 0, generation: int = 0) -> Records:
    return np.array([(known, 0, backend, idle_ms, generation)], ANSWER)


def questions(number: int = 1) -> Records:
    made = np.zeros(number, QUESTION)
    made["client_port"] = range(number)
    return made


ANSWERS = st.builds(
    answer,
    st.sampled_from(Known),
    st.integers(1, 3),
    st.integers(0, 3) | st.just((1 << 32) - 1),
    st.integers(0, 2) | st.just((1 << 32) - 1),
)


# --- Which answer counts --------------------------------------------------------------------------


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.randoms())
def test_order_of_answers_decides_nothing(answers: list[Records], chance: object) -> None:
    assert hasattr(chance, "shuffle")
    results = set()
    for _ in range(4):
        best = ownership.nothing(1)
        chance.shuffle(answers)
        for each in answers + answers:
            ownership.merge(best, each)
        if best["known"][0]:  # of answers that say nothing it is no matter which one is kept
            results.add(best.tobytes())
    assert len(results) <= 1


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_best_answer_is_of_the_best_rank_and_heard_of_the_flow_last(answers: list[Records]) -> None:
    best = ownership.nothing(1)
    for each in answers:
        ownership.merge(best, each)
    known = [each[0] for each in answers if each["known"][0]]
    if not known:
        assert best["known"][0] == Known.NOTHING
        return
    rank = min(int(each["known"]) for each in known)
    assert best["known"][0] == rank
    assert best["idle_ms"][0] == min(each["idle_ms"] for each in known if each["known"] == rank)


# --- Asking ---------------------------------------------------------------------------------------


class World:
    """Two peers, and the questions of one director."""

    def __init__(self, *names: str) -> None:
        self.peers = Peers()
        self.peers.update({name: (name, 1) for name in names})
        self.asking = Asking(self.peers, count(1).__next__)

    def ask(self, number: int = 1, now: float = NOW) -> Steps:
        return self.asking.ask(questions(number), now)

    def due(self, now: float) -> Steps:
        return self.asking.due(now, 100)


def test_everybody_is_asked_at_once_and_who_is_silent_again_then_it_is_given_up() -> None:
    world = World("b", "c")
    (first,) = world.ask().sendings
    assert first.peers == ("b", "c")
    heard = world.asking.hear("b", first.number, answer(Known.SESSION, 5))
    assert heard is not None
    assert not heard.decided
    numbers = {first.number}
    for at in AGAIN_S:
        assert world.asking.next_at() == pytest.approx(NOW + at)
        assert not world.due(NOW + at - 0.001).sendings
        (again,) = world.due(NOW + at + 1e-9).sendings
        assert again.peers == ("c",)
        assert again.is_again
        assert again.number not in numbers
        numbers.add(again.number)
    assert not world.due(NOW + PATIENCE_S - 0.001).decided
    (over,) = world.due(NOW + PATIENCE_S + 0.001).decided
    assert (over.is_given_up, over.is_hurried) == (True, False)
    assert over.answers["backend"].tolist() == [5]
    assert world.asking.next_at() == float("inf")
    assert not world.asking._groups


def test_answer_that_comes_late_counts() -> None:
    """A peer whose machine stalls for half a second owns the flow all the same."""
    world = World("b")
    (first,) = world.ask().sendings
    for at in AGAIN_S[:4]:
        assert not world.due(NOW + at + 1e-9).decided
    steps = world.asking.hear("b", first.number, answer(Known.OPEN, 3))
    assert steps is not None
    assert steps.decided[0].answers["backend"].tolist() == [3]
    assert not steps.decided[0].is_given_up


def test_who_has_long_been_silent_is_waited_for_shortly() -> None:
    """Also if nobody else is there to answer, or who else is there has answered."""
    for names in (("c",), ("b", "c")):
        world = World(*names)
        (first,) = world.ask().sendings
        world.asking.hear("b", first.number, answer(Known.NOTHING))
        later = NOW + SILENT_S - AGAIN_S[0]
        (second,) = world.ask(now=later).sendings  # c still counts as one who speaks
        world.asking.hear("b", second.number, answer(Known.NOTHING))
        decided = [each for at in AGAIN_S[:HASTY] for each in world.due(later + at + 1e-9).decided]
        assert [each.is_given_up for each in decided] == [True, True]
        assert not world.asking._groups


def test_crowd_waits_for_nobody_who_is_slow() -> None:
    world = World("b")
    world.ask()
    for at in AGAIN_S[: HASTY - 1]:
        assert not world.asking.due(NOW + at + 1e-9, 100, is_hurried=True).decided
    (over,) = world.asking.due(NOW + AGAIN_S[HASTY - 1] + 1e-9, 100, is_hurried=True).decided
    assert (over.is_given_up, over.is_hurried) == (True, True)


def test_stall_of_this_process_is_nobodys_silence() -> None:
    """All pauses have passed unnoticed: the peer is asked again before it is given up."""
    world = World("b")
    world.ask()
    world.peers.heard("b")
    later = NOW + 10 * PATIENCE_S
    assert len(world.due(later).sendings) == 1
    assert world.asking.next_at() > later


def test_all_have_answered_is_the_end_of_it() -> None:
    world = World("b", "c")
    (first,) = world.ask(2).sendings
    both = np.concatenate([answer(Known.NOTHING), answer(Known.LATE, 7)])
    assert not world.asking.hear("b", first.number, both).decided  # type: ignore[union-attr]
    steps = world.asking.hear("c", first.number, ownership.nothing(2))
    assert steps is not None
    (over,) = steps.decided
    assert over.answers["backend"].tolist() == [0, 7]
    assert not over.is_given_up
    assert world.asking.next_at() == float("inf")


def test_open_flow_is_decided_by_one_answer_and_the_others_of_its_datagram_wait() -> None:
    world = World("b", "c")
    (first,) = world.ask(2).sendings
    both = np.concatenate([answer(Known.OPEN, 3), answer(Known.NOTHING)])
    steps = world.asking.hear("b", first.number, both)
    assert steps is not None
    assert steps.decided[0].questions["client_port"].tolist() == [0]
    steps = world.asking.hear("c", first.number, ownership.nothing(2))
    assert steps is not None
    assert steps.decided[0].questions["client_port"].tolist() == [1]


def test_answer_to_any_of_its_datagrams_counts_but_only_one_of_each_director() -> None:
    world = World("b", "c")
    world.ask()
    (again,) = world.due(NOW + AGAIN_S[0]).sendings
    assert world.asking.hear("b", again.number, answer(Known.NOTHING)) is not None
    assert world.asking.hear("b", 1, answer(Known.OPEN, 3)) is None
    assert world.asking.hear("x", 1, answer(Known.OPEN, 3)) is None
    assert world.asking.hear("c", 1, ownership.nothing(2)) is None
    steps = world.asking.hear("c", 1, answer(Known.LATE, 4))
    assert steps is not None
    assert steps.decided[0].answers["backend"].tolist() == [4]


def test_who_has_been_silent_is_asked_but_not_waited_for_until_it_says_something() -> None:
    world = World("b", "c")
    (first,) = world.ask().sendings
    world.asking.hear("b", first.number, answer(Known.NOTHING))
    later = NOW + SILENT_S + 0.1
    world.due(later)
    assert world.peers.silent(later) == ["c"]
    (second,) = world.ask(now=later).sendings
    assert second.peers == ("b", "c")
    steps = world.asking.hear("b", second.number, answer(Known.NOTHING))
    assert steps is not None
    assert steps.decided[0].is_without_silent
    world.peers.heard("c")
    assert world.peers.silent(later) == []


def test_if_all_are_silent_they_are_waited_for() -> None:
    world = World("b")
    world.ask()
    later = NOW + SILENT_S + 0.1
    world.due(later)
    (second,) = world.ask(now=later).sendings
    steps = world.asking.hear("b", second.number, answer(Known.SESSION, 3))
    assert steps is not None
    assert steps.decided[0].answers["backend"].tolist() == [3]


def test_without_others_a_question_is_over_at_once() -> None:
    (over,) = World().ask().decided
    assert over.answers["known"].tolist() == [Known.NOTHING]


@given(st.lists(st.tuples(st.sampled_from("bcd"), st.integers(1, 30), ANSWERS, st.booleans())))
def test_every_question_is_decided_exactly_once(
    events: list[tuple[str, int, Records, bool]],
) -> None:
    """Whatever is answered, late, twice or never."""
    world, asked, decided, now = World("b", "c", "d"), 0, 0, NOW
    for sender, about, said, is_question in events:
        steps = world.ask(now=now) if is_question else world.asking.hear(sender, about, said)
        asked += is_question
        decided += sum(len(each.questions) for each in (steps or Steps()).decided)
        now += 0.01
        decided += sum(len(each.questions) for each in world.due(now).decided)
    for _ in PAUSES_S:
        now += PATIENCE_S
        decided += sum(len(each.questions) for each in world.due(now).decided)
    assert decided == asked
    assert not world.asking._groups
    assert world.asking.next_at() == float("inf")


# --- What is bounded ------------------------------------------------------------------------------


def test_packets_that_wait_are_bounded_by_flow_and_in_total() -> None:
    holding, packet = Holding(), Packet(b"", 1)
    for i in range(WAITING_MAX // WAITING_OF_FLOW_MAX):
        added = [holding.add(b"%d" % i, packet) for _ in range(WAITING_OF_FLOW_MAX + 1)]
        assert added == [True] * WAITING_OF_FLOW_MAX + [False]
    assert holding.room == 0
    assert holding.release(b"0") == WAITING_OF_FLOW_MAX
    assert holding.room == 0  # they are still here, until they are given back
    holding.ready.clear()
    assert holding.drop(b"1") == WAITING_OF_FLOW_MAX
    assert holding.room == 2 * WAITING_OF_FLOW_MAX


def test_a_quarter_of_all_that_may_wait_is_a_crowd() -> None:
    holding = Holding()
    for i in range(WAITING_MAX // 4):
        holding.add(b"%d" % i, Packet(b"", 1))
    assert not holding.is_crowded
    holding.add(b"one more", Packet(b"", 1))
    assert holding.is_crowded


@given(st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 0.05)), max_size=40))
def test_budget_is_never_overdrawn_by_more_than_one_slice(
    slices: list[tuple[float, float]],
) -> None:
    budget, now, spent, longest = Budget(0.25, 0.02, 0.0), 0.0, 0.0, 0.0
    for idle_s, work_s in slices:
        now += idle_s
        if not budget.wait_s(now):
            now += work_s
            budget.spend(work_s, now)
            spent, longest = spent + work_s, max(longest, work_s)
        else:
            assert not budget.wait_s(now + budget.wait_s(now) + 1e-9)
        assert spent <= now * 0.25 + 0.02 + longest + 1e-9


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 2)), max_size=40))
def test_remembered_forgets_what_is_over_and_the_oldest(puts: list[tuple[int, float]]) -> None:
    remembered: Remembered[int, int] = Remembered(3, 1.0)
    model: dict[int, float] = {}
    now = 0.0
    for key, wait_s in puts:
        now += wait_s
        remembered.put(key, key, now)
        model.pop(key, None)
        model[key] = now
        gone = remembered.forget(now, 10)
        kept = [k for k, at in model.items() if at + 1.0 > now][-3:]
        assert set(gone) == model.keys() - set(kept)
        model = {k: model[k] for k in kept}
        assert len(remembered) == len(kept)
        assert [k for k in range(7) if remembered.get(k, now) is not None] == sorted(kept)
