# SPDX-License-Identifier: Apache-2.0
"""Telling: exceptions of this director's data path, from its ring of news and from scans.

News are told at once. If the ring overflowed, or on a start, a scan follows; else one runs every
half minute, at a small share of a CPU: it finds what was missed, and what is due to be told again.
What is told is in the merged table at once, so that it is not found a second time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from limpet.core.errors import LimpetError
from limpet.core.exception import KEY, RECORD, Kind, Records
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.merging import Merging
from limpet.daemon.directory.ownlog import OwnLog
from limpet.daemon.directory.placement import FLOW_S, GRACE_S, Lookup, Placement
from limpet.daemon.directory.record import Record
from limpet.daemon.directory.scan import Live, scan
from limpet.daemon.directory.worth import worth
from limpet.daemon.unixtime import now_ms
from limpet.datapath.counters import Counters
from limpet.datapath.flows import FlowTable
from limpet.datapath.ring import Ring
from limpet.datapath.sessions import SessionTable

SCAN_S = 30.0  # between two scans, and
SHARE_OF_TIME = 0.05  # of one CPU, at most, that they may take
LOOK_S = 1.0  # between two looks at the count of lost news
CHUNK = 2_048  # candidates that are handled before others have their turn
log = structlog.get_logger()


class Tables(Protocol):
    """What is asked of the data path."""

    def news(self) -> Ring: ...
    def sessions(self) -> SessionTable: ...
    def flows(self) -> FlowTable: ...
    def tick(self) -> int: ...
    def counters(self) -> Counters: ...


class Telling:
    """The task between the data path's tables and this director's log."""

    def __init__(
        self,
        tables: Tables,
        own: OwnLog,
        merging: Merging,
        clock: Clock,
        record: Record,
        origin: int,
    ) -> None:
        self._tables, self._own, self._merging = tables, own, merging
        self._clock, self._record, self._origin = clock, record, origin
        self._news: list[NDArray[np.void]] = []
        self._has_news = asyncio.Event()
        self._scanning = asyncio.Lock()
        self._lost: int | None = None  # news, as the data path counts; None: not looked at yet
        self.placement: Callable[[], Placement | None] = lambda: None

    async def run(self) -> None:
        """Tell until cancelled."""
        loop, ring = asyncio.get_running_loop(), self._tables.news()
        loop.add_reader(ring.fd, self._hear, ring)
        self._hear(ring)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_news_always())
                group.create_task(self._scan_always())
        finally:
            loop.remove_reader(ring.fd)
            ring.close()

    # --- News ------------------------------------------------------------------------------------

    def _hear(self, ring: Ring) -> None:
        records = ring.read()
        if len(records):
            self._news.append(records)
            self._has_news.set()

    async def _tell_news_always(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await self.tell_news()

    async def tell_news(self) -> None:
        """Queue all that was heard."""
        while self._news:
            news = self._news.pop(0)
            self._record.told += len(news)
            for start in range(0, len(news), CHUNK):
                await self._tell(self._records(news[start : start + CHUNK]), is_news=True)

    def _records(self, news: NDArray[np.void]) -> Records:
        """The last news of each name, as records."""
        newest = news[::-1]
        _, first = np.unique(np.ascontiguousarray(newest["key"]).view("V24"), return_index=True)
        news = newest[np.sort(first)]
        records = np.zeros(len(news), RECORD)
        records["key"] = np.ascontiguousarray(news["key"]).astype(KEY)
        records["time"] = self._clock.times(news["tick"])
        lasts = np.where(records["key"]["kind"] == Kind.SESSION, GRACE_S, FLOW_S)
        records["expiry"] = records["time"] + (lasts * 1_000).astype(np.uint64)
        records["backend"], records["flags"] = news["backend"], news["flags"]
        return records

    async def _tell(self, found: Records, *, is_news: bool) -> None:
        """Queue what is worth telling of up to CHUNK candidates with different names."""
        placement = self.placement()
        if placement is None:
            return
        if not is_news:
            await self._own.room(len(found))
        found["origin"], found["generation"] = self._origin, placement.generation
        judged = worth(found, self._merging.known(found["key"]), now_ms(), is_news=is_news)
        self._record.echoes += judged.echoes
        self._record.outdated += judged.outdated
        if len(judged.told):
            await self._merging.take(self._own.offer(judged.told))

    # --- Scans -----------------------------------------------------------------------------------

    async def _scan_always(self) -> None:
        due = time.monotonic()
        while True:
            placement = self.placement()
            if placement is not None and (self._has_lost_news() or time.monotonic() >= due):
                await self.scan(placement)
                took = self._record.scan_s
                due = time.monotonic() + max(SCAN_S, took / SHARE_OF_TIME)
            await asyncio.sleep(LOOK_S)

    def _has_lost_news(self) -> bool:
        """Since the last look; a first look finds nothing, since a scan comes anyway."""
        counted = self._tables.counters().events["news_lost"]
        before, self._lost = self._lost, counted
        lost = counted - before if before is not None else 0
        self._record.news_lost += max(0, lost)
        return lost != 0

    async def scan(self, placement: Placement) -> bool:
        """Queue all exceptions of both tables that are worth telling; False if that failed."""
        async with self._scanning:
            began = time.monotonic()
            try:
                found = await asyncio.to_thread(self._scan, placement)
            except LimpetError as error:
                self._record.scans_failed += 1
                log.error("scan for exceptions failed; another follows", why=str(error))
                return False
            for start in range(0, len(found), CHUNK):
                await self._tell(found[start : start + CHUNK], is_news=False)
                await asyncio.sleep(0)
            self._record.scans += 1
            self._record.scan_s = time.monotonic() - began
            return True

    def _scan(self, placement: Placement) -> Records:
        """In a thread of its own; the merged table may change meanwhile, and is asked again."""
        tick = self._tables.tick()
        live = Live(self._tables.sessions().decode(tick), self._tables.flows().decode(tick))
        return scan(live, Lookup(placement), self._clock, self._merging.table)
