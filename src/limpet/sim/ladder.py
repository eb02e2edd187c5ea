# SPDX-License-Identifier: Apache-2.0
"""The ladder of a director over small values: what the model check explores, and copies often.

One VIP over TCP with affinity client, one pool. The rungs are those of datapath/reference, in the
same order and under the same conditions. Left out is what sends no session astray: room in tables,
rates, wire formats, mega-proxies. tests/sim holds both against each other.

Time is a number that only has to be comparable. The state is plain dictionaries, so that a copy is
cheap. Not here: who tells whom (sim/member.py).
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from limpet.core.model import Standing
from limpet.core.ownership import Known
from limpet.datapath.abi import ExceptionFlag, ExceptionKind, Rung, Slot

Flow = tuple[int, int]  # client, client port
Name = tuple[int, int, int]  # kind, client, client port: of a session 0
LEFT_BY_FLOWS = Standing.LEFT_BY_FLOWS | Standing.RESET


class Packet(IntEnum):
    """What a packet is to its flow."""

    SYN = 0
    DATA = 1
    LAST = 2


class Life(IntEnum):
    """Of an entry of the connection table."""

    OPENING = 0
    OPEN = 1
    CLOSING = 2
    LATE = 3


class Entry(NamedTuple):
    """A flow here. `in_session`: its client's session goes where it goes. `is_guess`: nobody knew
    it when it came."""

    backend: int
    life: Life
    seen: float
    in_session: bool
    is_guess: bool = False


class Session(NamedTuple):
    """A client here."""

    backend: int
    seen: float
    is_live: bool


class Told(NamedTuple):
    """An exception, as other directors told it."""

    backend: int
    since: float
    until: float
    flags: int = 0


class News(NamedTuple):
    """An exception that arose here."""

    name: Name
    backend: int
    flags: int


class Result(NamedTuple):
    """What became of a packet. Backend 0 without `is_held`: dropped."""

    backend: int
    rung: Rung
    is_held: bool = False


@dataclass(slots=True)
class Ladder:
    """One director's tables. `homes`: backend and marks of a client's slot."""

    idle: float  # after which a flow and a session have expired
    homes: dict[int, int] = field(default_factory=dict)
    rows: frozenset[int] = frozenset()
    freest: int = 0  # where `reassign` places who returns; 0: at home
    standing: dict[int, Standing] = field(default_factory=dict)
    flows: dict[Flow, Entry] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)
    directory: dict[Name, Told] = field(default_factory=dict)
    news: list[News] = field(default_factory=list)

    def copy(self) -> "Ladder":
        """Another with the same state. Values are immutable."""
        return Ladder(
            self.idle,
            self.homes.copy(),
            self.rows,
            self.freest,
            self.standing,
            self.flows.copy(),
            self.sessions.copy(),
            self.directory.copy(),
            self.news.copy(),
        )

    # --- A packet --------------------------------------------------------------------------------

    def run(self, flow: Flow, packet: Packet, now: float) -> Result:
        """Where a packet goes."""
        entry = self.flows.get(flow)
        if entry is not None:
            found = self._known(flow, entry, packet, now)
            if found is not None:
                return found
        return self._unknown(flow, packet, now)

    def _takes(self, backend: int, refusals: int) -> bool:
        return backend in self.rows and not self.standing.get(backend, 0) & refusals

    def _known(self, flow: Flow, entry: Entry, packet: Packet, now: float) -> Result | None:
        is_late = entry.life is Life.LATE or now - entry.seen > self.idle
        is_new = packet is Packet.SYN
        if not self._takes(entry.backend, LEFT_BY_FLOWS):
            return None
        if is_late:
            if is_new or entry.life not in (Life.LATE, Life.OPEN):
                return None
            if packet is Packet.DATA:
                self._revive(flow, entry.backend, now)
            return Result(entry.backend, Rung.LATE)
        if is_new and entry.life is Life.CLOSING:
            return None
        after = entry.life
        if packet is Packet.LAST:
            after = Life.CLOSING
        elif packet is Packet.DATA and entry.life is Life.OPENING:
            after = Life.OPEN
        self.flows[flow] = entry._replace(life=after, seen=now)
        if entry.in_session:
            live = self._live(flow[0], now)
            if live is not None:  # wherever it is by now
                self.sessions[flow[0]] = live._replace(seen=now)
        return Result(entry.backend, Rung.TABLE)

    def _revive(self, flow: Flow, backend: int, now: float) -> None:
        """A flow that had expired sends again: it is open as before, and its session with it."""
        session = self._live(flow[0], now)
        if session is None:
            self.sessions[flow[0]] = Session(backend, now, True)
            self.news.append(News((ExceptionKind.SESSION, flow[0], 0), backend, 0))
        in_session = session is None or session.backend == backend
        self.flows[flow] = Entry(backend, Life.OPEN, now, in_session)

    def _live(self, client: int, now: float) -> Session | None:
        session = self.sessions.get(client)
        is_live = session is not None and session.is_live and now - session.seen <= self.idle
        return session if is_live else None

    def _told(self, name: Name, now: float) -> Told | None:
        told = self.directory.get(name)
        return told if told is not None and now <= told.until else None

    # --- A flow without an entry -----------------------------------------------------------------

    def _unknown(self, flow: Flow, packet: Packet, now: float) -> Result:
        look = Look(self, flow, packet, now)
        refusals = LEFT_BY_FLOWS | (Standing.LEFT_BY_SESSIONS if look.is_new else 0)
        backend, rung = look.followed(refusals)
        if look.must_ask(bool(backend)):
            if not look.is_orphan:
                return Result(0, Rung.ORPHAN, is_held=True)
            is_orphan = True
        else:
            is_orphan = look.is_astray
        is_guess = is_orphan and (not backend or (look.hint_of_flow and backend == look.hint))
        if not backend:
            backend, rung = look.placed()
        if backend not in self.rows:
            return Result(0, rung)
        if packet is not Packet.LAST:
            look.record(backend, rung, is_orphan, is_guess)
        return Result(backend, Rung.ORPHAN if is_orphan else rung)

    # --- What is known here ----------------------------------------------------------------------

    def knows(self, flow: Flow, now: float) -> tuple[Known, int]:
        """The answer to another director's question, best first."""
        entry = self.flows.get(flow)
        if entry is not None:
            known = self._knows_flow(entry, now)
            if known and not entry.is_guess:
                return known, entry.backend
        told = self._told((ExceptionKind.FLOW, *flow), now)
        if told is not None and not told.flags & (ExceptionFlag.ORPHAN | ExceptionFlag.ANSWER):
            return Known.TOLD, told.backend
        if entry is not None and known:
            return Known.GUESSED, entry.backend
        live = self._live(flow[0], now)
        if live is not None:
            return Known.SESSION, live.backend
        told = self._told((ExceptionKind.SESSION, flow[0], 0), now)
        if told is not None:
            return Known.SESSION_TOLD, told.backend
        past = self.sessions.get(flow[0])
        return (Known.SESSION_PAST, past.backend) if past is not None else (Known.NOTHING, 0)

    def _knows_flow(self, entry: Entry, now: float) -> Known:
        is_late = entry.life is Life.LATE or now - entry.seen > self.idle
        if not is_late:
            return Known.OPEN if entry.life is Life.OPEN else Known.HALF_OPEN
        return Known.LATE if entry.life in (Life.LATE, Life.OPEN) else Known.NOTHING

    def away(self, homes: dict[int, int], now: float) -> list[News]:
        """Live sessions, and open flows apart from theirs, that are not at these homes."""
        found = []
        for client in self.sessions:
            live = self._live(client, now)
            if live is not None and live.backend != homes.get(client, 0) & Slot.BACKEND:
                found.append(News((ExceptionKind.SESSION, client, 0), live.backend, 0))
        for flow, entry in self.flows.items():
            is_home = entry.backend == homes.get(flow[0], 0) & Slot.BACKEND
            if not entry.in_session and entry.life is not Life.CLOSING and not is_home:
                found.append(News((ExceptionKind.FLOW, *flow), entry.backend, 0))
        return found


class Look:
    """A look at all that is known of a flow without an entry: seat and hint, as bpf has them."""

    __slots__ = (
        "flags",
        "flow",
        "has_hint",
        "hint",
        "hint_of_flow",
        "home",
        "is_answer",
        "is_apart",
        "is_known",
        "is_new",
        "is_newer",
        "is_orphan",
        "ladder",
        "live",
        "now",
        "past",
    )

    def __init__(self, ladder: Ladder, flow: Flow, packet: Packet, now: float) -> None:
        self.ladder, self.flow, self.now = ladder, flow, now
        self.is_new = packet is Packet.SYN
        self.home = ladder.homes.get(flow[0], 0)
        self.live = ladder._live(flow[0], now)
        self.past = None if self.live else ladder.sessions.get(flow[0])
        self.hint = self.flags = 0
        self.has_hint = self.hint_of_flow = False
        self.is_known = self.is_orphan = self.is_answer = self.is_apart = self.is_newer = False
        if not self.is_new:
            self._look_for_flow()
        self._look_for_session()

    def _find(self, name: Name) -> Told | None:
        self.is_known |= name in self.ladder.directory
        return self.ladder._told(name, self.now)

    def _look_for_flow(self) -> None:
        told = self._find((ExceptionKind.FLOW, *self.flow))
        if told is None:
            return
        self.is_orphan = bool(told.flags & ExceptionFlag.ORPHAN)
        if self.is_orphan and not told.flags & ExceptionFlag.ANSWER:
            return
        self.hint, self.has_hint, self.hint_of_flow = told.backend, True, True
        self.is_answer = bool(told.flags & ExceptionFlag.ANSWER)

    def _look_for_session(self) -> None:
        told = self._find((ExceptionKind.SESSION, self.flow[0], 0))
        live = self.live
        if told is not None:
            self.flags = told.flags
            is_newer = live is None or (live.backend != told.backend and told.since > live.seen)
            if self.hint_of_flow:
                self.is_apart, self.is_newer = told.backend != self.hint, is_newer
            elif is_newer:
                self.hint, self.has_hint = told.backend, True
            if is_newer:
                return  # this packet is no sign of life of the session here
        if live is not None:
            self.ladder.sessions[self.flow[0]] = live._replace(seen=self.now)

    def followed(self, refusals: int) -> tuple[int, Rung]:
        """The backend that a session or an exception says; 0: none does."""
        takes = self.ladder._takes
        if self.has_hint and takes(self.hint, refusals):
            told = Rung.DIRECTORY_NEW if self.is_new else Rung.DIRECTORY_EXISTING
            return self.hint, Rung.OWNER if self.is_answer else told
        is_told = self.has_hint and not self.hint_of_flow
        if is_told or self.live is None or not takes(self.live.backend, refusals):
            return 0, Rung.ORPHAN
        return self.live.backend, Rung.SESSION_NEW if self.is_new else Rung.SESSION_EXISTING

    def must_ask(self, is_followed: bool) -> bool:
        """Whether another director may know better where an existing flow belongs."""
        if self.is_new or self.hint_of_flow:
            return False
        if self.flags & ExceptionFlag.ASK:
            return True
        if is_followed:
            return False
        if self.past is not None and self.past.backend != self.home & Slot.BACKEND:
            return True
        return bool(self.home & Slot.UNSURE)

    @property
    def is_astray(self) -> bool:
        """What was told leads nowhere, or where another director has guessed."""
        if self.is_new:
            return False
        return (self.hint_of_flow and self.is_orphan) or (
            self.has_hint and self.hint not in self.ladder.rows
        )

    def placed(self) -> tuple[int, Rung]:
        """Where a flow goes of whose client nothing is known."""
        past = self.past
        if not self.is_new and past is not None and self.ladder._takes(past.backend, LEFT_BY_FLOWS):
            return past.backend, Rung.LATE
        if self.is_new and past is not None and self.ladder.freest:
            return self.ladder.freest, Rung.FREEST
        rung = Rung.HOME_NEW if self.is_new else Rung.HOME_EXISTING
        return self.home & Slot.BACKEND, rung

    def record(self, backend: int, rung: Rung, is_orphan: bool, is_guess: bool) -> None:
        """The flow's entry, and its session: begun, moved or followed. A flow of which nothing is
        known says nothing of its client either.
        """
        ladder, client = self.ladder, self.flow[0]
        is_apart = self.is_apart
        if self.live is not None:
            is_apart = self.live.backend != backend or self.is_newer
        in_session = not is_guess and not (self.hint_of_flow and is_apart)
        if in_session:
            if self.live is None or self.live.backend != backend:
                ladder.sessions[client] = Session(backend, self.now, True)
                self._tell(backend, rung)
        elif backend != self.home & Slot.BACKEND and rung is not Rung.OWNER and not is_orphan:
            ladder.news.append(News((ExceptionKind.FLOW, *self.flow), backend, 0))
        ladder.flows[self.flow] = Entry(backend, Life.OPENING, self.now, in_session, is_guess)

    def _tell(self, backend: int, rung: Rung) -> None:
        is_told = rung in (Rung.DIRECTORY_NEW, Rung.DIRECTORY_EXISTING)
        flags = self.flags & ExceptionFlag.ASK
        name = (int(ExceptionKind.SESSION), self.flow[0], 0)
        if self.live is not None:
            told = flags if is_told else int(ExceptionFlag.ASK)
            self.ladder.news.append(News(name, backend, told))
        elif self._is_news(backend):
            if not is_told and self.past is not None and self.past.backend != backend:
                flags = int(ExceptionFlag.ASK)
            self.ladder.news.append(News(name, backend, flags))

    def _is_news(self, backend: int) -> bool:
        return (
            backend != self.home & Slot.BACKEND
            or bool(self.home & Slot.TELL)
            or self.is_known
            or self.past is not None
        )
