# SPDX-License-Identifier: Apache-2.0
"""A trace of `bench.pcc` through the simulator: ladder, directory, queries and changes of limpet.

Two PoPs with one director each, 8 ms apart, 0.1 % of all packets and messages lost. Nothing reaches
everybody in the same instant here, as it does for the other schemes.
"""

from dataclasses import replace

import numpy as np

from bench.pcc_trace import FIRST, POPS, SECONDS, STEPS_PER_S, Ids, Trace
from limpet.datapath.abi import Rung
from limpet.sim.client import ROUND_TRIP_S, Client, Connection
from limpet.sim.director import Director
from limpet.sim.scenario import Event, load
from limpet.sim.verdict import Tally
from limpet.sim.world import World

PORT = 40_000


class Played(World):
    """A run of a trace; remembers when connections broke."""

    def __init__(self, trace: Trace, seed: int) -> None:
        stable = replace(load("stable"), pops=POPS, directors=1, backends=FIRST, clients=0)
        stable = replace(stable, seconds=SECONDS)
        super().__init__(stable, seed, tuple(_changes(trace)), 4 * trace.begin.size)
        self.routes = trace.pops.tolist()
        self.flapping = dict.fromkeys(np.flatnonzero(trace.unstable).tolist(), float("inf"))
        self.broken_at: list[float] = []
        for number, (begin, end) in enumerate(zip(trace.begin, trace.end, strict=True)):
            self.at(begin / STEPS_PER_S, self.send, _connection(number, int(begin), int(end)))
        for step, who in trace.shifts:
            self.at(step / STEPS_PER_S, self._shift, who)

    def _shift(self, who: Ids) -> None:
        for number in who.tolist():
            self.routes[number] = (self.routes[number] + 1) % POPS

    def director_of(self, flow: tuple[int, int], group: int) -> Director | None:
        """The one director of the PoP that the client's route leads to."""
        pop = self.routes[group]
        if group in self.flapping:
            self.routes[group] = (pop + 1) % POPS
        return self.directors[pop]

    def arrive(self, director: Director, c: Connection, backend: int, rung: Rung) -> None:
        """As ever; and when it broke, if it did."""
        before = self.tally.broken
        super().arrive(director, c, backend, rung)
        self.broken_at += [self.now] * (self.tally.broken - before)


def _connection(number: int, begin: int, end: int) -> Connection:
    began = begin / STEPS_PER_S
    steps = [*range(begin + STEPS_PER_S, end, STEPS_PER_S), end]
    times = [began + ROUND_TRIP_S, *(step / STEPS_PER_S for step in steps)]
    return Connection(Client(number, number, began), PORT, sorted(times, reverse=True))


def _changes(trace: Trace) -> list[Event]:
    events, before = [], set(trace.pools[0][1])
    for step, members in trace.pools[1:]:
        for number in before ^ set(members):
            kind = "add" if number in members else "remove"
            events.append(Event(step / STEPS_PER_S, kind, number))
        before = set(members)
    return events


def play(trace: Trace, seed: int) -> tuple[list[float], Tally]:
    """When connections broke, and what else was counted."""
    world = Played(trace, seed)
    tally = world.run()
    return world.broken_at, tally
