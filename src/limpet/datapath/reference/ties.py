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

from enum import Enum, auto

from limpet.datapath.abi import Event, FlowSession, FlowWord, Life, SessionWord
from limpet.datapath.reference.news import NewsDesk
from limpet.datapath.reference.rows import Rows
from limpet.datapath.reference.sessions import Key, Session, SessionTable, key_of
from limpet.datapath.reference.table import TICKS, Entry, flow_age

IN_SESSION = int(FlowSession.IN_SESSION)
# Bits of a flow that is a session of its own.
OWN_SESSIONS = int(FlowSession.IS_SESSION), int(FlowSession.IS_SESSION | FlowSession.ORPHAN)
SWEEP_TICKS = int(SessionWord.SWEEP_TICKS)
SESSION_RANGE = int(FlowSession.SESSION_RANGE)
SHORT_TICKS, REFRESHES = int(SessionWord.SHORT_TICKS), int(SessionWord.REFRESHES)
REFRESH_TICKS = int(FlowWord.REFRESH_TICKS)
SESSION = Life.SESSION
OPEN = (Life.ESTABLISHED, Life.DATAGRAM)
COUNTED = (Life.OPENING, *OPEN)  # in loads, where the flow is the session


def period(limit: int) -> int:
    """Ticks between two refreshes of a session by the same flow."""
    return REFRESH_TICKS if limit <= SHORT_TICKS else limit // REFRESHES


class Step(Enum):
    """What happened to a flow."""

    REFRESHED = auto()
    OPENED = auto()  # became established, or the like
    CLOSED = auto()  # was that, and a packet came that made it no more
    ENDED = auto()  # the same without a packet
    SEEN = auto()  # the sweeper passes on when it was seen


REFRESHED, OPENED, CLOSED, ENDED = Step.REFRESHED, Step.OPENED, Step.CLOSED, Step.ENDED
SEEN = Step.SEEN


def step(before: Life, after: Life) -> Step:
    """What a change of life is to a session."""
    if (before in OPEN) == (after in OPEN):
        return REFRESHED
    return OPENED if after in OPEN else CLOSED


class Ties:
    """Tells sessions of their flows. `now` is a tick of 32 bits."""

    def __init__(self, sessions: SessionTable, rows: Rows, news: NewsDesk) -> None:
        self._sessions, self._rows, self._news = sessions, rows, news

    def changed(self, before: Entry, after: Life, now: int) -> tuple[int, list[Event]]:
        """A packet of the flow was seen; `before` is its entry as it was then. What the entry says
        of its session from now on, and what happened.
        """
        if before.session in OWN_SESSIONS:
            change = (after in COUNTED) - (before.life in COUNTED)
            self._sessions.add_load(before.backend, change)
        elif before.session & IN_SESSION:
            limit = self._rows.idle_limit(before.vip, SESSION)
            every = period(limit)
            is_certain = before.life in OPEN and flow_age(before, now) + every <= limit
            is_told = before.seen // every == now % TICKS // every
            if not (is_certain and is_told and before.life is after):
                return self._tell(before, step(before.life, after), is_certain, now)
        return before.session, []

    def is_quiet(self, entry: Entry, now: int) -> bool:
        """Whether the sweeper has nothing to do for a flow yet, which is nearly always so."""
        limit, age = self._rows.idle_limit(entry.vip, entry.life), flow_age(entry, now)
        if age > limit or not entry.session & IN_SESSION:
            return age <= limit
        whole = self._rows.idle_limit(entry.vip, SESSION)
        return age + period(whole) + SWEEP_TICKS < min(limit, whole)

    def pass_on(self, entry: Entry, now: int) -> None:
        """The sweeper met the flow: if it or its session may soon end, that hears of it."""
        if not entry.session & IN_SESSION:
            return
        limit, age = self._rows.idle_limit(entry.vip, SESSION), flow_age(entry, now)
        last = min(self._rows.idle_limit(entry.vip, entry.life), limit)
        if age + period(limit) + SWEEP_TICKS >= last:
            self._tell(entry, SEEN, False, now - age)

    def ended(self, entry: Entry, life: Life, now: int) -> None:
        """Its entry, of that life, made room, or its time is over."""
        if entry.session in OWN_SESSIONS and life in COUNTED:
            self._sessions.add_load(entry.backend, -1)
        if entry.session & IN_SESSION and life in OPEN:
            self._tell(entry, ENDED, False, now)

    def _tell(self, m: Entry, step: Step, is_certain: bool, now: int) -> tuple[int, list[Event]]:
        vip = self._rows.vips.get(m.vip)
        if vip is None:
            return m.session, []
        is_split = m.session & SESSION_RANGE
        ports = vip.split_range(m.client_port) if is_split else vip.own_range(m.client_port)
        wanted = [key_of(vip, m.client, ports)]
        if is_split:
            wanted.append(key_of(vip, m.client, 0))
        if step is OPENED:
            return self._open(m, wanted, now)
        place = m.session & ~SESSION_RANGE
        if step is REFRESHED and is_certain:
            self._sessions.refresh_place(wanted[0], place, now)
        else:
            found = self._sessions.find(wanted[0])
            if found is not None and found.place == place:
                self._step(found, step, now)
        for key in wanted[1:]:
            self._step(self._sessions.find(key), step, now)
        return m.session, []

    def _open(self, m: Entry, wanted: list[Key], now: int) -> tuple[int, list[Event]]:
        """A flow opened. Those of its sessions that made room begin anew."""
        events = list[Event]()
        first = self._live(wanted[0], now)
        if first is not None and len(wanted) == 1:
            self._step(first, OPENED, now)
            return first.place, events
        for key in wanted[1:]:
            self._step(self._live(key, now), REFRESHED, now)
        for key in wanted:
            if self._live(key, now) is None:
                session, more = self._sessions.begin(key, m.backend, now)
                events += more
                if session is not None and key is wanted[0]:
                    self._news.tell_session(key, m.backend, now)
        # The client's may have taken the place of the range's.
        sessions = [found for key in wanted if (found := self._live(key, now)) is not None]
        if len(sessions) < len(wanted):
            return int(FlowSession.ALONE), events
        for session in sessions:
            self._step(session, OPENED, now)
        return sessions[0].place | m.session & SESSION_RANGE, events

    def _live(self, key: Key, now: int) -> Session | None:
        session = self._sessions.find(key)
        return session if session and self._sessions.is_live(session, now) else None

    def _step(self, session: Session | None, step: Step, now: int) -> None:
        if session is None:
            return
        if step is CLOSED or step is ENDED:
            session.flows -= 1
        if step is ENDED or not self._sessions.is_live(session, now):
            return
        session.seen = max(session.seen, now) if step is SEEN else now
        if step is OPENED:
            self._sessions.opened(session)
