# SPDX-License-Identifier: Apache-2.0
"""The control side of one director in the simulation: news, directory, phases of a change.

The order of exceptions, their lives and what is not worth telling are those of core/exception.py
and daemon/directory; what to do next in a change says core/cluster.py. Nothing is sent here: the
world (sim/world.py) moves messages, and calls.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from limpet.core import cluster
from limpet.core.cluster import NOTHING, Head, Report, Seen, Version
from limpet.core.ownership import Known
from limpet.datapath.abi import ExceptionFlag, ExceptionKind
from limpet.datapath.reference.news import Name
from limpet.datapath.reference.packet import Kind
from limpet.sim.datapath import DataPath, Flow
from limpet.sim.planning import SLOT_KEY, Plans

GRACE_S, FLOW_S = 1_500.0, 300.0  # as daemon/directory/placement.py has them
SKEW_S = 10.0  # by which the clock of whoever is overruled may be ahead
ALL_LEFT_S = 60.0  # that an owner's answer stays
REMEMBERED = 1_024  # reports and versions, which are the same over and over
SILENT_S = (
    1.0  # after which a director that does not answer is not waited for (daemon/ownership/peers.py)
)
ORPHAN_S = 1.0  # that a flow which nobody knows is not asked for again


class Entry(NamedTuple):
    """An exception in a log. Of one name the greatest counts, from the generation on."""

    generation: int
    time: float
    origin: int
    expiry: float
    backend: int
    flags: int
    name: Name


@dataclass(slots=True)
class Question:
    """A flow that is asked for, and its packets that wait."""

    number: int
    began: float
    kinds: list[Kind]
    left: set[int]  # peers that have not answered
    best: tuple[int, float, int] = (99, 0.0, 0)  # rank, idle seconds, backend
    heard: dict[int, int] = field(default_factory=dict)  # director -> backend that it said; 0: none


@dataclass(slots=True)
class Director:
    """One director. Versions are generations; 0 is none."""

    number: int
    pop: int
    path: DataPath
    is_up: bool = True  # the machine
    has_daemon: bool = True
    is_cut: bool = False  # from the store
    contact: float = 0.0  # when it was last in reach of the store
    returned: float = -1e9  # when it was in reach again
    current: int = 0
    marked: int = 0
    prepared: int = 0
    sequence: int = 0
    loaded: int = 0
    boots: int = 0  # of the machine
    known: dict[Name, Entry] = field(default_factory=dict)
    queue: list[Entry] = field(default_factory=list)
    is_flushing: bool = False
    watermarks: list[int] = field(default_factory=list)
    questions: dict[Flow, Question] = field(default_factory=dict)
    unheard: dict[int, float] = field(default_factory=dict)  # director -> since when

    @property
    def is_online(self) -> bool:
        """Whether its daemon runs, and reaches the store."""
        return self.is_up and self.has_daemon and not self.is_cut

    # --- News and directory ----------------------------------------------------------------------

    def hear(self, now: float) -> None:
        """Queue what the data path has to tell."""
        for news in self.path.news():
            lasts = GRACE_S if news.name.kind is ExceptionKind.SESSION else FLOW_S
            self._tell(news.name, now, now + lasts, news.backend, news.flags, is_news=True)

    def scan(self, plans: Plans, versions: tuple[int, ...], now: float) -> None:
        """Queue all sessions that one of these versions looks for elsewhere."""
        tables = tuple(plans.slots(n) for n in versions)
        idle = plans.timeouts.tcp_established_s
        for news, seen in list(self.path.away(tables, self.known, now)):
            until = seen + idle + GRACE_S
            self._tell(news.name, seen, until, news.backend, news.flags, is_news=False)

    def _tell(
        self, name: Name, time: float, expiry: float, backend: int, flags: int, *, is_news: bool
    ) -> None:
        known = self.known.get(name)
        if known is not None and known.expiry > time:
            if known.backend == backend:
                flags |= known.flags & ExceptionFlag.ASK
                if flags == known.flags and expiry - known.expiry <= GRACE_S / 2:
                    return
                expiry = max(expiry, known.expiry)
            elif time + (SKEW_S if is_news else 0.0) <= known.time:
                return
        if known is not None:
            time = max(time, known.time + 0.001)
        entry = Entry(self.current, time, self.number, expiry, backend, flags, name)
        self.queue.append(entry)
        self.learn(entry)

    def learn(self, entry: Entry, *, is_own_of_before: bool = False) -> None:
        """Merge an entry. Own ones are not for the data path: its tables know better."""
        known = self.known.get(entry.name)
        if known is not None and known >= entry:
            return
        self.known[entry.name] = entry
        if entry.origin != self.number or is_own_of_before:
            self.path.put(entry.name, entry.backend, entry.flags, entry.time, entry.expiry)
        elif known is not None and known.origin != self.number:
            self.path.remove(entry.name)

    def forget(self, name: Name, told: Entry | None) -> None:
        """What it said of a name, but not to the others; what is told counts again."""
        self.known.pop(name, None)
        if told is not None:
            self.learn(told)

    # --- Changes of tables -----------------------------------------------------------------------

    def report(self) -> Report:
        """What it says of itself."""
        return _report(self.number, self.current, self.prepared, self.sequence, self.loaded)

    def next_step(self, head: Head, reports: dict[str, Seen], now: float) -> cluster.Action:
        """What core/cluster.py says."""
        me = cluster.Member(
            str(self.number), version(self.current), version(self.prepared), version(self.loaded)
        )
        marks = {str(origin): at for origin, at in enumerate(self.watermarks)}
        return cluster.follow(head, me, reports, marks, now)

    def show(self, plans: Plans, now: float) -> None:
        """Bring the current version, with the marks of the one to come, into the data path."""
        following = self.marked if self.marked > self.current else 0
        cut = not self.is_online and now - self.contact > cluster.DOUBT_S
        self.path.load(plans.image(self.current, following, str(self.pop), now, is_cut_off=cut))

    # --- Answers ---------------------------------------------------------------------------------

    def is_answered_by(self, peers: set[int], now: float) -> bool:
        """Whether one of them is likely to answer yet."""
        return any(now - self.unheard.get(peer, now) <= SILENT_S for peer in peers)

    def decide(self, flow: Flow, question: Question, now: float) -> None:
        """Write down what is known of a flow that was asked for."""
        rank, _, backend = question.best
        name = self.path.name_of(flow)
        if rank == Known.NOTHING or backend not in self.path.rows.backends:
            self.path.put(name, 0, ExceptionFlag.ORPHAN, now, now + ORPHAN_S)
        elif rank == Known.GUESSED:
            flags = ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN
            self.path.put(name, backend, flags, now, now + ORPHAN_S)
        else:
            self.path.put(name, backend, ExceptionFlag.ANSWER, now, now + ALL_LEFT_S)


@lru_cache(maxsize=REMEMBERED)
def version(generation: int) -> Version:
    """A version has no other name here."""
    return Version(generation, "") if generation else NOTHING


@lru_cache(maxsize=REMEMBERED)
def _report(number: int, current: int, prepared: int, sequence: int, loaded: int) -> Report:
    return Report(
        str(number),
        current=version(current),
        prepared=version(prepared),
        sequence=sequence,
        loaded=version(loaded),
    )


def fresh(number: int, pop: int, directors: int, sessions_max: int) -> Director:
    """A director with empty tables."""
    path = DataPath(f"d{number}", SLOT_KEY, sessions_max)
    return Director(number, pop, path, watermarks=[0] * directors)
