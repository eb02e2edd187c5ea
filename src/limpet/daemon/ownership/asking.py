# SPDX-License-Identifier: Apache-2.0
"""Asking: questions under way, which directors have yet to answer them, and when enough is known.

Questions travel in groups, one datagram each. All peers are asked at once, and those that have not
answered again after 20 and 60 ms. A flow is decided as soon as somebody has it open, else when all
that one waits for have answered, or after 150 ms: then the best answer counts, which may be none.

No socket and no clock here: time comes in, steps to take go out. Not here: that a flow is asked for
once only (Ownership), what follows from an answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from limpet.core import ownership
from limpet.core.ownership import Records
from limpet.daemon.ownership.peers import Peers

RETRIES_S = (0.020, 0.060)
GIVE_UP_S = 0.150
STAGES_S = (*RETRIES_S, GIVE_UP_S)


@dataclass(frozen=True, slots=True, eq=False)
class Sending:
    """A datagram of questions, and who gets it."""

    number: int
    questions: Records
    peers: tuple[str, ...]
    is_again: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """Questions that are over, and the best answer to each."""

    questions: Records
    answers: Records
    is_given_up: bool = False  # a director that was waited for did not answer
    is_without_silent: bool = False  # directors were left out


@dataclass(slots=True)
class Steps:
    """What is to be done now."""

    sendings: list[Sending] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Group:
    questions: Records
    best: Records
    is_open: NDArray[np.bool_]
    asked: frozenset[str]
    waiting: set[str]  # peers that may still make a difference
    unheard: set[str]  # peers that have not answered
    began: float
    numbers: list[int]
    is_without_silent: bool = False


class Asking:
    """The questions of one director."""

    def __init__(self, peers: Peers, number: Callable[[], int]) -> None:
        """`number`: of the next datagram, never the same twice."""
        self._peers, self._number = peers, number
        self._groups: dict[int, _Group] = {}  # by each number that it was sent with
        self._due: list[tuple[float, int, int]] = []  # when, first number of a group, stage

    def next_at(self) -> float:
        """When `due` has something to do; infinity: not before the next question."""
        while self._due and self._due[0][1] not in self._groups:
            heappop(self._due)
        return self._due[0][0] if self._due else float("inf")

    def ask(self, questions: Records, now: float) -> Steps:
        """Begin to ask for these flows (QUESTION), at most as many as fit into a datagram."""
        everybody, number = frozenset(self._peers.addresses), self._number()
        speaking = self._peers.speaking(now)
        group = _Group(
            questions=questions,
            best=ownership.nothing(len(questions)),
            is_open=np.ones(len(questions), np.bool_),
            asked=everybody,
            waiting=speaking or set(everybody),
            unheard=set(everybody),
            began=now,
            numbers=[number],
            is_without_silent=bool(speaking) and speaking != everybody,
        )
        if not everybody:
            return Steps(decided=[_decide(group, group.is_open.copy())])
        self._peers.asked(everybody, now)
        self._groups[number] = group
        heappush(self._due, (now + STAGES_S[0], number, 0))
        return Steps([Sending(number, questions, tuple(sorted(everybody)))])

    def hear(self, sender: str, about: int, answers: Records) -> Steps | None:
        """A director's answers to the datagram `about`; None: nobody waits for them."""
        self._peers.heard(sender)
        group = self._groups.get(about)
        if group is None or sender not in group.unheard or len(answers) != len(group.questions):
            return None
        group.unheard.discard(sender)
        group.waiting.discard(sender)
        ownership.merge(group.best, answers)
        over = group.is_open & (ownership.is_final(group.best) | (not group.waiting))
        if not over.any():
            return Steps()
        found = _decide(group, over)
        self._forget_if_over(group)
        return Steps(decided=[found])

    def due(self, now: float, most: int) -> Steps:
        """Ask again, and give up, where it is time; at most so many groups."""
        steps = Steps()
        for _ in range(most):
            if self.next_at() > now:
                break
            _, number, stage = heappop(self._due)
            self._step(self._groups[number], number, stage, steps)
        return steps

    def _step(self, group: _Group, first: int, stage: int, steps: Steps) -> None:
        if stage == len(RETRIES_S):
            steps.decided.append(_decide(group, group.is_open.copy(), is_given_up=True))
            self._forget_if_over(group)
            return
        number, targets = self._number(), tuple(sorted(group.unheard & group.asked))
        group.numbers.append(number)
        self._groups[number] = group
        heappush(self._due, (group.began + STAGES_S[stage + 1], first, stage + 1))
        steps.sendings.append(Sending(number, group.questions, targets, is_again=True))

    def _forget_if_over(self, group: _Group) -> None:
        if not group.is_open.any():
            for number in group.numbers:
                del self._groups[number]


def _decide(group: _Group, over: NDArray[np.bool_], *, is_given_up: bool = False) -> Decided:
    """Take these off the group."""
    group.is_open &= ~over
    return Decided(
        group.questions[over],
        group.best[over],
        is_given_up=is_given_up and bool(group.waiting),
        is_without_silent=group.is_without_silent and not is_given_up,
    )
