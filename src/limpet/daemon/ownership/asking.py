# SPDX-License-Identifier: Apache-2.0
"""Asking: questions under way, which directors have yet to answer them, and when enough is known.

Questions travel in groups, one datagram each. All peers are asked at once, and those that have not
answered again and again, with growing pauses. A flow is decided as soon as somebody has it open,
else when all that one waits for have answered; then the best answer counts, which may be none.

Deciding without an answer is a guess that may break a session, so a peer that is slow is waited for
up to a second, as long as it is one that speaks: packets wait, and their senders repeat them. After
150 ms it is over if nobody speaks who has yet to answer, or if it is hurried because too many
packets wait. Pauses begin when they are due, so a stall of this process is nobody's silence.

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

PAUSES_S = (0.020, 0.040, 0.090, 0.150, 0.300, 0.400)  # all but the last end with asking again
PATIENCE_S = sum(PAUSES_S)
HASTY = 3  # pauses after which a question can be over without an answer: after 150 ms


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
    is_hurried: bool = False  # one that still speaks, and there was no room to wait for it
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
    numbers: list[int]
    is_without_silent: bool = False


class Asking:
    """The questions of one director."""

    def __init__(self, peers: Peers, number: Callable[[], int]) -> None:
        """`number`: of the next datagram, never the same twice."""
        self._peers, self._number = peers, number
        self._groups: dict[int, _Group] = {}  # by each number that it was sent with
        self._due: list[tuple[float, int, int]] = []  # when, first number of a group, pauses

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
            numbers=[number],
            is_without_silent=bool(speaking) and speaking != everybody,
        )
        if not everybody:
            return Steps(decided=[_decide(group, group.is_open.copy())])
        self._peers.asked(everybody, now)
        self._groups[number] = group
        heappush(self._due, (now + PAUSES_S[0], number, 1))
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

    def due(self, now: float, most: int, *, is_hurried: bool = False) -> Steps:
        """Ask again, and give up, where it is time; at most so many groups."""
        steps = Steps()
        for _ in range(most):
            if self.next_at() > now:
                break
            _, first, pauses = heappop(self._due)
            group = self._groups[first]
            if pauses >= HASTY:
                speaking = group.waiting & self._peers.speaking(now)
                is_late = not speaking or pauses == len(PAUSES_S)
                group.waiting = speaking or group.waiting
                if is_late or is_hurried:
                    steps.decided.append(self._give_up(group, is_hurried=not is_late))
                    continue
            steps.sendings.append(self._ask_again(group))
            heappush(self._due, (now + PAUSES_S[pauses], first, pauses + 1))
        return steps

    def _give_up(self, group: _Group, *, is_hurried: bool) -> Decided:
        over = _decide(group, group.is_open.copy(), is_given_up=True, is_hurried=is_hurried)
        self._forget_if_over(group)
        return over

    def _ask_again(self, group: _Group) -> Sending:
        number = self._number()
        group.numbers.append(number)
        self._groups[number] = group
        targets = tuple(sorted(group.unheard & group.asked))
        return Sending(number, group.questions, targets, is_again=True)

    def _forget_if_over(self, group: _Group) -> None:
        if not group.is_open.any():
            for number in group.numbers:
                del self._groups[number]


def _decide(
    group: _Group,
    over: NDArray[np.bool_],
    *,
    is_given_up: bool = False,
    is_hurried: bool = False,
) -> Decided:
    """Take these off the group."""
    group.is_open &= ~over
    return Decided(
        group.questions[over],
        group.best[over],
        is_given_up=is_given_up and bool(group.waiting),
        is_hurried=is_hurried,
        is_without_silent=group.is_without_silent and not is_given_up,
    )
