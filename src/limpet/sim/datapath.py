# SPDX-License-Identifier: Apache-2.0
"""One director's packet path in the simulation: the ladder of datapath/reference, as it is.

Packets enter where they are parsed already: addresses, ports and kind are all that the ladder looks
at, and reading them from bytes would be most of the time. Here is also what the daemon reads from
the tables: who knows a flow, and which sessions are exceptions.
"""

import typing
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from ipaddress import IPv4Address
from typing import NamedTuple

import numpy as np

from limpet.core.diff import diff
from limpet.core.hashing import MAPPED, words
from limpet.core.model import SLOTS, Affinity, Cluster, Director, Image, Protocol, Slots, VipRow
from limpet.core.ownership import Known
from limpet.datapath.abi import (
    ExceptionFlag,
    ExceptionKind,
    FlowSession,
    Life,
    Rung,
    Slot,
    Verdict,
)
from limpet.datapath.reference import settings as constants
from limpet.datapath.reference.choice import Choice, slot
from limpet.datapath.reference.directory import Told, is_later
from limpet.datapath.reference.hash import REMEMBERED, pair
from limpet.datapath.reference.held import Arrival
from limpet.datapath.reference.news import Name, News, name_of_session
from limpet.datapath.reference.packet import Final, Kind, Packet
from limpet.datapath.reference.rows import Rows
from limpet.datapath.reference.select import Ladder
from limpet.datapath.reference.sessions import Key, age, key_of
from limpet.datapath.reference.sweep import sweep_flows, sweep_sessions
from limpet.datapath.reference.table import Entry, flow_age
from limpet.datapath.settings import FRAGMENT_S, LATE_S, Machine, encode, encode_limits, tick_s

HZ = 250
TICK_S = tick_s(HZ)
VIP = IPv4Address("192.0.2.1")
VIP_PORT = 443
GUESSED = int(FlowSession.IN_SESSION | FlowSession.ORPHAN)
BACKEND_OR_TELL = int(Slot.BACKEND | Slot.TELL)
VIP_WORDS = words(VIP)
ADDRESSES = MAPPED | int(IPv4Address("10.0.0.0"))  # of clients
Flow = tuple[int, int]  # client, client port
NOBODY = np.uint16(0xFFFF)  # no backend's number


class Result(NamedTuple):
    """What became of a packet; `backend` 0 and not held: dropped."""

    backend: int
    rung: Rung
    verdict: Verdict = Verdict.TRANSMIT


_result = lru_cache(maxsize=1 << 12)(Result)


@lru_cache(maxsize=8)
def _settings(name: str, slot_key: bytes, sessions_max: int) -> constants.Settings:
    flow_key = name.encode().ljust(16, b".")[:16]
    cluster = Cluster(name="sim", queries_per_s=0, client_queries=0)
    director = Director(
        name, ("eth0",), flows_max=sessions_max, sessions_max=sessions_max, new_flows_per_s=0
    )
    machine = Machine(HZ, slot_key, flow_key, cluster=cluster)
    return constants.read(encode(director, machine))


def idle_ticks(row: VipRow | None) -> dict[Life, int]:
    """Idle limits of a VIP by life, as the kernel has them."""
    if row is None:
        ticks = round(FRAGMENT_S / TICK_S)
        return dict.fromkeys(Life, ticks)
    limits = encode_limits(row.timeouts, Protocol.TCP, HZ)
    return {life: int(limits[life]) for life in Life if life < len(limits)}


class Elsewhere(typing.Protocol):
    """What was told of a name."""

    @property
    def backend(self) -> int:
        """Where it is said to be."""
        ...


class DataPath:
    """Tables and ladder of one director."""

    def __init__(self, name: str, slot_key: bytes, sessions_max: int) -> None:
        self._settings = settings = _settings(name, slot_key, sessions_max)
        self.rows = Rows(idle_ticks)
        self.ladder = Ladder(settings, self.rows)
        self._image = Image()
        self._seat = lru_cache(maxsize=REMEMBERED)(partial(_seat, settings.slot_key))
        self._packet = Packet(0x0800, (), 4, (0, 0), VIP_WORDS, 6, vip_port=VIP_PORT)

    def load(self, image: Image) -> None:
        """Make the image the content; flows and sessions stay."""
        self.rows.apply(diff(self._image, image))
        self._image = image
        self._services = self.rows.addresses[VIP_WORDS]
        self._vip = next(iter(self._services.ports.values()))
        self._table = image.pools[0].slots

    def packet(self, flow: Flow, kind: Kind, now: float) -> Result:
        """A packet comes in."""
        p, choice = self._packet, Choice()
        p.client, p.client_port, p.kind = (0, ADDRESSES + flow[0]), flow[1], kind
        try:
            self.ladder.choose(self._services, p, choice, Arrival(b"", int(now * HZ), 1))
        except Final as final:
            return Result(0, choice.rung, final.verdict)
        return _result(choice.backend_id, choice.rung)

    def sweep(self, now: float) -> None:
        """End what has expired."""
        tick = self.tick(now)
        sweep_flows(self.ladder.table, self.ladder.ties, tick)
        sweep_sessions(self.ladder.sessions, self.rows, tick)

    def tick(self, now: float) -> int:
        """Now, as tables count it."""
        return self.ladder.tick(int(now * HZ))

    def has_news(self) -> bool:
        """Whether something arose since the last time."""
        return self.ladder.news.has_news

    def news(self) -> tuple[News, ...]:
        """What arose since the last time."""
        return self.ladder.news.take()

    # --- What the daemon reads -------------------------------------------------------------------

    def name_of(self, flow: Flow) -> Name:
        """Name of a flow's exception."""
        client = (0, ADDRESSES + flow[0])
        return Name(client, flow[1] << 16 | VIP_PORT, self._vip.id, ExceptionKind.FLOW)

    def name_of_session(self, flow: Flow) -> Name:
        """Name of the exception of the session that a flow belongs to: the flow itself, or its
        client's.
        """
        if self._vip.affinity is Affinity.FLOW:
            return self.name_of(flow)
        return name_of_session(self._key(flow))

    def slot_of(self, flow: Flow) -> int:
        """Its slot."""
        p = self._packet
        p.client, p.client_port = (0, ADDRESSES + flow[0]), flow[1]
        return slot(self._settings, self._vip, p, self._vip.own_range(flow[1]))

    def _key(self, flow: Flow) -> Key:
        return key_of(self._vip, (0, ADDRESSES + flow[0]), self._vip.own_range(flow[1]))

    def put(self, name: Name, backend: int, flags: int, since: float, until: float) -> None:
        """An exception, as the map has it."""
        told = Told(self.tick(since), self.tick(until), backend, flags)
        self.ladder.directory.exceptions[name] = told

    def remove(self, name: Name) -> None:
        """Fine if it is not there."""
        self.ladder.directory.exceptions.pop(name, None)

    def has(self, flow: Flow) -> bool:
        """Whether the connection table has the flow."""
        return self._entry(flow) is not None

    def _entry(self, flow: Flow) -> Entry | None:
        p = self._packet
        p.client, p.client_port = (0, ADDRESSES + flow[0]), flow[1]
        return self.ladder.table.find(self.ladder.table.name(p, self._vip.id))

    def knows(self, flow: Flow, now: float) -> tuple[Known, int, float]:
        """The answer to another director's question: rank, backend, idle seconds."""
        tick, entry = self.tick(now), self._entry(flow)
        guess = None
        if entry is not None:
            idle = flow_age(entry, tick) * TICK_S
            known = self._knows_entry(entry, idle, tick)
            if known and entry.session & GUESSED != FlowSession.ORPHAN:
                return known, entry.backend, idle
            guess = (Known.GUESSED, entry.backend, idle) if known else None
        told = self._told(self.name_of(flow), tick)
        if told is not None:
            return Known.TOLD, told.backend, 0.0
        return guess or self.knows_session(flow, now)

    def _knows_entry(self, entry: Entry, idle: float, tick: int) -> Known:
        if not self.ladder.table.has_expired(entry, tick):
            is_open = entry.life in (Life.ESTABLISHED, Life.DATAGRAM)
            return Known.OPEN if is_open else Known.HALF_OPEN
        is_late = entry.life in (Life.LATE, Life.ESTABLISHED) and idle <= LATE_S
        return Known.LATE if is_late else Known.NOTHING

    def knows_session(self, flow: Flow, now: float) -> tuple[Known, int, float]:
        """The same of the flow's session alone."""
        if self._vip.affinity is Affinity.FLOW:
            return Known.NOTHING, 0, 0.0
        tick, key = self.tick(now), self._key(flow)
        session = self.ladder.sessions.find(key)
        if session is not None and self.ladder.sessions.is_live(session, tick):
            return Known.SESSION, session.backend, age(session.seen, tick) * TICK_S
        told = self._told(name_of_session(key), tick)
        if told is not None:
            return Known.SESSION_TOLD, told.backend, 0.0
        if session is not None:
            return Known.SESSION_PAST, session.backend, age(session.seen, tick) * TICK_S
        return Known.NOTHING, 0, 0.0

    def _told(self, name: Name, tick: int) -> Told | None:
        told = self.ladder.directory.exceptions.get(name)
        if told is None or is_later(tick, told.until) or told.flags & ExceptionFlag.ORPHAN:
            return None
        return told

    # --- What a scan finds -----------------------------------------------------------------------

    def away(
        self, tables: tuple[Slots, ...], known: Mapping[Name, Elsewhere], now: float
    ) -> Iterator[tuple[News, float]]:
        """What has to be told, as daemon/directory/scan.py has it, and when it was seen: live
        sessions that one of these tables, or the one here, looks for elsewhere, that were told to
        be elsewhere, or have left flows behind; and those flows. `known`: what was told of names.
        """
        tick, sessions, seat = self.tick(now), self.ladder.sessions, self._seat
        homes = _agreed((*tables, self._table))
        left = list(self._left_behind(homes, tick))
        split = {(flow.client, self._vip.own_range(flow.client_port)) for flow in left}
        for session in sessions.entries():
            key, backend, flags = session.key, session.backend, 0
            name, number = seat(key)
            if split and (key.client, key.range) in split:
                flags = int(ExceptionFlag.ASK)
            elif homes[number] == backend:
                told = known.get(name)
                if told is None or told.backend in (0, backend):
                    continue
            if sessions.is_live(session, tick):
                seen = now - age(session.seen, tick) * TICK_S
                yield News(name, session.seen, backend, flags), seen
        for flow in left:
            seen = now - flow_age(flow, tick) * TICK_S
            name = self.name_of((flow.client[1] - ADDRESSES, flow.client_port))
            yield News(name, flow.seen, flow.backend), seen

    def _left_behind(self, homes: memoryview, tick: int) -> Iterator[Entry]:
        """Flows that are elsewhere than their session, or away from home without one."""
        ladder, vip, number = self.ladder, self._vip, 0
        high, low = vip.mask
        has_ranges = vip.affinity is Affinity.CLIENT_PORTS
        keyed = () if vip.affinity is Affinity.FLOW else ladder.sessions.entries()
        by_session = {(*s.key.client, s.key.range): s.backend for s in keyed}
        for entry in ladder.table.entries():
            client = entry.client
            if has_ranges:
                number = vip.own_range(entry.client_port)
            backend = by_session.get((client[0] & high, client[1] & low, number))
            if backend is None:
                backend = homes[self.slot_of((client[1] - ADDRESSES, entry.client_port))]
            if backend != entry.backend and not ladder.table.is_out_of_time(entry, tick):
                yield entry


def _seat(slot_key: tuple[int, int], key: Key) -> tuple[Name, int]:
    """Name and slot of a session."""
    number = pair(*key.client, slot_key)
    if key.range:
        number = pair(number, key.range, (slot_key[1], slot_key[0]))
    return name_of_session(key), number % SLOTS


def _agreed(tables: tuple[Slots, ...]) -> memoryview:
    """Home of each slot, with mark TELL; NOBODY where the tables differ."""
    first, *others = ({id(table): table & BACKEND_OR_TELL for table in tables}).values()
    for other in others:
        first = np.where(first == other, first, NOBODY)
    return first.data
