# SPDX-License-Identifier: Apache-2.0
"""Ownership queries of the simulation: a held packet, a question to all others, an answer.

All peers are asked at once, and with growing pauses again whoever has not answered; it is given up
after 150 ms if none of these speaks, else after a second. A flow that is seen to be open ends it at
once. Of several answers the best counts, in the order of core/ownership.py. Messages have a delay,
are lost, and do not pass a cut.
"""

from itertools import count
from typing import TYPE_CHECKING

from limpet.core.ownership import Known
from limpet.datapath.abi import Verdict
from limpet.datapath.reference.packet import Kind
from limpet.sim.client import Connection
from limpet.sim.director import Director, Question

if TYPE_CHECKING:
    from limpet.sim.world import World

ASKED_S = (0.0, 0.020, 0.060, 0.150, 0.300, 0.600)  # as daemon/ownership/asking.py has them
HASTY, PATIENCE_S = 3, 1.0  # times that silent directors are asked; how long others are waited for


class Questions:
    """All questions of a run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._numbers = count(1)
        self._waiting: dict[int, list[Connection]] = {}

    def hold(self, director: Director, c: Connection, kind: Kind) -> None:
        """A packet waits. If its flow is asked for already, it joins."""
        world = self._world
        if not director.has_daemon:
            world.send_again(c)  # nobody reads the ring
            return
        question = director.questions.get(c.flow)
        if question is not None:
            self._waiting[question.number].append(c)
            return
        peers = {d.number for d in world.directors if d is not director}
        question = Question(next(self._numbers), world.now, [kind], peers)
        director.questions[c.flow] = question
        self._waiting[question.number] = [c]
        self._ask(director, c.flow, question, 0)

    def _is_open(self, director: Director, flow: tuple[int, int], question: Question) -> bool:
        return director.questions.get(flow) is question

    def _ask(
        self, director: Director, flow: tuple[int, int], question: Question, times: int
    ) -> None:
        """Ask those who are left; if it is time for that, give them up."""
        world = self._world
        if not self._is_open(director, flow, question):
            return
        if times >= HASTY and not director.is_answered_by(question.left, world.now):
            self._end(director, flow, question)
            return
        for number in sorted(question.left):
            director.unheard.setdefault(number, world.now)
            if world.rng.random() >= world.scenario.loss:
                peer = world.directors[number]
                world.after(world.delay(), self._answer, director, peer, flow, question)
        times += 1
        if times < len(ASKED_S):
            wait_s = ASKED_S[times] - ASKED_S[times - 1]
            world.after(wait_s, self._ask, director, flow, question, times)
        else:
            wait_s = PATIENCE_S - ASKED_S[-1]
            world.after(wait_s, self._give_up, director, flow, question)

    def _answer(
        self, director: Director, peer: Director, flow: tuple[int, int], question: Question
    ) -> None:
        world = self._world
        if not world.can_ask(director, peer):
            return
        known, backend, idle = peer.path.knows(flow, world.now)
        if world.rng.random() < world.scenario.loss:
            return
        found = (int(known) or 99, idle, backend)
        world.after(world.delay(), self._hear, director, peer, flow, question, found)

    def _hear(
        self,
        director: Director,
        peer: Director,
        flow: tuple[int, int],
        question: Question,
        found: tuple[int, float, int],
    ) -> None:
        director.unheard.pop(peer.number, None)
        if not self._is_open(director, flow, question) or not director.has_daemon:
            return
        question.left.discard(peer.number)
        question.heard[peer.number] = found[2]
        question.best = min(question.best, found)
        if not question.left or found[0] == Known.OPEN:
            self._end(director, flow, question)

    def _give_up(self, director: Director, flow: tuple[int, int], question: Question) -> None:
        if self._is_open(director, flow, question):
            self._end(director, flow, question)

    def _end(self, director: Director, flow: tuple[int, int], question: Question) -> None:
        """All that can be known is: write it down, and let the packets go on."""
        world = self._world
        del director.questions[flow]
        director.decide(flow, question, world.now)
        for c in self._waiting.pop(question.number):
            if c.is_over:
                continue
            result = director.path.packet(flow, c.next_kind(), world.now)
            if result.verdict is Verdict.HELD:
                world.send_again(c)
            else:
                c.asked = director.number, world.now, question.heard
                world.arrive(director, c, result.backend, result.rung)

    def drop(self, director: Director) -> None:
        """The daemon is gone, and what waited with it: clients send again."""
        for question in director.questions.values():
            for c in self._waiting.pop(question.number):
                self._world.send_again(c)
        director.questions.clear()
        director.unheard.clear()
