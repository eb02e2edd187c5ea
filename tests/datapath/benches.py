# SPDX-License-Identifier: Apache-2.0
"""Two benches with the same controls: a packet case runs on the reference and on the kernel.

A bench is set to an image with an empty connection table, then takes frames and says what it saw.
Time stands still on both; `age` lets entries grow older instead. The kernel's verdict is read from
its counters: each frame must move exactly one.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from time import sleep
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datapath import records
from limpet.core.diff import Changes, apply, diff
from limpet.core.model import Image
from limpet.datapath import abi, bpf, kernel
from limpet.datapath.abi import (
    Event,
    FlowWord,
    Rung,
    SessionWord,
    Verdict,
)
from limpet.datapath.clock import clock, hz
from limpet.datapath.counters import Counters
from limpet.datapath.kernel import Kernel, Sizes
from limpet.datapath.reference import Held, News, Reference, Reset, Told
from limpet.datapath.ring import POSITION
from packets.case import Tell
from packets.world import (
    IMAGE,
    INGRESS,
    POOLS,
    TICK_SHIFT,
    Switches,
    idle_ticks,
    settings,
)

NUMBERS = count(1)
TICKS = 1 << FlowWord.SEEN_BITS
EXCEPTIONS = 1_024  # places of the directory
REFILL_JIFFIES = 16  # after which a token of the rate limit is there again
START = 5  # tick at which the reference begins
DROPPED = (Verdict.RESET, Verdict.HELD, *range(Verdict.DROP_MALFORMED, len(Verdict)))
SINCE = ((1 << SessionWord.SINCE_BITS) - 1) << SessionWord.SINCE_SHIFT
Stats = Counter[tuple[str, int, str]]
# (bucket, way) -> id and word, with ticks counted from now.
Table = dict[tuple[int, int], tuple[int, int]]
# (bucket, way) -> client, word without the time it began, last tick from now, open flows.
Sessions = dict[tuple[int, int], tuple[tuple[int, int], int, int, int]]


@dataclass(frozen=True)
class Seen:
    """What became of a frame: counters moved, the XDP action, bytes unless dropped."""

    verdict: Verdict
    rung: Rung | None
    events: tuple[Event, ...]  # in the order of their numbers
    action: str
    frame: bytes | None
    reset: Reset | None = None  # what the daemon was told
    held: Held | None = None  # the packet, if it waits; tick counted from now
    news: tuple[News, ...] = ()  # what the daemon was told of exceptions; the same


class Bench(Protocol):
    """What the tests ask of either."""

    def reset(self, image: Image) -> None: ...
    def apply(self, changes: Changes) -> None: ...
    def run(self, frame: bytes) -> Seen: ...
    def tell(self, told: Tell) -> None: ...
    def age(self, ticks: int) -> None: ...
    def sweep(self) -> tuple[Event, ...]: ...
    def entries(self) -> Table: ...
    def sessions(self) -> Sessions: ...
    def loads(self) -> dict[int, int]: ...
    def turns(self) -> dict[int, int]: ...
    def stats(self) -> Stats: ...


ACTIONS = {
    Verdict.NOT_IP: "pass",
    Verdict.NOT_VIP: "pass",
    Verdict.NO_SERVICE: "pass",
    Verdict.PASS_MALFORMED: "pass",
    Verdict.VIA_KERNEL: "pass",
    Verdict.TRANSMIT: "tx",
    Verdict.ECHO_REPLY: "tx",
    Verdict.TOO_BIG: "tx",
    Verdict.HOP_LIMIT: "tx",
    Verdict.REDIRECT: "redirect",
}


def action(verdict: Verdict, switches: Switches) -> str:
    """The XDP action that a verdict becomes."""
    found = ACTIONS.get(verdict, "drop")
    return "redirect" if found == "tx" and switches.redirect_always else found


class ReferenceBench:
    """The reference."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self.reset(IMAGE)

    def reset(self, image: Image) -> None:
        self._reference = Reference(settings(self._switches), idle_ticks)
        self._reference.load(image)
        self._ticks = START

    def apply(self, changes: Changes) -> None:
        self._reference.apply(changes)

    def run(self, frame: bytes) -> Seen:
        outcome = self._reference.run(frame, self._ticks << TICK_SHIFT, INGRESS)
        events = tuple(sorted(outcome.events))
        done = action(outcome.verdict, self._switches)
        held = outcome.held and replace(outcome.held, tick=outcome.held.tick - self._ticks)
        news = tuple(replace(news, tick=news.tick - self._ticks) for news in outcome.news)
        return Seen(
            *(outcome.verdict, outcome.rung, events, done, outcome.frame),
            *(outcome.reset, held, news),
        )

    def tell(self, told: Tell) -> None:
        since, until = ((self._ticks + tick) % (1 << 32) for tick in (told.since, told.until))
        self._reference.directory[told.name] = Told(since, until, told.backend, told.flags)

    def age(self, ticks: int) -> None:
        self._ticks += ticks

    def sweep(self) -> tuple[Event, ...]:
        return tuple(sorted(self._reference.sweep(self._ticks << TICK_SHIFT)))

    def entries(self) -> Table:
        return {
            (bucket, way): (number, _since(word, self._ticks))
            for bucket, way, number, word in self._reference.table.words()
        }

    def sessions(self) -> Sessions:
        found = {}
        for bucket, way, session, is_marked in self._reference.sessions.rows():
            mark = is_marked << SessionWord.SPILLED_SHIFT
            if session is None:
                found[bucket, way] = _session((0, 0), mark, 0, 0)
            else:
                seen, word = session.seen - self._ticks, session.word() | mark
                found[bucket, way] = _session(
                    session.key.client, word, seen, session.flows % (1 << 32)
                )
        return found

    def loads(self) -> dict[int, int]:
        return {backend: load for backend, load in self._reference.loads.items() if load}

    def turns(self) -> dict[int, int]:
        return dict(self._reference.turns)

    def stats(self) -> Stats:
        both = {"vip": self._reference.vip_stats, "backend": self._reference.backend_stats}
        return Counter(
            {
                (kind, number, name): value
                for kind, stats in both.items()
                for (number, name), value in stats.items()
                if value
            }
        )


def _session(
    client: Sequence[int], word: int, seen: int, flows: int
) -> tuple[tuple[int, int], int, int, int]:
    """A session; time stands still in the kernel, so when it began cannot be compared."""
    if not word >> SessionWord.LIFE_SHIFT & (1 << SessionWord.LIFE_BITS) - 1:
        return (0, 0), word, 0, 0
    return (client[0], client[1]), word & ~SINCE, seen % (1 << 32), flows


def _since(word: int, ticks: int) -> int:
    """A word whose tick is counted from `ticks` on; a mark without an entry has no tick."""
    if not word >> FlowWord.LIFE_SHIFT & (1 << FlowWord.LIFE_BITS) - 1:
        return word
    seen = (word >> FlowWord.SEEN_SHIFT) % TICKS
    return word - (seen << FlowWord.SEEN_SHIFT) + ((seen - ticks) % TICKS << FlowWord.SEEN_SHIFT)


class KernelBench:
    """The program in the kernel, by test runs; its maps are pinned under a name of their own."""

    def __init__(self, pins: Path, switches: Switches) -> None:
        sizes = Sizes(switches.buckets, len(POOLS), switches.session_buckets, EXCEPTIONS)
        self._kernel = Kernel.open(pins, sizes)
        self._kernel.load(settings(switches))
        self._image, self._switches = Image(), switches
        self._flows: NDArray[np.void] = self._kernel._map("flows")["entries"].reshape(-1)
        self._sessions: NDArray[np.void] = self._kernel._map("sessions")["entries"].reshape(-1)
        self._seen: NDArray[np.uint32] = self._kernel._map("session_seen")["seen"].reshape(-1)
        self._ring = self._kernel.resets()
        self._news, self._held = self._kernel.news(), self._kernel.held()
        self._directory = self._kernel.directory()
        self._askers = records.Askers(self._kernel._fds["askers"])
        self._counted: Counters | None = None  # as the last look saw them
        self.reset(IMAGE)

    def reset(self, image: Image) -> None:
        self.apply(diff(self._image, image))
        self._kernel.forget_flows()
        sleep(self._switches.flows_first * (REFILL_JIFFIES + 1) / hz())
        self._kernel._map("turns")["count"] = 0
        self._directory.clear()
        self._askers.forget()
        self._stats = self._all_stats()
        self._jiffies = clock().jiffies()

    @property
    def has_refilled(self) -> bool:
        """Whether the rate limit may have allowed more since the reset than at that moment."""
        is_limited = bool(self._switches.flows_first)
        return is_limited and clock().jiffies() - self._jiffies >= REFILL_JIFFIES

    def apply(self, changes: Changes) -> None:
        """Write changes, and the idle limits of this world."""
        self._kernel.apply(changes)
        self._image = apply(self._image, changes)
        limits = self._kernel._map("idle_limits")["ticks"][0]
        for row in (None, *(changes.vips or ())):
            for life, ticks in idle_ticks(row).items():
                limits[row.id if row else 0][life] = ticks

    def run(self, frame: bytes, metadata: int = 0, *, reads_rings: bool = True) -> Seen:
        before = self._counted or self._kernel.counters()
        run = bpf.run(self._kernel.program, frame, metadata=metadata)
        after = self._counted = self._kernel.counters()
        verdicts = _moved(before.verdicts, after.verdicts)
        rungs = _moved(before.rungs, after.rungs)
        assert len(verdicts) == 1, f"one packet, several verdicts: {verdicts}"
        assert len(rungs) <= 1, f"one packet, several rungs: {rungs}"
        verdict = Verdict[verdicts[0]]
        return Seen(
            verdict,
            Rung[rungs[0]] if rungs else None,
            _events(before, after),
            run.action,
            None if verdict in DROPPED else run.packet,
            self._reset_record() if reads_rings else None,
            self._held_packet() if reads_rings else None,
            self._told() if reads_rings else (),
        )

    def _told(self) -> tuple[News, ...]:
        """What the ring has for other directors."""
        return tuple(records.news(record, self._kernel.tick()) for record in self._news.read())

    def _held_packet(self) -> Held | None:
        """The packet that waits."""
        found = self._held.read()
        assert len(found) <= 1, "one packet, several waiting"
        if not len(found):
            return None
        waiting = records.held(found[0], self._kernel.tick())
        self._askers.used.add(records.place_of(waiting.client))
        return waiting

    def tell(self, told: Tell) -> None:
        key, value = records.exception(told, self._kernel.tick())
        assert self._directory.put(key, value) == 1

    def _reset_record(self) -> Reset | None:
        """What the ring has for the daemon."""
        found = self._ring.read()
        assert len(found) <= 1, "one packet, several records"
        return records.reset(found[0]) if len(found) else None

    def reply(self, frame: bytes) -> bytes:
        """The frame as the program leaves it, without a look at counters: for many at a time."""
        self._counted = None
        return self._kernel.test_run(frame).packet

    def age(self, ticks: int) -> None:
        words = self._flows["word"]
        used = words >> np.uint64(FlowWord.LIFE_SHIFT) & np.uint64(7) > 0
        words[used] = [_since(word, ticks) for word in words[used].tolist()]
        self._seen -= np.uint32(ticks)
        self._askers.age(ticks)
        keys, values = self._directory.items()
        if len(keys):
            values = values.copy()
            values["since"] -= np.uint32(ticks)
            values["until"] -= np.uint32(ticks)
            assert self._directory.put(keys, values) == len(keys)

    def sweep(self) -> tuple[Event, ...]:
        before = self._kernel.counters()
        self._kernel.sweep()
        self._counted = self._kernel.counters()
        return _events(before, self._counted)

    def entries(self) -> Table:
        tick, ways = self._kernel.tick(), int(abi.Limit.FLOW_WAYS)
        found = {}
        for place in np.flatnonzero(self._flows["word"]):
            number, word = self._flows[place].item()
            is_empty = word == 1 << FlowWord.SPILLED_SHIFT  # only its mark says anything
            found[divmod(int(place), ways)] = (0 if is_empty else number, _since(word, tick))
        return found

    def sessions(self) -> Sessions:
        tick, ways = self._kernel.tick(), int(abi.Limit.SESSION_WAYS)
        found = {}
        for place in np.flatnonzero(self._sessions["word"]):
            client, word, _, flows = self._sessions[place].item()
            seen = int(self._seen[place]) - tick
            found[divmod(int(place), ways)] = _session(client, word, seen, flows)
        return found

    def loads(self) -> dict[int, int]:
        loads = self._kernel.loads()
        return {int(i): int(loads[i]) for i in np.flatnonzero(loads)}

    def turns(self) -> dict[int, int]:
        turns = self._kernel._map("turns")["count"]
        return {int(i): int(turns[i]) for i in np.flatnonzero(turns)}

    def stats(self) -> Stats:
        now = self._all_stats()
        return now - self._stats

    def _all_stats(self) -> Stats:
        both = {"vip": self._kernel.vip_stats(), "backend": self._kernel.backend_stats()}
        return Counter(
            {
                (kind, int(number), name): int(rows[name][number])
                for kind, rows in both.items()
                for name in rows.dtype.names or ()
                for number in np.flatnonzero(rows[name])
            }
        )

    def forget_resets(self) -> int:
        """Read what the ring of resets has: how many records."""
        return len(self._ring.read())

    @contextmanager
    def full(self, ring: str) -> Iterator[None]:
        """The ring has no room, as if nobody had read it for long."""
        found = {"news": self._news, "held": self._held}[ring]
        (end,) = POSITION.unpack_from(found._producer)
        POSITION.pack_into(found._consumer, 0, (end - found._size) % (1 << 64))
        try:
            yield
        finally:
            POSITION.pack_into(found._consumer, 0, end)

    def run_again(self, frame: bytes, times: int) -> None:
        """The same frame so many times, without a look at what becomes of it."""
        self._counted = None
        bpf.run(self._kernel.program, frame, times)

    def close(self) -> None:
        for ring in (self._ring, self._news, self._held):
            ring.close()
        self._kernel.close()


def _events(before: Counters, after: Counters) -> tuple[Event, ...]:
    """Events that were counted between two looks, in the order of their numbers."""
    return tuple(sorted(Event[name] for name in _moved(before.events, after.events)))


def _moved(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Names of counters, as often as they moved."""
    return [
        name.upper() for name, value in after.items() for _ in range(value - before.get(name, 0))
    ]


class KernelBenches:
    """Benches by switches, loaded once each."""

    def __init__(self) -> None:
        self._loaded: dict[Switches, KernelBench] = {}
        self._pins: list[Path] = []

    def get(self, switches: Switches) -> KernelBench:
        """The bench with these switches."""
        if switches not in self._loaded:
            pins = bpf.BPFFS / f"limpet-test-{os.getpid()}-{next(NUMBERS)}"
            self._pins.append(pins)
            self._loaded[switches] = KernelBench(pins, switches)
        return self._loaded[switches]

    def close(self) -> None:
        """Leave nothing behind."""
        for bench in self._loaded.values():
            bench.close()
        for pins in self._pins:
            kernel.remove(pins)


@contextmanager
def kernel_benches() -> Iterator[KernelBenches]:
    """Kernel benches, removed again. On one CPU, since each has limits of its own."""
    benches, cpus = KernelBenches(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield benches
    finally:
        os.sched_setaffinity(0, cpus)
        benches.close()
