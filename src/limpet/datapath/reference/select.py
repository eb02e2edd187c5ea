# SPDX-License-Identifier: Apache-2.0
"""The ladder: which backend gets a packet, and by which rung.

An existing flow: connection table, else home of its slot. A new flow: home of its slot. Whatever
home chose is recorded, if there is room and the rate allows, so that the next packet finds it in
the table. Later fragments have no ports: they follow the first of their datagram, else go home,
where the client alone decides.
"""

from dataclasses import dataclass, field

from limpet.core.model import SLOTS, Affinity
from limpet.datapath.abi import Event, Life, Rung, Verdict
from limpet.datapath.reference.hash import pair
from limpet.datapath.reference.packet import Final, Kind, Packet
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.rows import Backend, Rows, Services, Vip
from limpet.datapath.reference.settings import Settings
from limpet.datapath.reference.table import ConnectionTable, Entry, Flow


@dataclass(slots=True)
class Choice:
    """What the ladder said. Filled in on the way, and counted however the packet ends."""

    vip: Vip | None = None
    backend_id: int = 0
    backend: Backend | None = None
    rung: Rung = Rung.TABLE
    entropy: int = 0
    has_created: bool = False  # a new flow got an entry
    events: list[Event] = field(default_factory=list)


def slot(settings: Settings, vip: Vip, p: Packet) -> int:
    """Slot of a packet, by the VIP's affinity rule."""
    (high, low), (keep_high, keep_low) = p.client, vip.mask
    hashed = pair(high & keep_high, low & keep_low, settings.slot_key)
    if vip.affinity is Affinity.FLOW:
        ports = p.protocol << 32 | p.client_port << 16 | p.vip_port
        rest = p.vip_address[0] ^ p.vip_address[1] ^ ports
        hashed = pair(hashed, rest, (settings.slot_key[1], settings.slot_key[0]))
    return hashed % SLOTS


class Ladder:
    """Chooses backends, and keeps the connection table. Time comes in as jiffies."""

    def __init__(self, settings: Settings, rows: Rows) -> None:
        self._settings, self._rows = settings, rows
        self.table = ConnectionTable(settings)
        self._rate = TokenBucket(settings.flows_per_jiffy_16, settings.flows_burst)

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

    def _tick(self, jiffies: int) -> int:
        return jiffies >> self._settings.tick_shift & (1 << 26) - 1

    def _flow(self, vip: Vip, p: Packet, choice: Choice, jiffies: int) -> None:
        flow = self.table.name(p, vip.id)
        choice.entropy = flow.entropy
        entry = self.table.find(flow)
        if entry is not None and self._follow(entry, Rung.TABLE, p, choice, jiffies):
            return
        if choice.backend_id:
            choice.events.append(Event.STALE_BACKEND)
        self._home(vip, p, choice)
        is_new = p.kind in (Kind.FIRST, Kind.ANY)
        choice.rung = Rung.HOME_NEW if is_new else Rung.HOME_EXISTING
        self._record(entry, flow, p, choice, jiffies)

    def _follow(self, entry: Entry, rung: Rung, p: Packet, choice: Choice, jiffies: int) -> bool:
        """Take the backend of an entry, if the entry may be used and the backend has a row."""
        choice.backend_id = self.table.use(entry, p.kind, self._tick(jiffies))
        choice.backend = self._rows.backends.get(choice.backend_id)
        choice.rung = rung
        return choice.backend is not None

    def _home(self, vip: Vip, p: Packet, choice: Choice) -> None:
        slots = self._rows.slots.get(vip.pool)
        choice.backend_id = 0 if slots is None else slots[slot(self._settings, vip, p)]
        if not choice.backend_id:
            raise Final(Verdict.DROP_NO_BACKEND)
        choice.backend = self._rows.backends.get(choice.backend_id)
        if choice.backend is None:
            raise Final(Verdict.DROP_UNKNOWN_BACKEND)

    def _record(
        self, entry: Entry | None, flow: Flow, p: Packet, choice: Choice, jiffies: int
    ) -> None:
        """Record a flow that home placed. Its FIN or RST alone is not worth an entry, nor an
        error.
        """
        if p.kind not in (Kind.LAST, Kind.ICMP_ERROR):
            events = self._write(entry, flow, Life.OPENING, choice.backend_id, jiffies)
            choice.has_created = Event.FLOW_CREATED in events
            choice.events += events

    def _write(
        self, entry: Entry | None, flow: Flow, life: Life, backend: int, jiffies: int
    ) -> list[Event]:
        """A new entry costs a token; without one there is none. What has an entry renews it."""
        now = self._tick(jiffies)
        if entry is not None:
            return self.table.renew(entry, backend, life, now)
        if not self._rate.allow(jiffies):
            return [Event.REFUSED_RATE]
        return self.table.create(flow, backend, life, now)

    def _remember_fragment(self, address_id: int, p: Packet, choice: Choice, jiffies: int) -> None:
        """Remember where the first fragment of a datagram went, for those that follow it."""
        flow = self.table.name_fragment(p, address_id)
        entry, backend = self.table.find(flow), choice.backend_id
        choice.events += self._write(entry, flow, Life.FRAGMENT, backend, jiffies)

    def _later_fragment(self, address_id: int, p: Packet, choice: Choice, jiffies: int) -> None:
        flow = self.table.name_fragment(p, address_id)
        choice.entropy = flow.entropy
        entry = self.table.find(flow)
        if entry is not None and self._follow(entry, Rung.FRAGMENT, p, choice, jiffies):
            return
        if choice.vip is None:
            raise Final(Verdict.DROP_FRAGMENT)
        choice.rung = Rung.HOME_FRAGMENT
        self._home(choice.vip, p, choice)
