# SPDX-License-Identifier: Apache-2.0
"""The ladder: which backend gets a packet, and by which rung.

An existing flow: connection table; what the table remembers of it after it has expired; the live
session of its client; home of its slot. A new flow: the live session of its client, else the pool's
policy. Whatever was chosen is recorded, if there is room and the rate allows, so that the next
packet finds it in the table.

Later fragments have no ports: they follow the first of their datagram; without it the session of
their client or home, where the client alone decides.
"""

from dataclasses import dataclass, field, replace

from limpet.core.model import SLOTS, Affinity, Standing
from limpet.datapath.abi import Event, FlowSession, Life, Rung, Verdict
from limpet.datapath.reference.hash import pair
from limpet.datapath.reference.packet import Final, Kind, Packet
from limpet.datapath.reference.parse import TCP
from limpet.datapath.reference.policy import Chooser
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.rows import Backend, Rows, Services, Vip
from limpet.datapath.reference.seat import Seat, Seats
from limpet.datapath.reference.sessions import Session, SessionTable
from limpet.datapath.reference.settings import Settings
from limpet.datapath.reference.table import TICKS, ConnectionTable, Entry, Flow, State
from limpet.datapath.reference.ties import Ties

LEFT_BY_FLOWS = Standing.RESET | Standing.LEFT_BY_FLOWS
LEFT = LEFT_BY_FLOWS | Standing.LEFT_BY_SESSIONS
NOT_RECORDED = (Kind.LAST, Kind.ICMP_ERROR)


@dataclass(slots=True)
class Choice:
    """What the ladder said. Filled in on the way, and counted however the packet ends."""

    vip: Vip | None = None
    backend_id: int = 0
    backend: Backend | None = None
    rung: Rung = Rung.TABLE
    entropy: int = 0
    has_created: bool = False  # a new flow got an entry
    has_begun: bool = False  # a new session began
    events: list[Event] = field(default_factory=list)


def slot(settings: Settings, vip: Vip, p: Packet, ports: int = 0) -> int:
    """Slot of a packet, by the VIP's affinity rule; `ports` is its session's range."""
    (high, low), (keep_high, keep_low) = p.client, vip.mask
    hashed = pair(high & keep_high, low & keep_low, settings.slot_key)
    turned = settings.slot_key[1], settings.slot_key[0]
    if vip.affinity is Affinity.FLOW:
        numbers = p.protocol << 32 | p.client_port << 16 | p.vip_port
        hashed = pair(hashed, p.vip_address[0] ^ p.vip_address[1] ^ numbers, turned)
    elif ports:
        hashed = pair(hashed, ports, turned)
    return hashed % SLOTS


def is_new(p: Packet) -> bool:
    """Whether a packet may be the first of its flow."""
    return p.kind in (Kind.FIRST, Kind.ANY)


class Ladder:
    """Chooses backends, and keeps both tables. `now` is a tick of 32 bits."""

    def __init__(self, settings: Settings, rows: Rows) -> None:
        self._settings, self._rows = settings, rows
        self.table = ConnectionTable(settings, rows.idle_limit)
        self.sessions = SessionTable(settings, rows.idle_limit)
        self.chooser = Chooser(self.sessions.loads)
        self.ties = Ties(self.sessions, rows)
        self._seats = Seats(self.sessions, rows)
        self._rate = TokenBucket(settings.flows_per_jiffy_16, settings.flows_burst)

    def tick(self, jiffies: int) -> int:
        """Now, as sessions count it."""
        return jiffies >> self._settings.tick_shift & 0xFFFF_FFFF

    def choose(self, services: Services, p: Packet, choice: Choice, jiffies: int) -> None:
        """Fill in `choice` for a packet to a VIP address, or end the packet."""
        if p.kind is Kind.LATER_FRAGMENT:
            choice.vip = services.fragments.get(p.protocol)
            self._later_fragment(services.address_id, p, choice, jiffies)
            return
        choice.vip = services.find(p.protocol, p.vip_port)
        if choice.vip is None:
            is_error = p.kind is Kind.ICMP_ERROR
            raise Final(Verdict.DROP_ICMP_QUOTE if is_error else Verdict.NO_SERVICE)
        self._flow(choice.vip, p, choice, jiffies)
        if p.is_fragment:
            self._remember_fragment(services.address_id, p, choice, jiffies)

    def _flow(self, vip: Vip, p: Packet, choice: Choice, jiffies: int) -> None:
        flow, now = self.table.name(p, vip.id), self.tick(jiffies)
        choice.entropy = flow.entropy
        entry = self.table.find(flow)
        if entry is not None and self._is_known(entry, vip, p, choice, now):
            return
        seat = None if vip.affinity is Affinity.FLOW else self._seats.find(vip, p, now)
        choice.events += seat.events if seat else []
        may_record = self._may_record(entry, p, choice, jiffies)
        followed = self._followed(vip, p, seat)
        if followed is not None:
            choice.backend_id = followed.backend
            choice.rung = Rung.SESSION_NEW if is_new(p) else Rung.SESSION_EXISTING
        else:
            self._place(vip, p, choice, seat, may_record)
        self._take(choice)
        if may_record:
            session = self._session(choice, seat, followed, now)
            self._record(entry, flow, p, choice, session, now)

    def _take(self, choice: Choice) -> None:
        """The backend that was chosen must have a row."""
        choice.backend = self._rows.backends.get(choice.backend_id)
        if choice.backend is None:
            raise Final(Verdict.DROP_UNKNOWN_BACKEND)

    # --- The flow's own entry -------------------------------------------------------------------

    def _is_known(self, entry: Entry, vip: Vip, p: Packet, choice: Choice, now: int) -> bool:
        """Whether the entry decides. Ends the packet if its flow is to be reset."""
        is_usable = self.table.is_usable(entry, p.kind, now)
        could_be_late = entry.life in (Life.LATE, Life.ESTABLISHED)
        if not is_usable and (is_new(p) or not could_be_late):
            return False
        choice.backend = self._rows.backends.get(entry.backend)
        if choice.backend is None:
            choice.events.append(Event.STALE_BACKEND)
            return False
        standing = self._standing(vip, entry.backend)
        if standing & Standing.RESET and p.protocol == TCP and p.kind in (Kind.EXISTING, Kind.LAST):
            self._close(entry, now)
            choice.backend_id = entry.backend
            raise Final(Verdict.RESET)
        if standing & LEFT_BY_FLOWS:
            choice.events.append(Event.FLOW_MOVED)
            return False
        choice.backend_id = entry.backend
        choice.rung = Rung.TABLE if is_usable else Rung.LATE
        if is_usable:
            choice.events += self._touch(entry, p, now)
        elif p.kind is Kind.EXISTING:
            self._revive(entry, vip, p, choice, now)
        return True

    def _standing(self, vip: Vip, number: int) -> Standing:
        row = self._rows.backends.get(number)
        if row is None or not row.has_standing:
            return Standing.NORMAL
        return self._rows.pools[vip.pool].standing.get(number, Standing.NORMAL)

    def _touch(self, entry: Entry, p: Packet, now: int) -> list[Event]:
        before = self.table.touch(entry, p.kind, now)
        if before is None:
            return []
        entry.session, events = self.ties.changed(before, entry.life, now)
        return events

    def _close(self, entry: Entry, now: int) -> None:
        """A flow that is being reset is closing."""
        if entry.life is not Life.CLOSING:
            state = State(entry.backend, Life.CLOSING, entry.session)
            self.ties.changed(self.table.renew(entry, state, now), Life.CLOSING, now)

    def _revive(self, entry: Entry, vip: Vip, p: Packet, choice: Choice, now: int) -> None:
        """An expired flow sends again: it is open as before, and its session with it."""
        if entry.life is not Life.LATE:  # the sweeper has not come by yet: its part is done here
            before = replace(entry)
            entry.life = Life.LATE
            self.ties.changed(before, Life.LATE, now)
        entry.session, entry.seen = self._revived_session(vip, p, choice, now), now % TICKS
        self.ties.changed(entry, Life.ESTABLISHED, now)
        entry.life = Life.ESTABLISHED

    def _revived_session(self, vip: Vip, p: Packet, choice: Choice, now: int) -> int:
        """The client's session, if that is at the same backend; a new one, if the client has none;
        or none.
        """
        if vip.affinity is Affinity.FLOW:
            return int(FlowSession.IS_SESSION)
        seat = self._seats.find(vip, p, now)
        choice.events += seat.events
        if seat.live is None:
            return self._begin(seat, choice, now)
        is_elsewhere = seat.live.backend != choice.backend_id
        return int(FlowSession.ALONE) if is_elsewhere else seat.place(seat.live)

    # --- A backend for a flow without one -------------------------------------------------------

    def _followed(self, vip: Vip, p: Packet, seat: Seat | None) -> Session | None:
        """The live session of the flow's client, unless it has to leave its backend."""
        session = seat.live if seat else None
        refusals = LEFT if is_new(p) else LEFT_BY_FLOWS
        return session if session and self._takes(vip, session.backend, refusals) else None

    def _takes(self, vip: Vip, number: int, refusals: Standing) -> bool:
        """Whether a backend is there, and no bit of its standing speaks against it."""
        return number in self._rows.backends and not self._standing(vip, number) & refusals

    def _place(
        self, vip: Vip, p: Packet, choice: Choice, seat: Seat | None, may_record: bool
    ) -> None:
        """A backend for a flow whose client has no session that could say, or one that must leave
        its backend.
        """
        past = seat.past if seat else None
        number = slot(self._settings, vip, p, seat.key.range if seat else 0)
        pool = self._rows.pools.get(vip.pool)
        if past is not None and not is_new(p) and self._takes(vip, past.backend, LEFT_BY_FLOWS):
            choice.backend_id, choice.rung = past.backend, Rung.LATE
        elif pool is None:
            choice.backend_id = 0
        elif is_new(p) and may_record:
            choice.backend_id, choice.rung = self.chooser.choose(
                vip.pool, pool, number, is_returning=past is not None
            )
        else:
            choice.backend_id = pool.slots[number]
            choice.rung = Rung.HOME_NEW if is_new(p) else Rung.HOME_EXISTING
        if not choice.backend_id:
            raise Final(Verdict.DROP_NO_BACKEND)

    # --- Record ---------------------------------------------------------------------------------

    def _may_record(self, entry: Entry | None, p: Packet, choice: Choice, jiffies: int) -> bool:
        """Whether a flow gets an entry. Its FIN or RST alone is not worth one, nor an error about
        it. A new entry costs a token; what has one renews it.
        """
        if p.kind in NOT_RECORDED:
            return False
        if entry is None and not self._rate.allow(jiffies):
            choice.events.append(Event.REFUSED_RATE)
            return False
        return True

    def _session(
        self, choice: Choice, seat: Seat | None, followed: Session | None, now: int
    ) -> int:
        """The session that a flow is recorded with: followed, moved or begun."""
        if seat is None:
            return int(FlowSession.IS_SESSION)
        if seat.live is not None:
            if followed is None:
                choice.events += self.sessions.move(seat.live, choice.backend_id)
            return seat.place(seat.live)
        return self._begin(seat, choice, now)

    def _begin(self, seat: Seat, choice: Choice, now: int) -> int:
        """A session begins, if there is room for it."""
        session, events = self.sessions.begin(seat.key, choice.backend_id, now)
        choice.events += events
        choice.has_begun = session is not None
        return int(FlowSession.ALONE) if session is None else seat.place(session)

    def _record(
        self, entry: Entry | None, flow: Flow, p: Packet, choice: Choice, session: int, now: int
    ) -> None:
        """Write down what was chosen: in the entry that the flow has already, or a new one."""
        state = State(choice.backend_id, Life.OPENING, session)
        events = self._write(entry, flow, p, state, now)
        choice.events += events
        choice.has_created = Event.FLOW_CREATED in events
        if session == FlowSession.IS_SESSION and choice.has_created:
            self.sessions.add_load(choice.backend_id, 1)
            choice.has_begun = True

    def _write(
        self, entry: Entry | None, flow: Flow, p: Packet, state: State, now: int
    ) -> list[Event]:
        if entry is not None:
            self.ties.changed(self.table.renew(entry, state, now), Life.EMPTY, now)
            return [Event.FLOW_CREATED]
        events, evicted = self.table.create(flow, state, p, now)
        if evicted is not None:
            self.ties.ended(evicted, evicted.life, now)
        return events

    # --- Fragments ------------------------------------------------------------------------------

    def _remember_fragment(self, address_id: int, p: Packet, choice: Choice, jiffies: int) -> None:
        """Remember where the first fragment of a datagram went, for those that follow it."""
        flow = self.table.name_fragment(p, address_id)
        entry = self.table.find(flow)
        if entry is None and not self._rate.allow(jiffies):
            choice.events.append(Event.REFUSED_RATE)
            return
        state = State(choice.backend_id, Life.FRAGMENT)
        choice.events += self._write(entry, flow, p, state, self.tick(jiffies))

    def _later_fragment(self, address_id: int, p: Packet, choice: Choice, jiffies: int) -> None:
        flow, now = self.table.name_fragment(p, address_id), self.tick(jiffies)
        choice.entropy = flow.entropy
        entry = self.table.find(flow)
        if entry is not None and self.table.is_usable(entry, p.kind, now):
            choice.backend_id, choice.rung = entry.backend, Rung.FRAGMENT
            self._touch(entry, p, now)
            if entry.backend in self._rows.backends:
                self._take(choice)
                return
        vip = choice.vip
        if vip is None or vip.affinity is not Affinity.CLIENT:
            raise Final(Verdict.DROP_FRAGMENT)
        self._client_alone(vip, p, choice, now)

    def _client_alone(self, vip: Vip, p: Packet, choice: Choice, now: int) -> None:
        """Where a client's packets go, whatever their ports."""
        seat = self._seats.find(vip, p, now)
        choice.events += seat.events
        if seat.live is not None and self._takes(vip, seat.live.backend, LEFT_BY_FLOWS):
            choice.backend_id, choice.rung = seat.live.backend, Rung.SESSION_EXISTING
        else:
            pool = self._rows.pools.get(vip.pool)
            choice.backend_id = 0 if pool is None else pool.slots[slot(self._settings, vip, p)]
            choice.rung = Rung.HOME_FRAGMENT
        if not choice.backend_id:
            raise Final(Verdict.DROP_NO_BACKEND)
        self._take(choice)
