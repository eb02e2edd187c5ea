# SPDX-License-Identifier: Apache-2.0
"""The session table: affinity key -> backend, four places to a bucket, two buckets to a key.

Keys are compared exactly. The second bucket is searched only if the first entry of the first says
that somebody has spilled. A session stays in its first bucket while three places are free there,
else it goes where more are. Who makes room: an empty place, a session that has expired; only if
both buckets have none, one without an established flow. A live session never does.

What has expired is never followed; it stays as long as nobody needs its place, so that `reassign`
knows who returns. Loads (live sessions by backend) are kept here, because every change of a life or
a backend passes here. Not here: where a new session goes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache, partial
from typing import NamedTuple

from limpet.datapath.abi import Event, FlowSession, Life, Limit, SessionLife, SessionWord
from limpet.datapath.reference.hash import REMEMBERED, mix, pair
from limpet.datapath.reference.packet import Words
from limpet.datapath.reference.rows import Vip
from limpet.datapath.reference.settings import Settings

TICKS = 1 << 32  # ticks of `seen` wrap round
IS_LIVE = (SessionLife.OPENING, SessionLife.LIVE)
LIVE, OPENING = SessionLife.LIVE, SessionLife.OPENING
IN_SESSION, SESSION_SECOND = int(FlowSession.IN_SESSION), int(FlowSession.SESSION_SECOND)
SESSION_WAY, WAYS = int(FlowSession.SESSION_WAY), int(Limit.SESSION_WAYS)
NEAR_WANTED = 3  # free places in its first bucket with which a session stays there
OF_SESSION, OF_OPENING = Life.SESSION, Life.OPENING  # idle limits
IdleLimit = Callable[[int, Life], int]  # VIP and life -> ticks


class Key(NamedTuple):
    """What makes a session one: the client under the VIP's mask, the VIP, and a range of ports."""

    client: Words
    vip: int
    range: int = 0  # 0: all ports, else 1 + range


@dataclass(slots=True)
class Session:
    """An entry, and where it lies."""

    key: Key
    bucket: int
    way: int
    is_second: bool  # in the second bucket of its key
    backend: int
    since: int  # tick
    seen: int
    life: SessionLife = OPENING
    flows: int = 0  # open ones
    is_split: bool = False

    @property
    def place(self) -> int:
        """What a flow's entry says of where its session is (enum flow_session)."""
        return IN_SESSION | (SESSION_SECOND if self.is_second else 0) | self.way

    def word(self) -> int:
        """The entry's word as the kernel keeps it, without the spill mark."""
        since = self.since >> SessionWord.SINCE_UNIT & (1 << SessionWord.SINCE_BITS) - 1
        return (
            self.backend << SessionWord.BACKEND_SHIFT
            | self.key.vip << SessionWord.VIP_SHIFT
            | self.life << SessionWord.LIFE_SHIFT
            | self.is_split << SessionWord.SPLIT_SHIFT
            | self.key.range << SessionWord.RANGE_SHIFT
            | since << SessionWord.SINCE_SHIFT
        )


class Seat(IntEnum):
    """Who makes room, best first; TAKEN never does."""

    FREE = 0
    OPENING = 1
    TAKEN = 2


FREE, TAKEN = Seat.FREE, Seat.TAKEN


@dataclass(slots=True)
class Bucket:
    """Four places. `has_spilled`: a session of it lives in its second bucket."""

    places: list[Session | None] = field(default_factory=lambda: [None] * WAYS)
    has_spilled: bool = False


class Seats(NamedTuple):
    """What a bucket has to offer: its best way, what makes room there, how many places are free."""

    way: int
    rank: Seat
    free: int

    def is_better_than(self, first: "Seats") -> bool:
        """As the second bucket of a key whose first is this."""
        if first.free >= NEAR_WANTED:
            return False
        if self.free or first.free:
            return self.free > first.free
        return self.rank < first.rank


def key_of(vip: Vip, client: Words, ports: int) -> Key:
    """Key of a client's session; `ports` is its range."""
    (high, low), (keep_high, keep_low) = client, vip.mask
    return tuple.__new__(Key, ((high & keep_high, low & keep_low), vip.id, ports))


def age(seen: int, now: int) -> int:
    """Idle ticks. A tick that lies ahead, stored by another CPU, is no age."""
    ahead = (now - seen) % TICKS
    return 0 if ahead >= TICKS // 2 else ahead


def _places(flow_key: Words, mask: int, key: Key) -> tuple[int, int]:
    hashed = mix(pair(*key.client, flow_key) ^ (key.vip << 17 | key.range))
    first, second = hashed & mask, hashed >> 24 & mask
    return first, second ^ (1 & mask) if second == first else second


class SessionTable:
    """All sessions. `now` is a tick; every method takes it from the caller."""

    def __init__(self, settings: Settings, idle_limit: IdleLimit) -> None:
        # The two buckets of a key.
        self.places = lru_cache(REMEMBERED)(
            partial(_places, settings.flow_key, settings.session_mask)
        )
        self._idle_limit = idle_limit
        self._buckets: dict[int, Bucket] = defaultdict(Bucket)
        self._by_place: dict[tuple[int, int], Session] = {}  # the same: bucket and way
        self.loads: Counter[int] = Counter()  # live sessions by backend

    # --- Lookup ---------------------------------------------------------------------------------

    def find(self, key: Key) -> Session | None:
        """The entry of a key, live or not."""
        first, second = self.places(key)
        bucket = self._buckets.get(first)
        if bucket is None:
            return None
        found = self._find_in(bucket, key)
        if found is None and bucket.has_spilled:
            found = self._find_in(self._buckets[second], key)
        return found

    def _find_in(self, bucket: Bucket, key: Key) -> Session | None:
        for session in bucket.places:
            if session is not None and session.key == key:
                return session
        return None

    def refresh_place(self, key: Key, place: int, now: int) -> None:
        """A packet of a flow, whose entry says where its session is: whoever is there is seen."""
        bucket = self.places(key)[bool(place & SESSION_SECOND)]
        session = self._buckets[bucket].places[place & SESSION_WAY]
        if session is not None:
            session.seen = now

    def is_live(self, session: Session, now: int) -> bool:
        """Whether a session may be followed: neither expired nor only remembered."""
        if session.life is LIVE:
            life = OF_SESSION
        elif session.life is OPENING:
            life = OF_OPENING
        else:
            return False
        ahead = (now - session.seen) % TICKS  # idle ticks, as `age` has them
        return ahead <= self._idle_limit(session.key.vip, life) or ahead >= TICKS // 2

    # --- Change ---------------------------------------------------------------------------------

    def add_load(self, backend: int, change: int) -> None:
        """More or fewer live sessions of a backend."""
        self.loads[backend] = max(0, self.loads.get(backend, 0) + change)

    def opened(self, session: Session) -> None:
        """One open flow more; with the first, the session makes no room any more."""
        session.flows += 1
        if session.life is OPENING:
            session.life = LIVE

    def begin(self, key: Key, backend: int, now: int) -> tuple[Session | None, list[Event]]:
        """A session begins, in the place that its key had or in one that is free; None if there is
        none.
        """
        known, events = self.find(key), []
        if known is None:
            seat = self._seat(key, now)
            if seat is None:
                return None, [Event.SESSION_FULL]
            bucket, way, is_second, rank = seat
            if is_second:
                self._buckets[self.places(key)[0]].has_spilled = True
                events.append(Event.SESSION_SPILLED)
            if rank is Seat.OPENING:
                events.append(Event.SESSION_EVICTED)
        else:
            bucket, way, is_second = known.bucket, known.way, known.is_second
        before = self._buckets[bucket].places[way]
        if before is not None and before.life in IS_LIVE:
            self.add_load(before.backend, -1)
        session = Session(key, bucket, way, is_second, backend, since=now, seen=now)
        # Flows of the same session that nobody has seen to end yet will be taken off.
        session.flows = 0 if known is None else max(0, known.flows)
        self._buckets[bucket].places[way] = self._by_place[bucket, way] = session
        self.add_load(backend, 1)
        return session, [*events, Event.SESSION_CREATED]

    def move(self, session: Session, backend: int) -> list[Event]:
        """A live session gets another backend."""
        self.add_load(session.backend, -1)
        self.add_load(backend, 1)
        session.backend = backend
        return [Event.SESSION_MOVED]

    def _seat(self, key: Key, now: int) -> tuple[int, int, bool, Seat] | None:
        """The best place of both buckets: bucket, way, whether it is the second, and what it is."""
        places = self.places(key)
        best, goes_on = self._seats(places[0], now), False
        if best.free < NEAR_WANTED:
            second = self._seats(places[1], now)
            goes_on = second.is_better_than(best)
            best = second if goes_on else best
        return None if best.rank is TAKEN else (places[goes_on], best.way, goes_on, best.rank)

    def _seats(self, bucket: int, now: int) -> Seats:
        ranks = [self._rank(session, now) for session in self._buckets[bucket].places]
        best = min(ranks)
        return Seats(ranks.index(best), best, ranks.count(FREE))

    def _rank(self, session: Session | None, now: int) -> Seat:
        if session is None or not self.is_live(session, now):
            return FREE
        return Seat.OPENING if session.life is OPENING else TAKEN

    def forget(self, session: Session) -> None:
        """Empty its place."""
        self._buckets[session.bucket].places[session.way] = None
        del self._by_place[session.bucket, session.way]

    # --- Contents -------------------------------------------------------------------------------

    def entries(self) -> list[Session]:
        """All sessions, in no order to rely on."""
        return [*self._by_place.values()]

    def rows(self) -> Iterator[tuple[int, int, Session | None, bool]]:
        """(bucket, way, session, spill mark) of every place that is not zero in the kernel."""
        for number, bucket in sorted(self._buckets.items()):
            for way, session in enumerate(bucket.places):
                is_marked = bucket.has_spilled and way == 0
                if session is not None or is_marked:
                    yield number, way, session, is_marked
