# SPDX-License-Identifier: Apache-2.0
"""Draining: counts who is left on draining backends, and says so when nobody is.

Four times a second, while a drain is under way, the tables are read for its backend. When the
second of two scans finds nobody, or its time is up, the end of the drain goes through the reconcile
thread into the intents, in one transaction with the event that hooks deliver. What has to last is
in the intents, so that a daemon that starts goes on where the last one was; only the rate of
leaving begins anew. When a drain ends is decided in core/drain.py.

In a cluster a drain is over when that is so on all directors that can be reached: each tells the
others whom it has left, and the end goes into the cluster's intents.

A connection whose client has sent its FIN counts as open while packets of it still come: the
backend may have something to say yet.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import numpy as np
import structlog

from limpet.api.feed import Feed
from limpet.core import drain as drains_of
from limpet.core.drain import Counts, Event, Watch
from limpet.core.errors import LimpetError
from limpet.core.intent import Drain, Intents
from limpet.core.model import Affinity, Desired, Protocol
from limpet.daemon import condition, intents
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Now, Reconciler
from limpet.datapath import flows as flows_of
from limpet.datapath import settings
from limpet.datapath.abi import Life
from limpet.datapath.kernel import Kernel

PERIOD_S = 0.25
PROGRESS_S = 1.0  # between two words of one drain's progress
CONFIRM_S = 0.1  # to the second look, after a first that found nobody
SHARE_OF_TIME = 0.2  # of one CPU, at most, that scans may take
KEPT_S = 1.0  # that a count is shown again, to many who ask
CLOSING_S = 0.75  # that a closing flow counts as open after its last packet
DAEMON = "limpet"  # who ends a drain
WithOthers = Callable[[str, Counts], Counts]
Ended = list[tuple[Drain, Event]]
End = Callable[[Ended], Awaitable[None]]
OPEN = (Life.OPENING, Life.ESTABLISHED, Life.DATAGRAM)
log = structlog.get_logger()


class Draining:
    """The task, and what it knows of every drain."""

    def __init__(self, kernel: Kernel, reconciler: Reconciler, pacing: Pacing, feed: Feed) -> None:
        self._kernel, self._reconciler, self._pacing = kernel, reconciler, pacing
        self._feed = feed
        self._watches: dict[str, Watch] = {}
        self._lefts: dict[str, tuple[float, Counts]] = {}  # those of `left`, and since when
        self._told: dict[str, tuple[float, Counts]] = {}  # last word of progress
        self.counts: dict[str, Counts] = {}  # of this director, at the last look
        self.with_others: WithOthers = _as_counted  # a member of a cluster adds other directors'
        self.end: End = self._end_alone

    def watch(self, drain: Drain, now: Now) -> Watch:
        """What is known of a drain; nothing but its terms, if it has not been looked at yet."""
        seen = self._watches.get(drain.backend)
        rules = {p.name: p.drain for p in now.desired.pools if drain.backend in p.weights}
        rule = drains_of.rule_of(drain, rules)
        if seen is None or seen.drain.began != drain.began:
            return Watch(drain, rule)
        return replace(seen, drain=drain, rule=rule)

    def left(self, drain: Drain, now: Now) -> Counts:
        """Who is there now, where no task looks: before the first scan, and after the end."""
        kept = self._lefts.get(drain.backend)
        if kept is None or time.monotonic() > kept[0] + KEPT_S:
            kept = self._lefts[drain.backend] = time.monotonic(), self.count(now, drain.backend)
        return kept[1]

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            began = time.monotonic()
            await self.look()
            took = time.monotonic() - began
            is_close = any(each.empty_scans == 1 for each in self._watches.values())
            period = CONFIRM_S if is_close else PERIOD_S
            await asyncio.sleep(max(period, took / SHARE_OF_TIME))

    async def look(self) -> None:
        """One scan for every drain that is under way."""
        now = self._reconciler.now
        assert now is not None, "start comes first"
        drains = now.effect.intents.drains.values()
        self._watches = {drain.backend: self.watch(drain, now) for drain in drains}
        self._told = {name: told for name, told in self._told.items() if name in self._watches}
        active = [drain.backend for drain in drains if drain.drained is None]
        if active:
            self.counts = await asyncio.to_thread(self._scan, now, active)
            counts = {name: self.with_others(name, each) for name, each in self.counts.items()}
            await self._advance(counts, time.time())
        else:
            self.counts = {}

    async def _advance(self, counts: dict[str, Counts], now: float) -> None:
        done: list[tuple[Watch, Event]] = []
        for name, counted in counts.items():
            after, events = drains_of.advance(self._watches[name], counted, now)
            if events:
                done.append((after, events[0]))  # the watch follows when it is on the disk
            else:
                self._watches[name] = after
                self._tell(after, counted, now)
        if done:
            await self._end(done)

    def _tell(self, watch: Watch, counts: Counts, now: float) -> None:
        """Progress, to those who follow the events; seldom enough to leave room for others."""
        name = watch.drain.backend
        said_at, said = self._told.get(name, (0.0, None))
        if now >= said_at + PROGRESS_S and (said is None or _left(said) != _left(counts)):
            self._told[name] = now, counts
            self._feed.publish("drain_progress", **condition.drain(watch, (0, 0), now))

    async def _end(self, done: list[tuple[Watch, Event]]) -> None:
        try:
            await self.end([(watch.drain, event) for watch, event in done])
        except LimpetError as error:  # the next look tries again
            log.error("the end of a drain could not be kept", why=str(error))

    async def _end_alone(self, ended: Ended) -> None:
        def change(_: Desired, found: Intents) -> intents.Change:
            return intents.drained(found, ended)

        await self._pacing.submit(lambda: self._reconciler.change(change, DAEMON, None))

    # --- Counting -------------------------------------------------------------------------------

    def _scan(self, now: Now, names: Iterable[str]) -> dict[str, Counts]:
        return {name: self.count(now, name) for name in names}

    def count(self, now: Now, name: str) -> Counts:
        """Who names the backend in the kernel's tables."""
        began = time.time()
        since = now.effect.excluded.get(name)
        is_conclusive = since is not None and since <= began
        number = backend_number(now, name)
        if number is None:
            return Counts(0, 0, is_conclusive=is_conclusive)
        open_flows = self._open_flows(now, number)
        sessions = self._kernel.sessions().decode(
            self._kernel.tick(), flows_of.Wanted(backend=number)
        )
        tick_s = settings.tick_s(now.machine.hz)
        oldest = int(sessions["age_ticks"].max()) * tick_s if len(sessions) else None
        return Counts(
            sessions=len(sessions) + _count_of(open_flows, _are_sessions(now)),
            flows=len(open_flows),
            connections=_count_of(open_flows, _over_tcp(now)),
            oldest_s=oldest,
            is_conclusive=is_conclusive,
        )

    def _open_flows(self, now: Now, number: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        flows = self._kernel.flows().decode(self._kernel.tick(), flows_of.Wanted(backend=number))
        closing_ticks = CLOSING_S / settings.tick_s(now.machine.hz)
        is_open = np.isin(flows["life"], [int(life) for life in OPEN])
        is_open |= (flows["life"] == Life.CLOSING) & (flows["idle_ticks"] <= closing_ticks)
        found: np.ndarray[tuple[int], np.dtype[np.void]] = flows[is_open]
        return found


def _as_counted(_: str, counts: Counts) -> Counts:
    return counts


def _left(counts: Counts) -> tuple[int, int]:
    return counts.sessions, counts.flows


def backend_number(now: Now, name: str) -> int | None:
    """Id of a backend that has a row; the one in use before one that lingers."""
    known = now.registry.backends.get(name)
    if known is not None:
        return known.id
    return next((each.id for each in now.registry.lingering if each.name == name), None)


def _count_of(flows: "np.ndarray[tuple[int], np.dtype[np.void]]", vips: list[int]) -> int:
    return int(np.isin(flows["vip"], vips).sum())


def _are_sessions(now: Now) -> list[int]:
    """VIPs each of whose flows is a session."""
    return [
        now.registry.vips[(vip.address, vip.protocol, vip.port)].id
        for vip in now.desired.vips
        if vip.affinity is Affinity.FLOW
    ]


def _over_tcp(now: Now) -> list[int]:
    known = (*now.registry.vips.values(), *now.registry.known_vips)
    return [vip.id for vip in known if vip.protocol is Protocol.TCP]
