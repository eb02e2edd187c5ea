# SPDX-License-Identifier: Apache-2.0
"""What the life of a flow does to the sessions that it belongs to.

A session counts its open flows, and is refreshed by every packet that refreshes one of them. A flow
of a mega-proxy's range belongs to two sessions: that of the range, and the client's. Where affinity
is the 5-tuple, the flow itself is the session, and counts among the loads.

A flow refreshes its session only so many times in a long idle limit, because that costs more
than all else that a packet does; the sweeper passes on the exact time before it matters. While an
open flow's session must live by what that told it, the place is refreshed without a look, as the
kernel does. A session that made room before its first flow was established begins anew then.
"""

from dataclasses import dataclass
from enum import Enum, auto

from limpet.datapath.abi import Event, FlowSession, FlowWord, Life, SessionWord
from limpet.datapath.reference.packet import Words
from limpet.datapath.reference.rows import Rows
from limpet.datapath.reference.sessions import Key, Session, SessionTable, key_of
from limpet.datapath.reference.table import TICKS, Entry, flow_age

OPEN = (Life.ESTABLISHED, Life.DATAGRAM)
COUNTED = (Life.OPENING, *OPEN)  # in loads, where the flow is the session


def period(limit: int) -> int:
    """Ticks between two refreshes of a session by the same flow."""
    is_short = limit <= SessionWord.SHORT_TICKS
    return FlowWord.REFRESH_TICKS if is_short else limit // SessionWord.REFRESHES


class Step(Enum):
    """What happened to a flow."""

    REFRESHED = auto()
    OPENED = auto()  # became established, or the like
    CLOSED = auto()  # was that, and a packet came that made it no more
    ENDED = auto()  # the same without a packet
    SEEN = auto()  # the sweeper passes on when it was seen


@dataclass(frozen=True, slots=True)
class Member:
    """A flow as its sessions see it: client, and what its entry says."""

    client: Words
    client_port: int
    vip: int
    backend: int
    session: int  # bits of enum flow_session


def member(entry: Entry) -> Member:
    """An entry as its sessions see it."""
    return Member(entry.client, entry.client_port, entry.vip, entry.backend, entry.session)


def step(before: Life, after: Life) -> Step:
    """What a change of life is to a session."""
    if (before in OPEN) == (after in OPEN):
        return Step.REFRESHED
    return Step.OPENED if after in OPEN else Step.CLOSED


class Ties:
    """Tells sessions of their flows. `now` is a tick of 32 bits."""

    def __init__(self, sessions: SessionTable, rows: Rows) -> None:
        self._sessions, self._rows = sessions, rows

    def changed(self, before: Entry, after: Life, now: int) -> tuple[int, list[Event]]:
        """A packet of the flow was seen; `before` is its entry as it was then. What the entry says
        of its session from now on, and what happened.
        """
        m = member(before)
        if m.session == FlowSession.IS_SESSION:
            change = (after in COUNTED) - (before.life in COUNTED)
            self._sessions.add_load(m.backend, change)
        elif m.session & FlowSession.IN_SESSION:
            limit = self._rows.idle_limit(m.vip, Life.SESSION)
            every, what = period(limit), step(before.life, after)
            is_certain = before.life in OPEN and flow_age(before, now) + every <= limit
            is_told = before.seen % TICKS // every == now % TICKS // every
            if not (before.life is after and is_certain and is_told):
                return self._tell(m, what, is_certain, now)
        return m.session, []

    def pass_on(self, entry: Entry, now: int) -> None:
        """The sweeper met the flow: if it or its session may soon end, that hears of it."""
        m = member(entry)
        if not m.session & FlowSession.IN_SESSION:
            return
        limit, age = self._rows.idle_limit(m.vip, Life.SESSION), flow_age(entry, now)
        last = min(self._rows.idle_limit(m.vip, entry.life), limit)
        if age + period(limit) + SessionWord.SWEEP_TICKS >= last:
            self._tell(m, Step.SEEN, False, now - age)

    def ended(self, entry: Entry, life: Life, now: int) -> None:
        """Its entry, of that life, made room, or its time is over."""
        m = member(entry)
        if m.session == FlowSession.IS_SESSION and life in COUNTED:
            self._sessions.add_load(m.backend, -1)
        if m.session & FlowSession.IN_SESSION and life in OPEN:
            self._tell(m, Step.ENDED, False, now)

    def _tell(self, m: Member, step: Step, is_certain: bool, now: int) -> tuple[int, list[Event]]:
        vip = self._rows.vips.get(m.vip)
        if vip is None:
            return m.session, []
        is_split = bool(m.session & FlowSession.SESSION_RANGE)
        ports = vip.split_range(m.client_port) if is_split else vip.own_range(m.client_port)
        wanted = [key_of(vip, m.client, ports)]
        if is_split:
            wanted.append(key_of(vip, m.client, 0))
        if step is Step.OPENED:
            return self._open(m, wanted, now)
        place = m.session & ~FlowSession.SESSION_RANGE
        found = self._sessions.find(wanted[0])
        if step is Step.REFRESHED and is_certain:
            self._sessions.refresh_place(wanted[0], place, now)
        elif found is not None and found.place == place:
            self._step(found, step, now)
        for key in wanted[1:]:
            self._step(self._sessions.find(key), step, now)
        return m.session, []

    def _open(self, m: Member, wanted: list[Key], now: int) -> tuple[int, list[Event]]:
        """A flow opened. Those of its sessions that made room begin anew."""
        events = list[Event]()
        for key in wanted[1:]:
            self._step(self._live(key, now), Step.REFRESHED, now)
        for key in wanted:
            if self._live(key, now) is None:
                events += self._sessions.begin(key, m.backend, now)[1]
        # The client's may have taken the place of the range's.
        sessions = [found for key in wanted if (found := self._live(key, now)) is not None]
        if len(sessions) < len(wanted):
            return int(FlowSession.ALONE), events
        for session in sessions:
            self._step(session, Step.OPENED, now)
        return sessions[0].place | m.session & FlowSession.SESSION_RANGE, events

    def _live(self, key: Key, now: int) -> Session | None:
        session = self._sessions.find(key)
        return session if session and self._sessions.is_live(session, now) else None

    def _step(self, session: Session | None, step: Step, now: int) -> None:
        if session is None:
            return
        if step in (Step.CLOSED, Step.ENDED):
            session.flows -= 1
        if step is Step.ENDED or not self._sessions.is_live(session, now):
            return
        session.seen = max(session.seen, now) if step is Step.SEEN else now
        if step is Step.OPENED:
            self._sessions.opened(session)
