# SPDX-License-Identifier: Apache-2.0
"""Which session a new flow belongs to: its client's, or of a mega-proxy that of its port's range.

A mega-proxy is a client with more open flows than the VIP allows, or one under a listed prefix. It
is split from then on: open flows and live sessions stay, but a new flow looks for the session of
its range first, and begins one. When the client has become small again (half of what made it one),
sessions of ranges are followed as long as they live, and no more begin.
"""

from dataclasses import dataclass, field

from limpet.core.model import Affinity
from limpet.datapath.abi import Event, FlowSession
from limpet.datapath.reference.packet import Kind, Packet
from limpet.datapath.reference.rows import Rows, Vip
from limpet.datapath.reference.sessions import Key, Session, SessionTable, key_of

CLIENT = Affinity.CLIENT
LATER_FRAGMENT, ICMP_ERROR = Kind.LATER_FRAGMENT, Kind.ICMP_ERROR


@dataclass(slots=True)
class Seat:
    """What the session table says about a flow."""

    key: Key
    live: Session | None = None
    past: Session | None = None  # one that has expired
    split: int = 0  # SESSION_RANGE if it is of a mega-proxy's range
    seen: int = 0  # tick of the packet before, if live
    parted: int = 0  # the client became a mega-proxy just now: the backend of its session
    events: list[Event] = field(default_factory=list)

    def place(self, session: Session) -> int:
        """Bits of enum flow_session, for a flow of the session of this seat."""
        return session.place | self.split


class Seats:
    """Finds seats. Not for VIPs with affinity flow, whose flows are sessions of their own."""

    def __init__(self, sessions: SessionTable, rows: Rows) -> None:
        self._sessions, self._rows = sessions, rows

    def key(self, vip: Vip, p: Packet) -> Key:
        """The key of a client that is no mega-proxy."""
        return key_of(vip, p.client, vip.own_range(p.client_port))

    def find(self, vip: Vip, p: Packet, now: int) -> Seat:
        """The seat of a packet's flow."""
        seat = self.look(self.key(vip, p), 0, p, now)
        if seat.live and vip.affinity is CLIENT and p.kind is not LATER_FRAGMENT:
            return self._split(seat, seat.live, vip, p, now)
        return seat

    def look(self, key: Key, split: int, p: Packet, now: int) -> Seat:
        """What the session of this key says."""
        session = self._sessions.find(key)
        if session is None or not self._sessions.is_live(session, now):
            return Seat(key, past=session, split=split)
        seen = session.seen
        if p.kind is not ICMP_ERROR:  # no entry of a new flow refreshes its session yet
            session.seen = now
        return Seat(key, live=session, split=split, seen=seen)

    def _split(self, seat: Seat, client: Session, vip: Vip, p: Packet, now: int) -> Seat:
        """The seat in a range, if the client is a mega-proxy and a flow may follow or begin one."""
        is_heavy = self._is_heavy(client, vip, p)
        if not is_heavy and not client.is_split:
            return seat
        key = key_of(vip, p.client, vip.split_range(p.client_port))
        of_range = self.look(key, FlowSession.SESSION_RANGE, p, now)
        if of_range.live is None and not is_heavy:
            return seat
        if not client.is_split:
            client.is_split = True
            of_range.events.append(Event.CLIENT_SPLIT)
            of_range.parted = client.backend
        return of_range

    def _is_heavy(self, session: Session, vip: Vip, p: Packet) -> bool:
        if vip.looks_at_list and self._rows.is_listed(p.client):
            return True
        limit = vip.split_flows // 2 if session.is_split else vip.split_flows
        return bool(vip.split_flows) and session.flows >= limit
