# SPDX-License-Identifier: Apache-2.0
"""The ladder: which backend gets a packet, and by which rung.

An existing flow: connection table; what the table remembers of it after it has expired; what other
directors told of it, or the live session of its client; home of its slot, if that is sure; else the
others are asked, and the packet waits. A new flow: the live session of its client, here or as told,
else the pool's policy. Whatever was chosen is recorded, if there is room and the rate allows, so
that the next packet finds it in the table.

Later fragments have no ports: they follow the first of their datagram; without it the session of
their client or home, where the client alone decides.
"""

from limpet.core.model import Affinity
from limpet.datapath.abi import Event, ExceptionFlag, FlowSession, Life, Rung, Slot, Verdict
from limpet.datapath.reference.choice import FLOW, LEFT, LEFT_BY_FLOWS, Choice, is_new, slot
from limpet.datapath.reference.directory import Directory
from limpet.datapath.reference.held import Arrival, Held, Waiting
from limpet.datapath.reference.known import KnownFlows
from limpet.datapath.reference.look import Following, Look
from limpet.datapath.reference.news import NewsDesk
from limpet.datapath.reference.packet import Final, Kind, Packet
from limpet.datapath.reference.policy import Chooser
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.rows import Rows, Services, Vip
from limpet.datapath.reference.seat import Seats
from limpet.datapath.reference.sessions import SessionTable
from limpet.datapath.reference.settings import Settings
from limpet.datapath.reference.table import ConnectionTable, Entry, Flow, State
from limpet.datapath.reference.ties import OWN_SESSIONS, Ties

NOT_RECORDED = (Kind.LAST, Kind.ICMP_ERROR)
BY_DIRECTORY = (Rung.DIRECTORY_NEW, Rung.DIRECTORY_EXISTING)
LATER_FRAGMENT = Kind.LATER_FRAGMENT
NOTHING, OF_FLOW = Following.NOTHING, Following.FLOW
BACKEND, UNSURE, ASK = int(Slot.BACKEND), int(Slot.UNSURE), int(ExceptionFlag.ASK)
ALONE, IS_SESSION = int(FlowSession.ALONE), int(FlowSession.IS_SESSION)
OPENING, FLOW_CREATED = Life.OPENING, Event.FLOW_CREATED


class Ladder:
    """Chooses backends, and keeps both tables. `now` is a tick of 32 bits."""

    def __init__(self, settings: Settings, rows: Rows) -> None:
        self._settings, self._rows = settings, rows
        self.table = ConnectionTable(settings, rows.idle_limit)
        self.sessions = SessionTable(settings, rows.idle_limit)
        self.chooser = Chooser(self.sessions.loads)
        self.news = NewsDesk(settings.is_member)
        self.ties = Ties(self.sessions, rows, self.news)
        self._seats = Seats(self.sessions, rows)
        self.directory = Directory(self._seats)
        self._known = KnownFlows(rows, self.table, self.sessions, self.ties, self.news)
        self._waiting = Waiting(settings)
        self._rate = TokenBucket(settings.flows_per_jiffy_16, settings.flows_burst)

    def tick(self, jiffies: int) -> int:
        """Now, as sessions count it."""
        return jiffies >> self._settings.tick_shift & 0xFFFF_FFFF

    def choose(self, services: Services, p: Packet, choice: Choice, arrival: Arrival) -> None:
        """Fill in `choice` for a packet to a VIP address, or end the packet."""
        if p.kind is LATER_FRAGMENT:
            choice.vip = services.fragments.get(p.protocol)
            self._later_fragment(services.address_id, p, choice, arrival.jiffies)
            return
        choice.vip = services.find(p.protocol, p.vip_port)
        if choice.vip is None:
            is_error = p.kind is Kind.ICMP_ERROR
            raise Final(Verdict.DROP_ICMP_QUOTE if is_error else Verdict.NO_SERVICE)
        self._flow(choice.vip, p, choice, arrival)
        if p.is_fragment:
            self._remember_fragment(services.address_id, p, choice, arrival.jiffies)

    def _flow(self, vip: Vip, p: Packet, choice: Choice, arrival: Arrival) -> None:
        flow, now = self.table.name(p, vip.id), self.tick(arrival.jiffies)
        choice.entropy = flow.entropy
        if self._settings.hash_only:
            self._home(vip, p, choice)
            return
        entry = self.table.find(flow)
        if entry is not None and self._known.decide(entry, vip, p, choice, now):
            return
        look = self._look(vip, p, choice, now)
        follows = self._follow(vip, p, choice, look)
        if self._asks(p, look, follows):
            is_orphan = self._waits_not(vip, p, choice, look, arrival)
        else:
            is_orphan = self._is_astray(p, choice, look, follows)
        may_record = self._may_record(entry, p, choice, arrival.jiffies)
        if follows is NOTHING:
            self._place(vip, p, choice, look, may_record)
        self._take(choice)
        if may_record:
            # A flow of which nothing is known says nothing of its client either.
            is_guess = is_orphan and follows in (NOTHING, OF_FLOW)
            session = self._orphan(look) if is_guess else self._session(choice, look, follows, now)
            self._record(entry, flow, p, choice, session, now)
            if not is_orphan:
                self._tell_flow(p, choice, look, session, now)
        if is_orphan:
            choice.rung = Rung.ORPHAN

    def _home(self, vip: Vip, p: Packet, choice: Choice) -> None:
        """What a director without any memory does: the lowest rung, for every packet."""
        number = slot(self._settings, vip, p, vip.own_range(p.client_port))
        pool = self._rows.pools.get(vip.pool)
        choice.backend_id = 0 if pool is None else pool.slots[number] & Slot.BACKEND
        choice.rung = Rung.HOME_NEW if is_new(p) else Rung.HOME_EXISTING
        if not choice.backend_id:
            raise Final(Verdict.DROP_NO_BACKEND)
        self._take(choice)

    def _take(self, choice: Choice) -> None:
        """The backend that was chosen must have a row."""
        choice.backend = self._rows.backends.get(choice.backend_id)
        if choice.backend is None:
            raise Final(Verdict.DROP_UNKNOWN_BACKEND)

    # --- What is known of the flow's client -----------------------------------------------------

    def _look(self, vip: Vip, p: Packet, choice: Choice, now: int) -> Look:
        """Here, and as told by others."""
        seat = None if vip.affinity is FLOW else self._seats.find(vip, p, now)
        if seat is not None:
            choice.events += seat.events
        if not self._settings.is_member:
            return Look(seat, slot=slot(self._settings, vip, p, seat.key.range if seat else 0))
        if seat is not None and seat.parted:
            self.news.tell_split(self._seats.key(vip, p), seat.parted, now)
        seat, hint = self.directory.look(vip, p, seat, now)
        number = slot(self._settings, vip, p, seat.key.range if seat else 0)
        pool = self._rows.pools.get(vip.pool)
        return Look(seat, hint, 0 if pool is None else pool.slots[number], number)

    def _follow(self, vip: Vip, p: Packet, choice: Choice, look: Look) -> Following:
        """Whose backend the flow gets, unless it has to leave it."""
        refusals = LEFT if is_new(p) else LEFT_BY_FLOWS
        hint, live = look.hint, look.live
        # A datagram of a flow that was told of is not the first of it.
        is_open = look.is_hinted_flow and p.kind is Kind.ANY
        of_told = LEFT_BY_FLOWS if is_open else refusals
        if look.is_hinted and self._rows.takes(vip.pool, hint.backend, of_told):
            choice.backend_id = hint.backend
            choice.rung = BY_DIRECTORY[not is_new(p)]
            if hint.is_answer:
                choice.rung = Rung.OWNER
            return OF_FLOW if look.is_hinted_flow else Following.TOLD
        if look.is_overruled or live is None:
            return NOTHING
        if not self._rows.takes(vip.pool, live.backend, refusals):
            return NOTHING
        choice.backend_id = live.backend
        choice.rung = Rung.SESSION_NEW if is_new(p) else Rung.SESSION_EXISTING
        return Following.SEAT

    def _is_astray(self, p: Packet, choice: Choice, look: Look, follows: Following) -> bool:
        """Whether what was told leads an existing flow nowhere, or where another director has
        guessed; counts what it led to, if that is not a backend that takes the flow.
        """
        if look.is_hinted_flow and look.hint.is_orphan:
            choice.events.append(Event.ORPHAN_UNKNOWN)
            return True
        if look.is_hinted and look.hint.backend not in self._rows.backends:
            choice.events.append(Event.STALE_BACKEND if is_new(p) else Event.ORPHAN_BACKEND)
            return not is_new(p)
        if look.is_hinted_flow and follows is not OF_FLOW:
            choice.events.append(Event.FLOW_MOVED)
        return False

    # --- Asking ---------------------------------------------------------------------------------

    def _asks(self, p: Packet, look: Look, follows: Following) -> bool:
        """Whether another director may know better where an existing flow belongs. What was
        answered is not asked again, also if its backend is of no use.
        """
        if not self._settings.is_member or is_new(p) or look.is_hinted_flow:
            return False
        if look.hint.flags & ASK:
            return True
        if follows is not NOTHING:
            return False
        if look.past is not None and look.past.backend != look.home & BACKEND:
            return True
        return bool(look.home & UNSURE)

    def _waits_not(self, vip: Vip, p: Packet, choice: Choice, look: Look, arrival: Arrival) -> bool:
        """Ends the packet, which waits; True, if nobody knows the flow, or it may not wait."""
        if look.hint.is_orphan:
            choice.events.append(Event.ORPHAN_UNKNOWN)
            return True
        kept = self._waiting.keep(p, vip.id, arrival, self.tick(arrival.jiffies))
        if isinstance(kept, Held):
            choice.held = kept
            raise Final(Verdict.HELD)
        choice.events.append(kept)
        return True

    # --- A backend for a flow without one -------------------------------------------------------

    def _place(self, vip: Vip, p: Packet, choice: Choice, look: Look, may_record: bool) -> None:
        """A backend for a flow whose client has no session that could say, or one that must leave
        its backend.
        """
        past = look.past
        pool = self._rows.pools.get(vip.pool)
        takes = self._rows.takes
        if past is not None and not is_new(p) and takes(vip.pool, past.backend, LEFT_BY_FLOWS):
            choice.backend_id, choice.rung = past.backend, Rung.LATE
        elif pool is None:
            choice.backend_id = 0
        elif is_new(p) and may_record:
            choice.backend_id, choice.rung = self.chooser.choose(
                vip.pool, pool, look.slot, is_returning=past is not None
            )
        else:
            choice.backend_id = pool.slots[look.slot] & BACKEND
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

    def _orphan(self, look: Look) -> int:
        """A flow whose backend is a guess, which is no answer for who asks."""
        own = FlowSession.ALONE if look.seat else FlowSession.IS_SESSION
        return int(FlowSession.ORPHAN | own)

    def _session(self, choice: Choice, look: Look, follows: Following, now: int) -> int:
        """The session that a flow is recorded with: followed, moved or begun."""
        seat, live, asks = look.seat, look.live, look.hint.flags & ASK
        if seat is None:
            return IS_SESSION
        is_told = choice.rung in BY_DIRECTORY
        if follows is OF_FLOW and look.is_apart(choice.backend_id):
            return ALONE
        if live is not None:
            if live.backend != choice.backend_id:
                choice.events += self.sessions.move(live, choice.backend_id)
                choice.events += [Event.SESSION_OVERRULED] * is_told
                flags = asks if is_told else ASK
                self.news.tell_session(live.key, choice.backend_id, now, flags)
            return seat.place(live)
        past = look.past
        if not is_told and past is not None and past.backend != choice.backend_id:
            asks = ASK  # flows of the session before may be asleep at its backend
        session, events = self.sessions.begin(seat.key, choice.backend_id, now)
        choice.events += events
        choice.has_begun = session is not None
        if session is None:
            return ALONE
        if look.is_worth_telling(choice.backend_id):
            self.news.tell_session(seat.key, choice.backend_id, now, asks)
        return seat.place(session)

    def _record(
        self, entry: Entry | None, flow: Flow, p: Packet, choice: Choice, session: int, now: int
    ) -> None:
        """Write down what was chosen: in the entry that the flow has already, or a new one."""
        state = State(choice.backend_id, OPENING, session)
        events = self._write(entry, flow, p, state, now)
        choice.events += events
        choice.has_created = FLOW_CREATED in events
        if session in OWN_SESSIONS and choice.has_created:
            self.sessions.add_load(choice.backend_id, 1)
            choice.has_begun = True

    def _tell_flow(self, p: Packet, choice: Choice, look: Look, session: int, now: int) -> None:
        """If others would look for this flow elsewhere, and no session tells them."""
        backend = choice.backend_id
        if session == IS_SESSION:
            is_news = look.is_worth_telling(backend)
        else:
            is_elsewhere = backend != look.home & BACKEND
            is_alone = session == ALONE and choice.rung is not Rung.OWNER
            is_news = is_alone and is_elsewhere
        if choice.has_created and is_news and choice.vip is not None:
            self.news.tell_flow(p, choice.vip.id, backend, now)

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
            self._known.touch(entry, p, now)
            if entry.backend in self._rows.backends:
                self._take(choice)
                return
        vip = choice.vip
        if vip is None or vip.affinity is not Affinity.CLIENT:
            raise Final(Verdict.DROP_FRAGMENT)
        self._client_alone(vip, p, choice, now)

    def _client_alone(self, vip: Vip, p: Packet, choice: Choice, now: int) -> None:
        """Where a client's packets go, whatever their ports."""
        look = self._look(vip, p, choice, now)
        if look.is_hinted and look.hint.backend not in self._rows.backends:
            choice.events.append(Event.STALE_BACKEND)
        if self._follow(vip, p, choice, look) is Following.NOTHING:
            pool, number = self._rows.pools.get(vip.pool), slot(self._settings, vip, p)
            choice.backend_id = 0 if pool is None else pool.slots[number] & Slot.BACKEND
            choice.rung = Rung.HOME_FRAGMENT
        if not choice.backend_id:
            raise Final(Verdict.DROP_NO_BACKEND)
        self._take(choice)
