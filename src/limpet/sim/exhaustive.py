# SPDX-License-Identifier: Apache-2.0
"""Exhaustive exploration: every state that the small world can reach, the nearest first.

States that differ only in how long ago something was are one state: times are replaced by their
order. So the search ends, and what it finds first is a shortest way to break a promise. Steps of
people, clients and faults are limited; steps of the protocol are not.

What cannot break a promise any more is not looked at: with no step left, only open questions are
judged; the last step is a packet, unless a question is open; and how a packet is judged depends on
its director and on what is true, whatever the other director does meanwhile.

Each client is looked at alone. Clients share tables, logs and phases, and no step of one changes
what another's packets meet: without the other's packets, a way that breaks a promise of one is a
shorter way that does.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from limpet.core.errors import NotFound
from limpet.sim.member import Broken, LogEntry, Member
from limpet.sim.small import (
    CLIENTS,
    FREE,
    SENT,
    Step,
    Violation,
    World,
    after,
    first_world,
    is_quiet,
    steps,
)

STATES_MAX = 20_000_000
EACH_ALONE = tuple((client,) for client in range(CLIENTS))
TOGETHER = (tuple(range(CLIENTS)),)


@dataclass(frozen=True, slots=True)
class Found:
    """What came out. `why` is empty if every promise was kept everywhere."""

    depth: int
    states: int
    transitions: int
    why: str = ""
    steps: tuple[Step, ...] = ()
    is_whole: bool = True  # the search ended by itself

    def summary(self) -> str:
        """In one line."""
        size = f"{self.states:,} states, {self.transitions:,} steps, depth {self.depth}"
        if self.why:
            return f"broken: {self.why} ({size})"
        return f"every promise was kept: {size}" + ("" if self.is_whole else ", cut short")

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return asdict(self)


JUDGED = frozenset({"syn", "data"})


class _Seen(NamedTuple):
    parent: int
    steps: tuple[Step, ...]  # from there; of the first state none


class State(NamedTuple):
    """Numbers that stand for a state, and for each member's part of it."""

    number: int
    members: tuple[int, ...]


class _Reached(NamedTuple):
    world: World
    state: State
    how: _Seen


class _Broke(Exception):  # noqa: N818 - what is looked for, not an error
    """A promise was broken on a way."""

    def __init__(self, why: str, steps_taken: tuple[Step, ...]) -> None:
        super().__init__(why)
        self.why, self.steps = why, steps_taken


class _Search:
    """One exploration."""

    def __init__(self, depth: int, states_max: int) -> None:
        self.depth, self.states_max = depth, states_max
        self.seen: dict[int, _Seen] = {}
        self.transitions = 0
        self._judged: set[int] = set()  # last steps that were found to break nothing

    def run(self, first: World) -> None:
        """Layer by layer. Raises _Broke."""
        layer: dict[int, _Reached] = {}
        _add(layer, _Reached(first, state(first), _Seen(0, ())))
        for _ in range(self.depth + 1):
            following: dict[int, _Reached] = {}
            stack = list(layer.values())
            layer.clear()
            while stack and self.is_whole:
                reached = stack.pop()
                if reached.state.number not in self.seen:
                    self.seen[reached.state.number] = reached.how
                    for found in self._next(reached):
                        if found.world.now == reached.world.now:
                            stack.append(found)
                        else:
                            _add(following, found)
            layer = following

    @property
    def is_whole(self) -> bool:
        """Whether there was room for all states so far."""
        return len(self.seen) < self.states_max

    def _next(self, reached: "_Reached") -> Iterator["_Reached"]:
        """States that follow, and are worth a look."""
        world, at = reached.world, reached.state.number
        for step in steps(world):
            if not _may_matter(world, step, self.depth):
                continue
            self.transitions += 1
            key = _judged(reached, step) if _is_last(world, step, self.depth) else 0
            if key and key in self._judged:
                continue
            way: tuple[Step, ...] = (step,)
            try:
                found = after(world, step)
                if key and found.asked:
                    way = (step, _question(found))
                    found = after(found, way[-1])
            except Violation as violation:
                raise _Broke(str(violation), (*_way(self.seen, at), *way)) from None
            if found.now == self.depth and not found.asked:
                if key:
                    self._judged.add(key)
                continue  # nothing that could still happen is judged
            known = state(found)
            if known.number not in self.seen:
                yield _Reached(found, known, _Seen(at, way))


def explore(
    depth: int,
    broken: Broken = Broken.NOTHING,
    states_max: int = STATES_MAX,
    senders: tuple[tuple[int, ...], ...] = EACH_ALONE,
) -> Found:
    """All interleavings with up to `depth` steps of people, clients and faults. `senders`: clients
    of one world after the other.
    """
    states = transitions = 0
    is_whole = True
    for clients in senders:
        search = _Search(depth, states_max)
        try:
            search.run(first_world(broken, clients))
        except _Broke as broke:
            states, transitions = states + len(search.seen), transitions + search.transitions
            return Found(depth, states, transitions, broke.why, broke.steps)
        states, transitions = states + len(search.seen), transitions + search.transitions
        is_whole = is_whole and search.is_whole
    return Found(depth, states, transitions, is_whole=is_whole)


def explore_at_once(depth: int, broken: Broken = Broken.NOTHING) -> Found:
    """The same, each client in a process of its own."""
    with multiprocessing.get_context("fork").Pool(CLIENTS) as pool:
        work = [(depth, broken, STATES_MAX, (clients,)) for clients in EACH_ALONE]
        found = pool.starmap(explore, work)
    if broke := next((each for each in found if each.why), None):
        return broke
    states, transitions = sum(f.states for f in found), sum(f.transitions for f in found)
    return Found(depth, states, transitions, is_whole=all(f.is_whole for f in found))


def _add(layer: dict[int, "_Reached"], reached: "_Reached") -> None:
    layer.setdefault(reached.state.number, reached)


def _judged(reached: "_Reached", step: Step) -> int:
    """A number for all that decides how a packet is judged, if nobody else is asked."""
    w, number = reached.world, int(step[1])
    return hash(
        (
            step,
            reached.state.members[number],
            w.current,
            w.versions,
            frozenset(w.truth.items()),
            frozenset(w.clients.items()),
            (w.late, w.excused, w.silent),
            is_quiet(w, number),
            frozenset(w.asked.items()),
        )
    )


def _is_last(w: World, step: Step, depth: int) -> bool:
    """Whether this step ends it: a packet or an answer after which nothing is left to judge, or the
    only question is its own.

    That question arrives at once then. What the other director does before it does so it might have
    done before the packet, which does not touch it.
    """
    if step[0] == "answer":
        return w.now == depth and len(w.asked) == 1
    return step[0] in JUDGED and w.now == depth - 1 and not w.asked


def _question(w: World) -> Step:
    ((number, flow),) = w.asked
    return ("ask", number, *flow)


def _may_matter(w: World, step: Step, depth: int) -> bool:
    """Whether a step can still break a promise. The last that is counted has to be one that is
    judged, or a question is open whose answer will be. Then, with no change under way, nothing
    matters but what reaches the director that asked.
    """
    left = depth - w.now
    if step[0] not in FREE:
        return left > 1 or (left == 1 and (step[0] in JUDGED or bool(w.asked)))
    if left or w.following or step[0] not in ("load", "publish", "control"):
        return True
    if any(asked.state == SENT for asked in w.asked.values()):
        return True
    is_asking = any(number == step[1] for number, _ in w.asked)
    if step[0] == "control":
        return is_asking or w.members[int(step[1])].prepared != w.current
    return is_asking == (step[0] == "load")


def part(name: str) -> Broken:
    """A part of the protocol that can be left out, by its name. Raises NotFound."""
    try:
        return Broken[name.upper()]
    except KeyError:
        names = ", ".join(each.name.lower() for each in Broken)
        raise NotFound(
            f"no part {name!r} of the protocol can be left out; there are {names}"
        ) from None


def replay(steps_taken: tuple[Step, ...], broken: Broken = Broken.NOTHING) -> str:
    """What goes wrong on this way; empty: nothing."""
    world = first_world(broken)
    try:
        for step in steps_taken:
            world = after(world, step)
    except Violation as violation:
        return str(violation)
    return ""


def _way(seen: dict[int, _Seen], key: int) -> tuple[Step, ...]:
    way = list[Step]()
    while (entry := seen[key]).steps:
        way.extend(reversed(entry.steps))
        key = entry.parent
    return tuple(reversed(way))


def state(w: World) -> State:
    """What stands for the state, with times replaced by their order."""
    times = {0.0, float(w.now)}
    for m in w.members:
        ladder = m.ladder
        times.update([e.seen for e in ladder.flows.values()])
        times.update([s.seen for s in ladder.sessions.values()])
        times.update([t.since for t in ladder.directory.values()])
        times.update([e.time for e in m.known.values()])
        times.update([e.time for e in m.queue])
    for log in w.logs:
        times.update([e.time for e in log])
    order = {time: rank for rank, time in enumerate(sorted(times))}
    members = tuple([hash(_member(m, order)) for m in w.members])
    number = hash(
        (
            members,
            w.pools,
            w.versions,
            (w.current, w.following, order[w.now], w.late, w.excused, w.silent),
            *[tuple([_entry(e, order) for e in log]) for log in w.logs],
            *[(r.current, r.prepared, r.sequence, r.loaded) for r in w.reports],
            frozenset(w.truth.items()),
            frozenset(w.clients.items()),
            frozenset(w.asked.items()),
            # What has lapsed, of that which may still be loaded.
            tuple([tuple([e.time > w.silence for e in log]) for log in w.logs]),
        )
    )
    return State(number, members)


Order = dict[float, int]


def _member(m: Member, order: Order) -> tuple[object, ...]:
    ladder = m.ladder
    return (
        (m.current, m.marked, m.prepared, m.sequence, m.loaded, *m.watermarks),
        tuple(ladder.homes.values()),
        frozenset([(f, e[0], e[1], order[e[2]], e[3], e[4]) for f, e in ladder.flows.items()]),
        frozenset([(c, s[0], order[s[1]], s[2]) for c, s in ladder.sessions.items()]),
        frozenset([(n, t[0], order[t[1]], t[2], t[3]) for n, t in ladder.directory.items()]),
        frozenset([_entry(e, order) for e in m.known.values()]),
        tuple([_entry(e, order) for e in m.queue]),
        frozenset(m.waiting.items()),
    )


def _entry(e: LogEntry, order: Order) -> tuple[object, ...]:
    return e[0], e[1], order[e[2]], e[3], e[4], e[5]
