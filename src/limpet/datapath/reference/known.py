# SPDX-License-Identifier: Apache-2.0
"""The first rungs of the ladder: what a flow's own entry in the connection table says.

That is nearly always the end of it. An entry that has expired still says where a late packet
belongs, and the flow is open again. A backend with a standing may reset its flows, or lose them.
"""

from limpet.core.model import Affinity, Standing
from limpet.datapath.abi import Event, FlowSession, Life, Rung, Verdict
from limpet.datapath.reference.choice import LEFT_BY_FLOWS, Choice, is_new
from limpet.datapath.reference.news import NewsDesk
from limpet.datapath.reference.packet import Final, Kind, Packet
from limpet.datapath.reference.parse import TCP
from limpet.datapath.reference.rows import Rows, Vip
from limpet.datapath.reference.seat import Seats
from limpet.datapath.reference.sessions import SessionTable
from limpet.datapath.reference.table import TICKS, ConnectionTable, Entry, State
from limpet.datapath.reference.ties import Ties

COULD_BE_LATE = (Life.LATE, Life.ESTABLISHED)
TABLE, LATE, EXISTING = Rung.TABLE, Rung.LATE, Kind.EXISTING


class KnownFlows:
    """Asks entries. `now` is a tick of 32 bits."""

    def __init__(
        self, rows: Rows, table: ConnectionTable, sessions: SessionTable, ties: Ties, desk: NewsDesk
    ) -> None:
        self._rows, self._table, self._sessions = rows, table, sessions
        self._ties, self._desk, self._seats = ties, desk, Seats(sessions, rows)

    def decide(self, entry: Entry, vip: Vip, p: Packet, choice: Choice, now: int) -> bool:
        """Whether the entry decides. Ends the packet if its flow is to be reset."""
        is_usable = self._table.is_usable(entry, p.kind, now)
        if not is_usable and (is_new(p) or entry.life not in COULD_BE_LATE):
            return False
        choice.backend = self._rows.backends.get(entry.backend)
        if choice.backend is None:
            choice.events.append(Event.STALE_BACKEND)
            return False
        if choice.backend.has_standing and self._has_to_leave(entry, vip, p, choice, now):
            return False
        choice.backend_id = entry.backend
        choice.rung = TABLE if is_usable else LATE
        if is_usable:
            choice.events += self.touch(entry, p, now)
        elif p.kind is EXISTING:
            self._revive(entry, vip, p, choice, now)
        return True

    def _has_to_leave(self, entry: Entry, vip: Vip, p: Packet, choice: Choice, now: int) -> bool:
        """What the standing of its backend means to the flow."""
        standing = self._rows.standing(vip.pool, entry.backend)
        if standing & Standing.RESET and p.protocol == TCP and p.kind in (Kind.EXISTING, Kind.LAST):
            self._close(entry, now)
            choice.backend_id = entry.backend
            raise Final(Verdict.RESET)
        if standing & LEFT_BY_FLOWS:
            choice.events.append(Event.FLOW_MOVED)
            return True
        return False

    def touch(self, entry: Entry, p: Packet, now: int) -> list[Event]:
        """A packet of a flow whose entry decides."""
        life = self._table.next_life(entry, p.kind, now)
        if life is None:
            return []
        entry.session, events = self._ties.changed(entry, life, now)
        self._table.touch(entry, life, now)
        return events

    def _close(self, entry: Entry, now: int) -> None:
        """A flow that is being reset is closing."""
        if entry.life is not Life.CLOSING:
            state = State(entry.backend, Life.CLOSING, entry.session)
            self._ties.changed(self._table.renew(entry, state, now), Life.CLOSING, now)

    def _revive(self, entry: Entry, vip: Vip, p: Packet, choice: Choice, now: int) -> None:
        """An expired flow sends again: it is open as before, and its session with it."""
        if entry.life is not Life.LATE:  # the sweeper has not come by yet: its part is done here
            before = entry.copy()
            entry.life = Life.LATE
            self._ties.changed(before, Life.LATE, now)
        entry.session, entry.seen = self._revived_session(vip, p, choice, now), now % TICKS
        self._ties.changed(entry, Life.ESTABLISHED, now)
        entry.life = Life.ESTABLISHED

    def _revived_session(self, vip: Vip, p: Packet, choice: Choice, now: int) -> int:
        """The client's session, if that is at the same backend; a new one, if the client has none;
        or none.
        """
        if vip.affinity is Affinity.FLOW:
            return int(FlowSession.IS_SESSION)
        seat = self._seats.find(vip, p, now)
        choice.events += seat.events
        if seat.parted:
            self._desk.tell_split(self._seats.key(vip, p), seat.parted, now)
        if seat.live is not None:
            is_elsewhere = seat.live.backend != choice.backend_id
            return int(FlowSession.ALONE) if is_elsewhere else seat.place(seat.live)
        session, events = self._sessions.begin(seat.key, choice.backend_id, now)
        choice.events += events
        choice.has_begun = session is not None
        if session is None:
            return int(FlowSession.ALONE)
        self._desk.tell_session(seat.key, choice.backend_id, now)
        return seat.place(session)
