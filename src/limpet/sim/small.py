# SPDX-License-Identifier: Apache-2.0
"""The small world of the model check: two directors in two PoPs, three backends, two clients.

A world is a state, `steps` are all that can happen next, `after` is the state that follows, or a
`Violation`. Steps of people, clients and faults are counted; steps of the protocol (a message
arrives, a daemon does its next step) are free, and happen in any order or not at all yet.

A flow that is idle for too long has no session any more: `late` says so, and it may be anybody's
then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import NamedTuple

from limpet.core import cluster
from limpet.core.cluster import Head, Loaded, Put, Seen
from limpet.core.ownership import Known
from limpet.datapath.abi import Rung
from limpet.sim.ladder import Flow, Ladder, Life, Packet, Result
from limpet.sim.member import Broken, Homes, LogEntry, Member, version
from limpet.sim.smallslots import BACKENDS, FIRST_POOL, homes

DIRECTORS, CLIENTS, FLOWS_EACH = 2, 2, 2
LONG_AGO = -1000.0
FREE = frozenset({"publish", "load", "control", "lead", "ask", "answer"})  # of the protocol
AT_DIRECTOR = frozenset({"syn", "data", "ask", "answer", "publish", "load", "control", "crash"})
Step = tuple[str | int, ...]  # its name, and numbers
SENT, ANSWERED, LOST = 0, 1, 2


class Asked(NamedTuple):
    """A question. `was_silent`: when it arrived, only a lost director had known its client."""

    state: int = SENT
    known: int = Known.NOTHING
    backend: int = 0
    was_silent: bool = False


class Violation(Exception):  # noqa: N818 - what is looked for, not an error
    """A promise was not kept."""


@dataclass(slots=True)
class World:
    """Everything there is."""

    broken: Broken
    members: list[Member]
    pools: tuple[frozenset[int], ...] = (FIRST_POOL,)
    versions: tuple[Homes, ...] = ()  # by generation; the first is of no generation
    current: int = 1  # the head
    following: int = 0
    logs: list[tuple[LogEntry, ...]] = field(default_factory=list)
    reports: list[cluster.Report] = field(default_factory=list)
    truth: dict[Flow, int] = field(default_factory=dict)  # backend that has the connection
    clients: dict[int, int] = field(default_factory=dict)  # backend of live sessions
    late: frozenset[Flow] = frozenset()
    excused: frozenset[int] = frozenset()  # clients of which something was lost in a crash
    silent: frozenset[int] = frozenset()  # clients that only a lost director knew, until they speak
    asked: dict[tuple[int, Flow], Asked] = field(default_factory=dict)
    now: int = 0  # steps of people, clients and faults so far
    senders: tuple[int, ...] = tuple(range(CLIENTS))  # who of the clients is there
    silence: int = -1  # `now` when everybody was silent for so long that what was told has lapsed

    def copy(self, touched: int) -> "World":
        """Another in the same state, in which one director may be changed; -1: all may be."""
        return World(
            self.broken,
            [m.copy() if touched in (n, -1) else m for n, m in enumerate(self.members)],
            self.pools,
            self.versions,
            self.current,
            self.following,
            self.logs.copy(),
            self.reports.copy(),
            self.truth.copy(),
            self.clients.copy(),
            self.late,
            self.excused,
            self.silent,
            self.asked.copy(),
            self.now,
            self.senders,
            self.silence,
        )


def first_world(
    broken: Broken = Broken.NOTHING, senders: tuple[int, ...] = tuple(range(CLIENTS))
) -> World:
    """Two directors that run the first table."""
    at_first = homes((FIRST_POOL,))
    world = World(broken, [], versions=(at_first, at_first), senders=senders)
    for number in range(DIRECTORS):
        world.members.append(_fresh(number))
        world.logs.append(())
    for member in world.members:
        member.show(world.versions, broken)
        world.reports.append(member.report())
    return world


def _fresh(number: int) -> Member:
    ladder = Ladder(inf, rows=BACKENDS)
    return Member(number, ladder, 1, 1, 1, 0, 1, watermarks=[0] * DIRECTORS)


# --- What can happen next ------------------------------------------------------------------------


def steps(w: World) -> Iterator[Step]:
    """All that can happen next."""
    yield from _free_steps(w)
    yield from _client_steps(w)
    if not w.following:
        for number in sorted(BACKENDS):
            if w.pools[-1] ^ {number}:
                yield ("pool", number)
    if w.truth:
        yield ("expire",)
    for number in range(DIRECTORS):
        yield ("crash", number)
    for (number, flow), asked in w.asked.items():
        if asked.state != LOST:
            yield ("lose", number, *flow)


def _free_steps(w: World) -> Iterator[Step]:
    head, seen = _head(w), _seen(w)
    for member in w.members:
        if member.queue:
            yield ("publish", member.number)
        for origin, log in enumerate(w.logs):
            if member.watermarks[origin] < len(log):
                yield ("load", member.number, origin)
        if not isinstance(member.next_step(head, seen), cluster.Wait):
            yield ("control", member.number)
    if isinstance(_lead(w, head, seen), Put):
        yield ("lead",)
    for (number, flow), asked in w.asked.items():
        yield ("ask" if asked.state == SENT else "answer", number, *flow)


def _client_steps(w: World) -> Iterator[Step]:
    for client in w.senders:
        ports = [port for c, port in w.truth if c == client]
        for number, member in enumerate(w.members):
            if len(ports) < FLOWS_EACH:
                yield ("syn", number, client, max(ports, default=0) + 1)
            for port in ports:
                if (client, port) not in member.waiting:
                    yield ("data", number, client, port)


# --- The state that follows ----------------------------------------------------------------------


def after(w: World, step: Step) -> World:
    """The state after a step. Raises Violation."""
    w = w.copy(int(step[1]) if step[0] in AT_DIRECTOR else -1)
    if step[0] not in FREE:
        w.now += 1
    STEPS[str(step[0])](w, *step[1:])
    return w


def _syn(w: World, number: int, client: int, port: int) -> None:
    flow = (client, port)
    result = w.members[number].run(flow, Packet.SYN, w.now)
    if not result.backend:
        raise Violation(f"SYN of client {client} was dropped at director {number}")
    w.truth[flow] = result.backend
    session = w.clients.setdefault(client, result.backend)
    if session != result.backend:
        _excuse_silent(w, number, client, session)
        if client not in w.excused and is_quiet(w, number):
            raise Violation(
                f"new flow of client {client} went to backend {result.backend} by "
                f"{result.rung.name}, its session is at {session}"
            )
        w.excused |= {client}
    w.silent -= {client}


def _excuse_silent(w: World, number: int, client: int, backend: int) -> None:
    """Who is lost with the only director that knew, and silent while the slot moves, is lost."""
    is_behind = w.members[number].current != w.current
    if client in w.silent and (is_behind or w.versions[w.current][client] != backend):
        w.excused |= {client}


def is_quiet(w: World, number: int) -> bool:
    """Whether everything that others had to tell has arrived at this director."""
    member = w.members[number]
    has_loaded = all(at == len(log) for at, log in zip(member.watermarks, w.logs, strict=True))
    is_told = not any(other.queue for other in w.members)
    return has_loaded and is_told and all(m.current == w.current for m in w.members)


def _data(w: World, number: int, client: int, port: int) -> None:
    flow = (client, port)
    result = w.members[number].run(flow, Packet.DATA, w.now)
    if result.is_held:
        w.asked[number, flow] = Asked()
    else:
        _judge(w, number, flow, result, is_lost=False)


def _judge(w: World, number: int, flow: Flow, result: Result, is_lost: bool) -> None:
    """An existing flow's packet was sent on: to whom it belongs, or counted, or neither."""
    if result.backend == w.truth[flow]:
        if result.rung is Rung.ORPHAN:  # the connection lives on, its client's session does not
            w.excused |= {flow[0]}
        w.silent -= {flow[0]}
        return
    _excuse_silent(w, number, flow[0], w.truth[flow])
    where = f"flow {flow} of backend {w.truth[flow]} went to {result.backend}"
    del w.truth[flow]
    if flow in w.late or flow[0] in w.excused:
        return
    if result.rung is not Rung.ORPHAN:
        raise Violation(f"{where} by {result.rung.name} at director {number}: misdelivered")
    if not is_lost:
        raise Violation(f"{where} at director {number}: an orphan without a reason")
    w.excused |= {flow[0]}


def _ask(w: World, number: int, client: int, port: int) -> None:
    """The question arrives at the other director."""
    other = w.members[1 - number]
    known, backend = other.ladder.knows((client, port), w.now)
    if w.broken is Broken.QUERY:
        known, backend = Known.NOTHING, 0
    w.asked[number, (client, port)] = Asked(ANSWERED, known, backend, client in w.silent)


def _answer(w: World, number: int, client: int, port: int) -> None:
    """The answer arrives, or none will."""
    flow = (client, port)
    state, known, backend, was_silent = w.asked.pop((number, flow))
    if was_silent:  # whatever it has said since
        w.silent |= {client}
    result = w.members[number].answered(flow, Known(known), backend, w.now)
    if flow in w.truth:
        _judge(w, number, flow, result, is_lost=state == LOST)


def _lose(w: World, number: int, client: int, port: int) -> None:
    """All tries of a question or its answer are lost."""
    w.asked[number, (client, port)] = Asked(LOST)


def _publish(w: World, number: int) -> None:
    w.logs[number] = w.members[number].publish(w.logs[number])


def _load(w: World, number: int, origin: int) -> None:
    w.members[number].load(origin, w.logs[origin], w.silence)


def _pool(w: World, number: int) -> None:
    """A backend is added or removed: the leader proposes a table."""
    pools = (*w.pools, w.pools[-1] ^ {number})
    w.pools, w.versions = pools, (*w.versions, homes(pools))
    following = len(w.versions) - 1
    moves = w.versions[following] != w.versions[w.current]
    head = cluster.propose(_head(w), version(following), moves_slots=moves)
    _put(w, head)


def _lead_on(w: World) -> None:
    action = _lead(w, _head(w), _seen(w))
    assert isinstance(action, Put)
    _put(w, action.head)


def _control(w: World, number: int) -> None:
    """The next step of a director in a change of tables."""
    member = w.members[number]
    action = member.next_step(_head(w), _seen(w))
    if isinstance(action, cluster.Apply):
        member.current = action.version.generation
        member.marked = max(member.marked, member.current)
        member.show(w.versions, w.broken)
    elif isinstance(action, cluster.Prepare):
        generation = action.version.generation
        if member.marked != generation:
            member.mark(w.versions, generation, w.broken)
            return
        member.scan(w.versions, w.broken, w.now)
        _publish(w, number)
        member.prepared, member.sequence = generation, len(w.logs[number])
    elif isinstance(action, Loaded):
        member.loaded = action.version.generation
    w.reports[number] = member.report()


def _expire(w: World) -> None:
    """Everybody is silent for longer than the idle limit."""
    for member in w.members:
        ladder = member.ladder
        ladder.flows = {
            flow: e._replace(life=Life.LATE)
            for flow, e in ladder.flows.items()
            if e.life in (Life.OPEN, Life.LATE)
        }
        ladder.sessions = {c: s._replace(is_live=False) for c, s in ladder.sessions.items()}
        ladder.directory = {n: t._replace(until=-1) for n, t in ladder.directory.items()}
    w.late, w.silence = frozenset(w.truth), w.now
    w.clients.clear()


def _crash(w: World, number: int) -> None:
    """A machine is lost with all that only it knew; another in its place reads what was told."""
    member = w.members[number]
    w.excused |= {entry.name[1] for entry in member.queue}
    others = [m for m in w.members if m is not member]
    told = {entry.name[1] for log in w.logs for entry in log}
    for client in {client for client, _ in w.truth} - told:
        if not any(client in m.ladder.sessions for m in others):
            w.silent |= {client}
    w.asked = {key: asked for key, asked in w.asked.items() if key[0] != number}
    fresh = _fresh(number)
    fresh.current = fresh.marked = fresh.prepared = fresh.loaded = w.current
    fresh.sequence = len(w.logs[number])
    fresh.show(w.versions, w.broken)
    for origin, log in enumerate(w.logs):
        if origin == number and w.broken is not Broken.OWN:
            fresh.recall(log, w.silence)
        else:
            fresh.load(origin, log, w.silence)
    w.members[number] = fresh
    w.reports[number] = fresh.report()


def _head(w: World) -> Head:
    return _heads(w.current, w.following)


@lru_cache(maxsize=1024)
def _heads(current: int, following: int) -> Head:
    next_one = version(following) if following else None
    return Head(1, "", b"", current=version(current), following=next_one)


def _put(w: World, head: Head) -> None:
    w.current = head.current.generation
    w.following = head.following.generation if head.following else 0


def _seen(w: World) -> dict[str, Seen]:
    return {str(number): Seen(report, 0.0) for number, report in enumerate(w.reports)}


def _lead(w: World, head: Head, seen: dict[str, Seen]) -> cluster.Action:
    since = LONG_AGO if w.broken is Broken.FLIP else 0.0
    return cluster.lead(head, since, seen, 0.0)


STEPS: dict[str, Callable[..., None]] = {
    "syn": _syn,
    "data": _data,
    "ask": _ask,
    "answer": _answer,
    "lose": _lose,
    "publish": _publish,
    "load": _load,
    "pool": _pool,
    "lead": _lead_on,
    "control": _control,
    "expire": _expire,
    "crash": _crash,
}
