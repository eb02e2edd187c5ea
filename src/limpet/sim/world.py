# SPDX-License-Identifier: Apache-2.0
"""One run: a heap of what is due, and everything that may be due.

Virtual time, one source of chance for the network, and no other state than is here and in the
directors. Clients' packets meet the route of their group, a director of that PoP, and its ladder;
messages of the store and among directors take their time, are lost, or do not get through.
"""

from collections import Counter
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Any

from limpet.core import cluster
from limpet.core.cluster import Head, Put, Seen
from limpet.core.model import Affinity, Policy, Prefer, Timeouts
from limpet.datapath.abi import Rung, Verdict
from limpet.sim import client as clients
from limpet.sim.client import Connection
from limpet.sim.director import Director, Entry, fresh, version
from limpet.sim.faults import Faults
from limpet.sim.knowledge import Knowledge
from limpet.sim.planning import Plans
from limpet.sim.questions import Questions
from limpet.sim.scenario import GROUPS, Event, Scenario
from limpet.sim.verdict import Tally, judge_new, judge_orphan, judge_silent

FLUSH_S = 0.005  # that news wait for more
STORE_S = 0.002  # to the store, and from it
STEP_S = 0.05  # between two steps of a director in a change
HELD, ORPHAN = Verdict.HELD, Rung.ORPHAN
SWEEP_S = 10.0  # what has expired is not used, swept or not
SCAN_S = 30.0
KEEP_S = 60.0  # between two times that a daemon writes down what it knows
END_S = 1.0  # after the scenario's time, in which connections still end


class World:
    """All directors, the store, the network and the clients of one run."""

    def __init__(
        self, scenario: Scenario, seed: int, events: tuple[Event, ...], sessions_max: int = 0
    ) -> None:
        """`sessions_max`: room in each director's tables; 0: plenty for the scenario's clients."""
        self.scenario, self.seed, self.tally = scenario, seed, Tally()
        self.rungs: Counter[Rung] = Counter()
        self.rng = Random(f"network {seed}")
        self._chance, self._loss = self.rng.random, scenario.loss
        self.now = 0.0
        self.sessions_max = sessions_max or max(64, 4 * scenario.clients)
        self._heap: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._order = count()
        self.plans = Plans(
            Policy(scenario.policy),
            Affinity(scenario.affinity),
            Timeouts(tcp_established_s=scenario.idle_s),
            Prefer(scenario.prefer),
            scenario.pops,
        )
        self.pool = frozenset(range(1, scenario.backends + 1))
        self.drained: frozenset[int] = frozenset()
        self.plans.first(tuple(self.pool))
        self.head = Head(1, "", b"", current=version(1))
        self.since = self.changed = -1e9
        size = scenario.pops * scenario.directors
        self.directors = [self._director(n) for n in range(size)]
        self.logs: list[list[Entry]] = [[] for _ in range(size)]
        self.serving: list[list[Director]] = []  # who gets the packets to a PoP
        self.announce()
        self.routes = [group % scenario.pops for group in range(GROUPS)]
        self.flapping: dict[int, float] = {}
        self.cuts: set[frozenset[int]] = set()  # pairs that do not reach each other
        self.questions, self.faults = Questions(self), Faults(self)
        self.knowledge = Knowledge(self)
        for at, connection in clients.draw(scenario, seed):
            self._heap.append((at, next(self._order), self.send, (connection,)))
        heapify(self._heap)
        for event in events:
            self.at(event.at, self.faults.happen, event)
        self.at(SWEEP_S, self._sweep)
        self.at(SCAN_S, self._scan)

    def _director(self, number: int) -> Director:
        pop, size = number % self.scenario.pops, self.scenario.pops * self.scenario.directors
        director = fresh(number, pop, size, self.sessions_max)
        director.current = director.marked = director.prepared = director.loaded = 1
        director.show(self.plans, 0.0)
        return director

    # --- Time ------------------------------------------------------------------------------------

    def at(self, time: float, what: Any, *arguments: Any) -> None:
        """Something is due."""
        heappush(self._heap, (time, next(self._order), what, arguments))

    def after(self, seconds: float, what: Any, *arguments: Any) -> None:
        """The same, counted from now."""
        heappush(self._heap, (self.now + seconds, next(self._order), what, arguments))

    def run(self) -> Tally:
        """To the end."""
        heap, end = self._heap, self.scenario.seconds + END_S
        while heap:
            self.now, _, what, arguments = heappop(heap)
            if self.now > end:
                break
            what(*arguments)
        self.tally.rungs.update({rung.name: n for rung, n in self.rungs.items()})
        return self.tally

    def end(self) -> None:
        """Let go of everything, also of what refers to this."""
        vars(self).clear()

    def delay(self) -> float:
        """Of a message between directors, or to and from the store."""
        mean = self.scenario.delay_ms / 1_000
        return mean / 2 + self.rng.expovariate(2 / mean)

    # --- Packets of clients ----------------------------------------------------------------------

    def director_of(self, flow: tuple[int, int], group: int) -> Director | None:
        """Who gets a packet now: a live director of the PoP that the route leads to."""
        pop = self.routes[group]
        if self.flapping and self.flapping.get(group, 0.0) > self.now:
            pop = self.rng.randrange(self.scenario.pops)
        there = self.serving[pop]
        return there[(flow[0] * 31 + flow[1]) % len(there)] if there else None

    def announce(self) -> None:
        """Routes to each PoP follow what is up: where nobody is, the next one serves."""
        pops = self.scenario.pops
        up = [[d for d in self.directors if d.pop == pop and d.is_up] for pop in range(pops)]
        self.serving = [
            next((up[(pop + turn) % pops] for turn in range(pops) if up[(pop + turn) % pops]), [])
            for pop in range(pops)
        ]

    def send(self, c: Connection) -> None:
        """A connection's next packet."""
        if c.is_over:
            return
        director = self.director_of(c.flow, c.client.group)
        if director is None or self._chance() < self._loss:
            self.send_again(c)
            return
        kind = c.next_kind()
        result = director.path.packet(c.flow, kind, self.now)
        self.tally.packets += 1
        if result.verdict is HELD:
            self.tally.held += 1
            self.questions.hold(director, c, kind)
        else:
            self.arrive(director, c, result.backend, result.rung)

    def send_again(self, c: Connection) -> None:
        """What was lost is sent again, later each time."""
        c.tries += 1
        if c.tries > clients.TRIES_MAX:
            c.is_over = True
            return
        self.after(clients.RETRY_S * 2 ** (c.tries - 1), self.send, c)

    def arrive(self, director: Director, c: Connection, backend: int, rung: Rung) -> None:
        """A packet has left for a backend."""
        if director.path.has_news():
            self.news(director)
        if not backend:
            self.send_again(c)
            return
        self.rungs[rung] += 1
        client, is_good = c.client, True
        if c.backend:
            if rung is ORPHAN:
                reason = self.knowledge.of_connection(director, c)
                is_good = judge_orphan(self.tally, c, backend, reason, self._where(director))
            elif backend != c.backend:
                reason = self.knowledge.of_silence(director, c, backend)
                judge_silent(self.tally, c, (backend, rung), reason, self._where(director))
                is_good = False
            c.times.pop()
        else:
            self._begin(director, c, backend, rung)
        if director.number not in client.seen:
            self.tally.shifted += bool(client.seen)
            client.seen[director.number] = director.boots
        c.tries = 0
        if is_good and c.times:
            heappush(self._heap, (max(self.now, c.times[-1]), next(self._order), self.send, (c,)))
        else:
            c.is_over = True

    def _begin(self, director: Director, c: Connection, backend: int, rung: Rung) -> None:
        """A connection has its backend."""
        client, reason = c.client, ""
        if client.backend not in (0, backend):
            reason = self.knowledge.of_session(director, c, client.backend)
        judge_new(self.tally, client, backend, rung, reason, self._where(director))
        if client.backend != backend:
            client.backend, client.changed = backend, self.now
        c.backend = backend

    def _where(self, director: Director) -> str:
        return f"{self.now:.3f} s, director {director.number}"

    def can_ask(self, one: Director, other: Director) -> bool:
        """Whether messages of one director reach the other's daemon, and back."""
        have_daemons = one.has_daemon and other.is_up and other.has_daemon
        return have_daemons and frozenset((one.number, other.number)) not in self.cuts

    # --- The store -------------------------------------------------------------------------------

    def news(self, director: Director) -> None:
        """A director has something to tell."""
        if not director.has_daemon:
            return  # the ring keeps it until a daemon reads it
        director.hear(self.now)
        self.flush_soon(director)

    def flush_soon(self, director: Director) -> None:
        """Its queue goes to the store a moment later."""
        if director.queue and not director.is_flushing:
            director.is_flushing = True
            self.after(FLUSH_S + STORE_S, self.flush, director, director.boots)

    def flush(self, director: Director, boots: int) -> None:
        """What is queued reaches the log, and from there the others."""
        if director.boots != boots:
            return
        director.is_flushing = False
        if not director.is_online:
            return
        log = self.logs[director.number]
        log += director.queue
        self.knowledge.tell(director.queue)
        director.queue.clear()
        for other in self.directors:
            if other is not director:
                self.after(self.delay(), self.load, other, director.number, other.boots)

    def load(self, director: Director, origin: int, boots: int) -> None:
        """A director reads what is new in a log."""
        if not director.is_online or director.boots != boots:
            return
        log, at = self.logs[origin], director.watermarks[origin]
        for entry in log[at:]:
            director.learn(entry)
        director.watermarks[origin] = len(log)

    def forget_unkept(self, director: Director) -> None:
        """A daemon dies: what waits for the store, and is not in its file, is not known to the next
        one, which has that from its data path.
        """
        for entry in director.queue:
            if entry.time > self.now - KEEP_S:
                told = self.knowledge.told.get(entry.name)
                director.forget(entry.name, told[0] if told else None)
        director.queue = [entry for entry in director.queue if entry.time <= self.now - KEEP_S]

    # --- Changes of tables -----------------------------------------------------------------------

    def propose(self) -> None:
        """The leader makes a version of what is wanted now, one at a time."""
        if self.head.following is not None or not any(d.is_online for d in self.directors):
            self.after(STEP_S, self.propose)
            return
        before = self.head.current.generation
        generation = self.plans.propose(self.pool, self.drained, self.now)
        moves = self.plans.moves(before, generation)
        self.head = cluster.propose(self.head, version(generation), moves_slots=moves)
        self.since = self.changed = self.now
        self.wake()

    def wake(self) -> None:
        """Everybody looks at the head, each in its time."""
        for director in self.directors:
            self.after(self.delay(), self.step, director, director.boots)
        if self.head.following is not None:
            self.after(STEP_S, self._lead)

    def reports(self) -> dict[str, Seen]:
        """Of everybody, with when it was last in reach."""
        for director in self.directors:
            if director.is_online:
                director.contact = self.now
        return {str(d.number): Seen(d.report(), d.contact) for d in self.directors}

    def _lead(self) -> None:
        if self.head.following is None:
            return
        action = cluster.lead(self.head, self.since, self.reports(), self.now)
        if isinstance(action, Put) and any(d.is_online for d in self.directors):
            self.head, self.changed = action.head, self.now
            self.wake()
        else:
            self.after(STEP_S, self._lead)

    def step(self, director: Director, boots: int) -> None:
        """A director's next step in a change."""
        if not director.is_online or director.boots != boots:
            return
        action = director.next_step(self.head, self.reports(), self.now)
        if isinstance(action, cluster.Prepare):
            self._prepare(director, action.version.generation)
        elif isinstance(action, cluster.Loaded):
            director.loaded = action.version.generation
        elif isinstance(action, cluster.Apply):
            director.current = action.version.generation
            director.show(self.plans, self.now)
        is_done = director.current == self.head.current.generation and not self.head.following
        if not is_done or isinstance(action, cluster.Apply):
            self.after(STEP_S * self.rng.uniform(0.2, 1), self.step, director, director.boots)

    def _prepare(self, director: Director, generation: int) -> None:
        """Marks first; the scan and the log in the next step."""
        if director.marked != generation:
            director.marked = generation
            director.show(self.plans, self.now)
            return
        director.scan(self.plans, (director.current, generation), self.now)
        director.is_flushing = True
        self.flush(director, director.boots)
        director.prepared, director.sequence = generation, len(self.logs[director.number])

    # --- From time to time -----------------------------------------------------------------------

    def _sweep(self) -> None:
        for director in self.directors:
            if director.is_up and director.has_daemon:
                director.path.sweep(self.now)
        self.after(SWEEP_S, self._sweep)

    def _scan(self) -> None:
        for director in self.directors:
            if director.is_up and director.has_daemon:
                self.scan(director)
        self.after(SCAN_S, self._scan)

    def scan(self, director: Director) -> None:
        """Everything that is an exception here is told, if it is not known."""
        director.scan(self.plans, (director.current, max(director.marked, 1)), self.now)
        self.flush_soon(director)
