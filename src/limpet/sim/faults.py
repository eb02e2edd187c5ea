# SPDX-License-Identifier: Apache-2.0
"""What people, BGP and misfortune do to a run: each kind of event, and its end.

A machine that is lost comes back with empty tables and reads all logs before it serves. A daemon
that dies leaves the tables; what it had not told yet is found by the scan of the next one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from limpet.core.cluster import DOUBT_S
from limpet.sim.director import Director, fresh
from limpet.sim.scenario import Event

if TYPE_CHECKING:
    from limpet.sim.world import World

CONVERGES_S = 0.5  # until the routes of a lost machine lead elsewhere


class Faults:
    """Applies events."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._kinds: dict[str, Callable[[Event], None]] = {
            "shift": self._shift,
            "flap": self._flap,
            "add": self._pool,
            "remove": self._pool,
            "drain": self._drain,
            "crash": self._crash,
            "daemon": self._daemon,
            "store": self._store,
            "peers": self._peers,
        }

    def happen(self, event: Event) -> None:
        """Now."""
        self._world.tally.events += 1
        self._kinds[event.kind](event)

    def _shift(self, event: Event) -> None:
        self._world.routes[event.subject] = event.other

    def _flap(self, event: Event) -> None:
        self._world.flapping[event.subject] = self._world.now + event.for_s

    def _pool(self, event: Event) -> None:
        world = self._world
        world.pool = world.pool ^ {event.subject}
        world.propose()

    def _drain(self, event: Event) -> None:
        world = self._world
        world.drained = world.drained | {event.subject}
        world.propose()

    # --- Directors -------------------------------------------------------------------------------

    def _crash(self, event: Event) -> None:
        world, director = self._world, self._world.directors[event.subject]
        others = [d for d in world.directors if d is not director and d.is_up]
        if not director.is_up or not others:
            return
        world.questions.drop(director)
        world.knowledge.bury(director)
        director.is_up, director.boots, director.contact = False, director.boots + 1, world.now
        world.announce()
        world.after(CONVERGES_S + event.for_s, self._boot, director)

    def _boot(self, director: Director) -> None:
        """Another machine in its place: it serves when it has read what was told."""
        world = self._world
        new = fresh(director.number, director.pop, len(world.directors), world.sessions_max)
        new.boots, new.is_cut = director.boots, director.is_cut
        new.has_daemon = True
        if new.is_cut:
            world.after(0.5, self._boot, director)
            return
        generation = world.head.current.generation
        new.current = new.marked = new.prepared = new.loaded = generation
        new.show(world.plans, world.now)
        for origin, log in enumerate(world.logs):
            for entry in log:
                new.learn(entry, is_own_of_before=True)
            new.watermarks[origin] = len(log)
        new.sequence = len(world.logs[new.number])
        world.directors[new.number] = new
        world.announce()
        world.step(new, new.boots)

    def _daemon(self, event: Event) -> None:
        world, director = self._world, self._world.directors[event.subject]
        if not director.is_up or not director.has_daemon:
            return
        director.has_daemon, director.contact = False, world.now
        world.forget_unkept(director)
        world.questions.drop(director)
        world.after(event.for_s, self._start, director, director.boots)

    def _start(self, director: Director, boots: int) -> None:
        """The next daemon adopts the tables, reads what it missed, and scans."""
        world = self._world
        if director.boots != boots:
            return
        director.has_daemon, director.returned = True, world.now
        self._catch_up(director)
        director.hear(world.now)
        world.scan(director)

    # --- Cuts ------------------------------------------------------------------------------------

    def _store(self, event: Event) -> None:
        world, director = self._world, self._world.directors[event.subject]
        if director.is_cut:
            return
        director.contact, director.is_cut = world.now, True
        world.after(DOUBT_S + 0.2, self._doubt, director)
        world.after(event.for_s, self._heal_store, event.subject)

    def _doubt(self, director: Director) -> None:
        """Cut off for so long that others may have moved slots: it is sure of none."""
        if director.is_cut and director.has_daemon:
            director.show(self._world.plans, self._world.now)

    def _heal_store(self, number: int) -> None:
        director = self._world.directors[number]
        director.is_cut, director.returned = False, self._world.now
        director.show(self._world.plans, self._world.now)
        if director.is_online:
            self._catch_up(director)
            self._world.flush_soon(director)

    def _catch_up(self, director: Director) -> None:
        world = self._world
        for origin in range(len(world.logs)):
            if origin != director.number:
                world.load(director, origin, director.boots)
        world.step(director, director.boots)

    def _peers(self, event: Event) -> None:
        pair = frozenset((event.subject, event.other))
        self._world.cuts.add(pair)
        self._world.after(event.for_s, self._world.cuts.discard, pair)
