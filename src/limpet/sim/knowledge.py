# SPDX-License-Identifier: Apache-2.0
"""Knowledge: why nobody could say where a packet belongs, or that somebody should have known.

Each reason is one assumption of docs/operate/sim.md that did not hold, and is looked up in the
state of the run, not guessed from what happened: which live director knows the connection and
whether it could be asked, what has been told and for how long, which machines were lost with what
in their tables. No reason is a fault of the protocol.

Looked at only when something went astray; a run without trouble pays nothing for it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from limpet.core.ownership import Known
from limpet.datapath.reference.news import Name
from limpet.sim.client import Connection
from limpet.sim.director import ORPHAN_S, Director, Entry

if TYPE_CHECKING:
    from limpet.sim.world import World

DELAYS = 8  # mean delays of a message, and
PROPAGATION_S = 0.05  # in which what arises has been told, and everybody online has heard it


class Reason(StrEnum):
    """Assumptions that did not hold; each is counted."""

    ONLY_LOST = "only a machine that was lost knew it, at its home"
    LOST_EARLY = "its machine was lost before it could have been told"
    LOST_MUTE = "its machine was lost while it could not tell: no daemon, or no store"
    NOT_ASKED = "who knew it could not be asked"
    UNANSWERED = "every question to who knew it, or the answer, was lost"
    NO_BACKEND = "its backend is not known to a director that is cut off"
    GUESSED = "it was an orphan at its backend before, and who guessed says that it is a guess"
    RECENT = "what there was to tell was under way"
    CUT_OFF = "a director that is cut off from the store had not heard"
    STATIC = "a director without a daemon goes by the tables that it has"
    TWO_SESSIONS = "its client has two sessions since"
    NOT_TOLD = "who knew it could not tell: no daemon, or no store"


@dataclass(frozen=True, slots=True)
class Grave:
    """A director whose machine was lost, with its tables as they were."""

    at: float
    director: Director
    could_tell: bool  # its daemon ran, and reached the store
    generation: int  # that the head named


class Knowledge:
    """Answers for one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.told: dict[Name, tuple[Entry, float]] = {}  # what counts of all logs, and since when
        self.graves: list[Grave] = []
        self.propagation_s = PROPAGATION_S + DELAYS * world.scenario.delay_ms / 1_000

    def tell(self, entries: list[Entry]) -> None:
        """They are in a log from now on."""
        for entry in entries:
            before = self.told.get(entry.name)
            if before is None or before[0] < entry:
                self.told[entry.name] = entry, self._world.now

    def bury(self, director: Director) -> None:
        """A machine is lost. Its tables are not changed any more."""
        head = self._world.head.current.generation
        self.graves.append(Grave(self._world.now, director, director.is_online, head))

    # --- A packet of an open connection ----------------------------------------------------------

    def of_connection(self, director: Director, c: Connection) -> str:
        """Why it was not known where a connection's packet belongs; empty: it should have been."""
        names = director.path.name_of(c.flow), director.path.name_of_session(c.flow)
        if c.backend not in director.path.rows.backends:
            return self._no_backend(director)
        if self._should_have_heard(director, names, c.backend):
            return ""
        found = ""
        knowing = list(self._knowing(director, c.flow, c.backend))
        if c.is_guess and any(known is Known.GUESSED for _, known in knowing):
            return Reason.GUESSED
        heard = self._heard(director, c)
        for other, _ in knowing:
            if heard is None or heard.get(other.number) == c.backend:
                return ""
            if not self._world.can_ask(director, other):
                found = Reason.NOT_ASKED
            elif other.number not in heard:
                found = found or Reason.UNANSWERED
        return found or self._lost(names, c, lambda d, now: d.path.knows(c.flow, now)[1])

    def of_silence(self, director: Director, c: Connection, backend: int) -> str:
        """Why a connection's packet went elsewhere, and was no orphan."""
        if backend in c.client.backends:
            return f"{Reason.TWO_SESSIONS}: {c.client.lost}"
        is_old = director.current != self._world.head.current.generation
        return Reason.STATIC if is_old and not director.has_daemon else ""

    def _heard(self, director: Director, c: Connection) -> Mapping[int, int] | None:
        """What the others said, if they were asked just now; who knows more now has learned since.
        None: they were not asked.
        """
        by, at, heard = c.asked
        is_of_now = by == director.number and self._world.now - at <= ORPHAN_S
        return heard if is_of_now else None

    def _no_backend(self, director: Director) -> str:
        if self._is_cut_off(director):
            return Reason.NO_BACKEND
        return Reason.RECENT if self._is_recent(self._world.changed) else ""

    def _knowing(
        self, asks: Director, flow: tuple[int, int], backend: int
    ) -> Iterator[tuple[Director, Known]]:
        world = self._world
        for other in world.directors:
            if other is not asks and other.is_up:
                known, found, _ = other.path.knows(flow, world.now)
                if found == backend:
                    yield other, known

    # --- A new connection of a live session ------------------------------------------------------

    def of_session(self, director: Director, c: Connection, backend: int) -> str:
        """Why a director did not know where a client's session is."""
        world, names = self._world, (director.path.name_of_session(c.flow),)
        if backend not in director.path.rows.backends:
            return self._no_backend(director)
        if self._should_have_heard(director, names, backend):
            return ""
        is_behind = director.current != world.head.current.generation
        if self._is_recent(c.client.changed) or (is_behind and self._is_recent(world.changed)):
            return Reason.CUT_OFF if self._is_cut_off(director) else Reason.RECENT
        knowing = list(self._having(director, c.flow, backend))
        if not knowing:
            return self._lost(names, c, lambda d, now: d.path.knows_session(c.flow, now)[1])
        if self._is_cut_off(director) or self._is_of_one_cut_off(names, backend):
            return Reason.CUT_OFF
        return Reason.NOT_TOLD if all(self._is_cut_off(other) for other in knowing) else ""

    def _having(self, asks: Director, flow: tuple[int, int], backend: int) -> Iterator[Director]:
        """Directors with the session in their own table: those who are to tell it."""
        for other in self._world.directors:
            if other is not asks and other.is_up:
                known, found, _ = other.path.knows_session(flow, self._world.now)
                if found == backend and known is not Known.SESSION_TOLD:
                    yield other

    # --- Facts -----------------------------------------------------------------------------------

    def _is_recent(self, at: float) -> bool:
        return self._world.now - at <= self.propagation_s

    def _is_cut_off(self, director: Director) -> bool:
        """From the store, or without a daemon; or until just now."""
        return not director.is_online or self._is_recent(director.returned)

    def _should_have_heard(self, director: Director, names: Collection[Name], backend: int) -> bool:
        if self._is_cut_off(director):
            return False
        told = self._told(names)
        return told is not None and told[0].backend == backend and not self._is_recent(told[1])

    def _is_of_one_cut_off(self, names: Collection[Name], backend: int) -> bool:
        """Whether what counts is a session elsewhere that a director made while it was cut off: it
        had not heard of the other one, and told of its own when it was back."""
        told = self._told(names)
        if told is None or told[0].backend == backend:
            return False
        return told[0].time <= self._world.directors[told[0].origin].returned

    def _told(self, names: Collection[Name]) -> tuple[Entry, float] | None:
        """What the logs say: of the flow, else of its session."""
        for name in names:
            told = self.told.get(name)
            if told is not None and told[0].expiry > self._world.now:
                return told
        return None

    # --- What was lost ---------------------------------------------------------------------------

    def _lost(
        self, names: Collection[Name], c: Connection, knows: Callable[[Director, float], int]
    ) -> str:
        """With which machine all that was known was lost, and why nobody else had it."""
        for grave in reversed(self.graves):
            if knows(grave.director, grave.at) == (c.backend or c.client.backend):
                return self._of_grave(grave, names, c)
        return ""

    def _of_grave(self, grave: Grave, names: Collection[Name], c: Connection) -> str:
        """A session at its home need not be told. What is to be told is soon in the log, or could
        not be told.
        """
        lost, backend = grave.director, c.backend or c.client.backend
        if self._world.plans.home(grave.generation, lost.path.slot_of(c.flow)) == backend:
            return Reason.ONLY_LOST
        if not grave.could_tell or grave.at - lost.returned <= self.propagation_s:
            return Reason.LOST_MUTE
        queued = [entry for entry in lost.queue if entry.name in names]
        began = max([c.client.changed, *(entry.time for entry in queued)])
        return Reason.LOST_EARLY if grave.at - began <= self.propagation_s else ""
