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

from limpet.datapath.abi import Event, FlowSession, Life, Limit, SessionLife, SessionWord
from limpet.datapath.reference.hash import mix, pair
from limpet.datapath.reference.packet import Words
from limpet.datapath.reference.rows import Vip
from limpet.datapath.reference.settings import Settings

TICKS = 1 << 32  # ticks of `seen` wrap round
IS_LIVE = (SessionLife.OPENING, SessionLife.LIVE)
NEAR_WANTED = 3  # free places in its first bucket with which a session stays there
IdleLimit = Callable[[int, Life], int]  # VIP and life -> ticks


@dataclass(frozen=True, slots=True)
class Key:
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
    life: SessionLife = SessionLife.OPENING
    flows: int = 0  # open ones
    is_split: bool = False

    @property
    def place(self) -> int:
        """What a flow's entry says of where its session is (enum flow_session)."""
        second = FlowSession.SESSION_SECOND if self.is_second else 0
        return FlowSession.IN_SESSION | second | self.way

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


@dataclass(slots=True)
class Bucket:
    """Four places. `has_spilled`: a session of it lives in its second bucket."""

    places: list[Session | None] = field(default_factory=lambda: [None] * Limit.SESSION_WAYS)
    has_spilled: bool = False


@dataclass(frozen=True, slots=True)
class Seats:
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
    return Key((high & keep_high, low & keep_low), vip.id, ports)


def age(seen: int, now: int) -> int:
    """Idle ticks. A tick that lies ahead, stored by another CPU, is no age."""
    ahead = (now - seen) % TICKS
    return 0 if ahead >= TICKS // 2 else ahead


class SessionTable:
    """All sessions. `now` is a tick; every method takes it from the caller."""

    def __init__(self, settings: Settings, idle_limit: IdleLimit) -> None:
        self._key, self._mask = settings.flow_key, settings.session_mask
        self._idle_limit = idle_limit
        self._buckets: dict[int, Bucket] = defaultdict(Bucket)
        self.loads: Counter[int] = Counter()  # live sessions by backend

    # --- Lookup ---------------------------------------------------------------------------------

    def places(self, key: Key) -> tuple[int, int]:
        """The two buckets of a key."""
        hashed = mix(pair(*key.client, self._key) ^ (key.vip << 17 | key.range))
        first, second = hashed & self._mask, hashed >> 24 & self._mask
        return first, second ^ (1 & self._mask) if second == first else second

    def find(self, key: Key) -> Session | None:
        """The entry of a key, live or not."""
        first, second = self.places(key)
        found = self._find_in(first, key)
        if found is None and self._buckets[first].has_spilled:
            found = self._find_in(second, key)
        return found

    def _find_in(self, bucket: int, key: Key) -> Session | None:
        for session in self._buckets[bucket].places:
            if session is not None and session.key == key:
                return session
        return None

    def refresh_place(self, key: Key, place: int, now: int) -> None:
        """A packet of a flow, whose entry says where its session is: whoever is there is seen."""
        bucket = self.places(key)[bool(place & FlowSession.SESSION_SECOND)]
        session = self._buckets[bucket].places[place & FlowSession.SESSION_WAY]
        if session is not None:
            session.seen = now

    def is_live(self, session: Session, now: int) -> bool:
        """Whether a session may be followed: neither expired nor only remembered."""
        if session.life not in IS_LIVE:
            return False
        life = Life.OPENING if session.life is SessionLife.OPENING else Life.SESSION
        return age(session.seen, now) <= self._idle_limit(session.key.vip, life)

    # --- Change ---------------------------------------------------------------------------------

    def add_load(self, backend: int, change: int) -> None:
        """More or fewer live sessions of a backend."""
        self.loads[backend] = max(0, self.loads[backend] + change)

    def opened(self, session: Session) -> None:
        """One open flow more; with the first, the session makes no room any more."""
        session.flows += 1
        if session.life is SessionLife.OPENING:
            session.life = SessionLife.LIVE

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
        self._buckets[bucket].places[way] = session
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
        first, second = (self._seats(bucket, now) for bucket in places)
        goes_on = second.is_better_than(first)
        best = second if goes_on else first
        return None if best.rank is Seat.TAKEN else (places[goes_on], best.way, goes_on, best.rank)

    def _seats(self, bucket: int, now: int) -> Seats:
        ranks = [self._rank(session, now) for session in self._buckets[bucket].places]
        best = min(ranks)
        return Seats(ranks.index(best), best, ranks.count(Seat.FREE))

    def _rank(self, session: Session | None, now: int) -> Seat:
        if session is None or not self.is_live(session, now):
            return Seat.FREE
        return Seat.OPENING if session.life is SessionLife.OPENING else Seat.TAKEN

    def forget(self, session: Session) -> None:
        """Empty its place."""
        self._buckets[session.bucket].places[session.way] = None

    # --- Contents -------------------------------------------------------------------------------

    def entries(self) -> Iterator[Session]:
        """All sessions, in table order."""
        for _, _, session, _ in self.rows():
            if session is not None:
                yield session

    def rows(self) -> Iterator[tuple[int, int, Session | None, bool]]:
        """(bucket, way, session, spill mark) of every place that is not zero in the kernel."""
        for number, bucket in sorted(self._buckets.items()):
            for way, session in enumerate(bucket.places):
                is_marked = bucket.has_spilled and way == 0
                if session is not None or is_marked:
                    yield number, way, session, is_marked
