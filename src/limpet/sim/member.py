# SPDX-License-Identifier: Apache-2.0
"""The control side of a director as the model check explores it: log, directory, phases, queries.

Each method is one step that the daemon does in one go; between two of them anything may happen
elsewhere. What to do next in a change of tables is decided by core/cluster.py, which of two
exceptions counts by the order of core/exception.py, and what a director answers by its ladder.

`Broken` names parts to leave out on purpose: a check that finds nothing then would prove nothing.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import NamedTuple

from limpet.core import cluster
from limpet.core.cluster import Head, Report, Seen, Version
from limpet.core.ownership import Known
from limpet.datapath.abi import ExceptionFlag, ExceptionKind, Slot
from limpet.sim.ladder import Flow, Ladder, Name, News, Packet, Result, Told


class Broken(Enum):
    """What is left out of the protocol."""

    NOTHING = auto()
    FLIP = auto()  # tables are used before others have loaded what that makes exceptions
    QUERY = auto()  # nobody is asked: a flow without an entry goes home
    SCAN = auto()  # a change of tables publishes nothing
    TELL = auto()  # what begins while a change is under way is not told
    DOUBT = auto()  # slots that are about to move are held for sure
    OWN = auto()  # who comes back with empty tables does not follow what it told before


class LogEntry(NamedTuple):
    """An exception in a log. Of entries with one name the greatest counts, field by field from
    the generation on, as in core/exception.py.
    """

    name: Name
    generation: int
    time: float
    origin: int
    backend: int
    flags: int


Homes = tuple[int, ...]  # backend of each client's slot, by client


@dataclass(slots=True)
class Member:
    """One director. Versions are generations."""

    number: int
    ladder: Ladder
    current: int = 0
    marked: int = 0  # the version that marks are set for,
    prepared: int = 0  # whose exceptions are published,
    sequence: int = 0  # up to here
    loaded: int = 0
    queue: list[LogEntry] = field(default_factory=list)  # not in the log yet
    watermarks: list[int] = field(default_factory=list)  # by origin
    known: dict[Name, LogEntry] = field(default_factory=dict)
    waiting: dict[Flow, Packet] = field(default_factory=dict)  # packets that are held

    def copy(self) -> "Member":
        """Another with the same state."""
        return Member(
            self.number,
            self.ladder.copy(),
            self.current,
            self.marked,
            self.prepared,
            self.sequence,
            self.loaded,
            self.queue.copy(),
            self.watermarks.copy(),
            self.known.copy(),
            self.waiting.copy(),
        )

    # --- Packets ---------------------------------------------------------------------------------

    def run(self, flow: Flow, packet: Packet, now: float) -> Result:
        """A packet of a client comes in. It waits if others have to be asked."""
        result = self.ladder.run(flow, packet, now)
        if result.is_held:
            self.waiting[flow] = packet
        self._take_news(now)
        return result

    def answered(self, flow: Flow, known: Known, backend: int, now: float) -> Result:
        """All that can be known of a flow is; its packet goes on. Backend 0: nobody knows it."""
        flag = int(ExceptionFlag.ANSWER if backend else ExceptionFlag.ORPHAN)
        if known is Known.GUESSED:
            flag |= ExceptionFlag.ORPHAN
        name = (int(ExceptionKind.FLOW), *flow)
        before = self.ladder.directory.get(name)
        self.ladder.directory[name] = Told(backend, now, inf, flag)
        result = self.ladder.run(flow, self.waiting.pop(flow), now)
        if before is None:
            del self.ladder.directory[name]
        else:
            self.ladder.directory[name] = before
        self._take_news(now)
        return result

    def _take_news(self, now: float) -> None:
        for news in self.ladder.news:
            self._queue(news, now)
        self.ladder.news.clear()

    def _queue(self, news: News, now: float) -> None:
        known = self.known.get(news.name)
        time = now if known is None else max(now, known.time + 0.01)
        entry = LogEntry(news.name, self.current, time, self.number, news.backend, news.flags)
        self.queue.append(entry)
        self._learn(entry)

    # --- Directory -------------------------------------------------------------------------------

    def publish(self, log: tuple[LogEntry, ...]) -> tuple[LogEntry, ...]:
        """Its own log with what had to be told."""
        log += tuple(self.queue)
        self.queue.clear()
        return log

    def load(self, origin: int, log: tuple[LogEntry, ...], silence: float) -> None:
        """Read what is new in a log. What was told up to `silence` has lapsed."""
        for entry in log[self.watermarks[origin] :]:
            self._learn(entry, silence)
        self.watermarks[origin] = len(log)

    def recall(self, log: tuple[LogEntry, ...], silence: float) -> None:
        """Its own log, where its tables are empty: it is told of itself as of another."""
        for entry in log:
            self._learn(entry, silence, is_recalled=True)
        self.watermarks[self.number] = len(log)

    def _learn(self, entry: LogEntry, silence: float = -1.0, is_recalled: bool = False) -> None:
        known = self.known.get(entry.name)
        if known is not None and known[1:] >= entry[1:]:
            return
        self.known[entry.name] = entry
        if entry.origin != self.number or is_recalled:
            until = inf if entry.time > silence else -1.0
            self.ladder.directory[entry.name] = Told(entry.backend, entry.time, until, entry.flags)
        elif known is not None:  # what others told is over; its own tables know better
            self.ladder.directory.pop(entry.name, None)

    # --- Changes of tables -----------------------------------------------------------------------

    def report(self) -> Report:
        """What it says of itself."""
        return Report(
            str(self.number),
            current=version(self.current),
            prepared=version(self.prepared),
            sequence=self.sequence,
            loaded=version(self.loaded),
        )

    def next_step(self, head: Head, reports: dict[str, Seen]) -> cluster.Action:
        """What core/cluster.py says."""
        me = cluster.Member(
            str(self.number),
            version(self.current),
            version(self.prepared),
            version(self.loaded),
        )
        marks = {str(origin): at for origin, at in enumerate(self.watermarks)}
        return cluster.follow(head, me, reports, marks, 0.0)

    def mark(self, versions: tuple[Homes, ...], following: int, broken: Broken) -> None:
        """Marks of the slots that a version is about to move."""
        self.marked = following
        self.show(versions, broken)

    def scan(self, versions: tuple[Homes, ...], broken: Broken, now: float) -> None:
        """Queue what the marked version makes exceptions."""
        if broken is not Broken.SCAN:
            for news in self.ladder.away(dict(enumerate(versions[self.marked])), now):
                known = self.known.get(news.name)
                if known is None or known.backend != news.backend:
                    self._queue(news, now)

    def show(self, versions: tuple[Homes, ...], broken: Broken) -> None:
        """Bring the current version, and the marks, into the ladder."""
        following = versions[max(self.marked, self.current)]
        for client, home in enumerate(versions[self.current]):
            is_moving = following[client] != home
            moved = any(v[client] != home for v in versions[1 : self.current])
            mark = 0
            if is_moving and broken is not Broken.TELL:
                mark |= Slot.TELL
            if (moved or (is_moving and broken is not Broken.DOUBT)) and broken is not Broken.QUERY:
                mark |= Slot.UNSURE
            self.ladder.homes[client] = home | mark


def version(generation: int) -> Version:
    """A version has no other name here."""
    return Version(generation, "")
