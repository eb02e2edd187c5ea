# SPDX-License-Identifier: Apache-2.0
"""The connection table: flow -> backend, set-associative (docs/adr/0001-connection-table.md).

A flow may live in two buckets of eight entries; the second is searched only if the first has
spilled. A live established flow is never evicted: not by a flood of handshakes, not by anything.
Who makes room, best first: an empty place, an expired entry, one that saw a single packet, one that
is closing; among equals the one idle longest. What expired while it was established is late: its
backend is remembered as long as nobody needs the room.

Single-threaded: where the kernel loses a race against another CPU, nothing corresponds here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from limpet.datapath.abi import Event, FlowSession, FlowWord, Life, Limit
from limpet.datapath.reference.hash import REMEMBERED, mix, pair
from limpet.datapath.reference.packet import Kind, Packet, Words
from limpet.datapath.reference.settings import Settings

FRAGMENT_TWEAK = int.from_bytes(b"fragment", "big")  # keeps their hashes apart from those of flows
NO_VIP = 0  # of a fragment's entry
TICKS = 1 << FlowWord.SEEN_BITS  # ticks wrap round
# Members of enumerations that packet after packet is compared with: looking one up costs as much as
# the comparison eight times over.
LATE, ESTABLISHED, OPENING, CLOSING = Life.LATE, Life.ESTABLISHED, Life.OPENING, Life.CLOSING
FIRST, EXISTING, LAST, ANY = Kind.FIRST, Kind.EXISTING, Kind.LAST, Kind.ANY
ICMP_ERROR = Kind.ICMP_ERROR
WAYS = int(Limit.FLOW_WAYS)
SKEW_TICKS, REFRESH_TICKS = int(FlowWord.SKEW_TICKS), int(FlowWord.REFRESH_TICKS)
HALF = WAYS // 2
NEAR_WANTED = 2  # free places in its half with which a flow stays there
IdleLimit = Callable[[int, Life], int]  # VIP and life -> ticks
FREE_WANTED = 4  # free places in its first bucket with which it stays in that


class Flow(NamedTuple):
    """A flow's name, or that of a fragmented datagram, and where the table may keep it."""

    id: int
    vip: int
    check: int
    hash: int
    first: int  # bucket
    second: int  # bucket
    half: int  # first way of the half of a bucket, one cache line, that the flow prefers
    entropy: int  # 32 bits, the same for all packets of the flow


@dataclass(slots=True)
class Entry:
    """One flow's backend, life, the tick of its last packet, and where its session is."""

    id: int
    vip: int
    check: int
    backend: int
    life: Life
    seen: int
    session: int = FlowSession.ALONE  # bits of enum flow_session
    client: Words = (0, 0)
    client_port: int = 0
    place: tuple[int, int] = (0, 0)  # bucket and way

    def copy(self) -> "Entry":
        """As it is now."""
        return Entry(
            *(self.id, self.vip, self.check, self.backend, self.life, self.seen, self.session),
            *(self.client, self.client_port, self.place),
        )

    def word(self) -> int:
        """The entry as the kernel keeps it in one word, without the spill mark."""
        return (
            self.backend << FlowWord.BACKEND_SHIFT
            | self.vip << FlowWord.VIP_SHIFT
            | self.life << FlowWord.LIFE_SHIFT
            | self.session << FlowWord.SESSION_SHIFT
            | self.seen << FlowWord.SEEN_SHIFT
            | self.check << FlowWord.CHECK_SHIFT
        )


class State(NamedTuple):
    """What an entry says beside the flow's name and the time."""

    backend: int
    life: Life
    session: int = FlowSession.ALONE


@dataclass(slots=True)
class Bucket:
    """Eight places in two halves. `spilled`: halves (by their first way) of which a flow that
    prefers them lives elsewhere.
    """

    places: list[Entry | None] = field(default_factory=lambda: [None] * WAYS)
    spilled: set[int] = field(default_factory=set)


class Rank(IntEnum):
    """Who makes room, best first; NONE never does."""

    EMPTY = 0
    EXPIRED = 1
    OPENING = 2
    CLOSING = 3
    NONE = 4


EMPTY, EXPIRED, NONE = Rank.EMPTY, Rank.EXPIRED, Rank.NONE
EVICTED = {
    Rank.EXPIRED: Event.EVICTED_EXPIRED,
    Rank.OPENING: Event.EVICTED_OPENING,
    Rank.CLOSING: Event.EVICTED_CLOSING,
}


class Room(NamedTuple):
    """The best place of a bucket for a new entry."""

    bucket: int
    way: int
    rank: Rank
    free: int  # places of the bucket that are empty or expired

    def is_better(self, first: "Room") -> bool:
        """Whether this place, of the second bucket, is better than that of the first.

        A flow leaves its first bucket before that is full: then both fill evenly.
        """
        if self.free or first.free:
            return self.free > first.free
        return self.rank < first.rank


def life_after(life: Life, kind: Kind) -> Life:
    """Life of a flow after one more packet."""
    if kind is LAST:
        return CLOSING
    if life is OPENING and kind is EXISTING:
        return ESTABLISHED
    if life is OPENING and kind is ANY:
        return Life.DATAGRAM
    return life


def flow_age(entry: Entry | None, now: int) -> int:
    """Idle ticks. A tick that lies ahead, stored by another CPU, is no age."""
    if entry is None:
        return 0
    ahead = (now - entry.seen + SKEW_TICKS) % TICKS
    return ahead - SKEW_TICKS if ahead > SKEW_TICKS else 0


@lru_cache(maxsize=REMEMBERED)
def _flow(number: int, vip: int, tweak: int, key: int, mask: int) -> Flow:
    hashed = mix(number ^ key ^ tweak)
    check = hashed >> FlowWord.CHECK_SHIFT
    if vip == NO_VIP:
        check |= 1  # never the check of an empty entry
    first, second = hashed & mask, hashed >> 24 & mask
    if second == first:
        second ^= 1 & mask
    half, entropy = hashed >> 48 & HALF, hashed >> 20 & 0xFFFF_FFFF
    return Flow(number, vip, check, hashed, first, second, half, entropy)


class ConnectionTable:
    """All entries. `now` is a tick; every method takes it from the caller."""

    def __init__(self, settings: Settings, idle_limit: IdleLimit) -> None:
        self._key, self._mask = settings.flow_key, settings.bucket_mask
        self._idle_limit = idle_limit
        self._buckets: dict[int, Bucket] = defaultdict(Bucket)
        self._by_place: dict[tuple[int, int], Entry] = {}  # the same: bucket and way

    # --- Names ----------------------------------------------------------------------------------

    def name(self, p: Packet, vip: int) -> Flow:
        """IPv4 flows have an exact id; IPv6 flows a keyed digest, beside the VIP and the check.

        The place does not depend on the VIP.
        """
        number = p.client_port << 16 | p.vip_port
        if p.family == 4:  # as `_number` has it: most packets come by here
            number |= (p.client[1] & 0xFFFF_FFFF) << 32
        else:
            number = self._number(p, number)
        return _flow(number, vip, 0, self._key[0], self._mask)

    def name_fragment(self, p: Packet, address_id: int) -> Flow:
        """All fragments of a datagram share a name: client, VIP address, protocol, datagram."""
        kin = (address_id << 5 | p.protocol & 0x1F) & 0xFFFF
        number = self._number(p, p.datagram << 16 | kin)
        return _flow(number, NO_VIP, FRAGMENT_TWEAK, self._key[0], self._mask)

    def _number(self, p: Packet, rest: int) -> int:
        if p.family == 4:
            return (p.client[1] & 0xFFFF_FFFF) << 32 | rest
        return mix(pair(*p.client, self._key) ^ rest)

    # --- Lookup ---------------------------------------------------------------------------------

    def find(self, flow: Flow) -> Entry | None:
        """The flow's entry, live or expired."""
        number, vip, check, _, first, _, half, _ = flow
        bucket = self._buckets.get(first)
        if bucket is None:
            return None
        for entry in bucket.places[half : half + HALF]:
            if (
                entry is not None
                and entry.id == number
                and entry.vip == vip
                and entry.check == check
            ):
                return entry
        return self._find_spilled(bucket, flow) if half in bucket.spilled else None

    def _find_spilled(self, bucket: Bucket, flow: Flow) -> Entry | None:
        others = self._order(self._buckets[flow.second].places, flow)
        return self._find_in([*self._order(bucket.places, flow)[HALF:], *others], flow)

    def _order(self, places: list[Entry | None], flow: Flow) -> list[Entry | None]:
        """The places of a bucket, the flow's half first."""
        return [places[way ^ flow.half] for way in range(WAYS)]

    def _find_in(self, places: list[Entry | None], flow: Flow) -> Entry | None:
        for entry in places:
            if (
                entry is not None
                and entry.id == flow.id
                and entry.vip == flow.vip
                and entry.check == flow.check
            ):
                return entry
        return None

    def has_expired(self, entry: Entry, now: int) -> bool:
        """Whether an entry has been idle for too long; true of what is only remembered."""
        return entry.life is LATE or self.is_out_of_time(entry, now)

    def is_out_of_time(self, entry: Entry, now: int) -> bool:
        """Whether an entry is older than the limit of its life."""
        return flow_age(entry, now) > self._idle_limit(entry.vip, entry.life)

    def is_usable(self, entry: Entry, kind: Kind, now: int) -> bool:
        """Whether an entry decides where a packet goes: live, and not closed and now opened
        anew.
        """
        life = entry.life
        if life is LATE or flow_age(entry, now) > self._idle_limit(entry.vip, life):
            return False
        return kind is not FIRST or life is not CLOSING

    # --- Change ---------------------------------------------------------------------------------

    def next_life(self, entry: Entry, kind: Kind, now: int) -> Life | None:
        """A packet of the flow: what its life becomes, None if nothing is written.

        A use refreshes the entry, but not more often than every REFRESH_TICKS. An ICMP error about
        a flow is no sign of life.
        """
        after = life_after(entry.life, kind)
        if kind is ICMP_ERROR or (after is entry.life and flow_age(entry, now) < REFRESH_TICKS):
            return None
        return after

    def touch(self, entry: Entry, life: Life, now: int) -> None:
        """Write that."""
        entry.life, entry.seen = life, now % TICKS

    def renew(self, entry: Entry, state: State, now: int) -> Entry:
        """Give the entry that a flow has already to another backend, or another life: the entry
        before.
        """
        before = entry.copy()
        entry.backend, entry.life, entry.session = state.backend, state.life, state.session
        entry.seen = now % TICKS
        return before

    def create(
        self, flow: Flow, state: State, p: Packet, now: int
    ) -> tuple[list[Event], Entry | None]:
        """Find room for a flow and write it there: what happened, and who made room.

        Refused if both buckets are full of live flows.
        """
        room = self._room(flow, now)
        if room.rank is NONE:
            return [Event.REFUSED_FULL], None
        events = [Event.FLOW_SPILLED] if room.bucket != flow.first else []
        if events or room.way & HALF != flow.half:
            self._buckets[flow.first].spilled.add(flow.half)
        places = self._buckets[room.bucket].places
        before = places[room.way]
        entry = Entry(
            flow.id,
            flow.vip,
            flow.check,
            *(state.backend, state.life, now % TICKS, state.session),
            *(p.client, p.client_port, (room.bucket, room.way)),
        )
        places[room.way] = self._by_place[entry.place] = entry
        events.append(Event.FLOW_CREATED)
        if room.rank in EVICTED:
            events.append(EVICTED[room.rank])
        return events, before

    def forget(self, entry: Entry) -> None:
        """Empty its place."""
        bucket, way = entry.place
        self._buckets[bucket].places[way] = None
        del self._by_place[entry.place]

    def _room(self, flow: Flow, now: int) -> Room:
        """The flow's half of its first bucket if there is room, else the best of both buckets."""
        near = self._best(flow.first, flow, HALF, now)
        if near.free >= NEAR_WANTED:
            return near
        first = self._best(flow.first, flow, WAYS, now)
        if first.free >= FREE_WANTED:
            return first
        second = self._best(flow.second, flow, WAYS, now)
        return second if second.is_better(first) else first

    def _best(self, number: int, flow: Flow, ways: int, now: int) -> Room:
        """The best of the first `ways` places of a bucket, counted from the flow's half."""
        places, half = self._buckets[number].places, flow.half
        best, rank, oldest, free = half, NONE, -1, 0
        for nth in range(ways):
            way = nth ^ half
            entry = places[way]
            one = EMPTY if entry is None else self._rank(entry, now)
            free += one <= EXPIRED
            if one <= rank:
                age = 0 if entry is None else flow_age(entry, now)
                if one < rank or age > oldest:
                    best, rank, oldest = way, one, age
        return Room(number, best, rank, free)

    def _rank(self, entry: Entry, now: int) -> Rank:
        if self.has_expired(entry, now):
            return EXPIRED
        if entry.life in (OPENING, Life.FRAGMENT):
            return Rank.OPENING
        return Rank.CLOSING if entry.life is CLOSING else NONE

    # --- Contents -------------------------------------------------------------------------------

    def words(self) -> Iterator[tuple[int, int, int, int]]:
        """(bucket, way, id, word) of whatever the kernel's table would have as non-zero words."""
        for number, bucket in sorted(self._buckets.items()):
            for way, entry in enumerate(bucket.places):
                spilled = (way in bucket.spilled) << FlowWord.SPILLED_SHIFT
                if entry is not None:
                    yield number, way, entry.id, entry.word() | spilled
                elif spilled:
                    yield number, way, 0, spilled

    def entries(self) -> list[Entry]:
        """All entries, in no order to rely on."""
        return [*self._by_place.values()]
