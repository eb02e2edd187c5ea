# SPDX-License-Identifier: Apache-2.0
"""Merging: the one place where the merged table changes, and the data path's map with it.

A batch is in effect when it is in both. Batches wait for each other, and for the two rare pieces of
work that run in a thread: compaction, and the audit of the map. All else is done in the event loop,
below a millisecond a batch.
"""

import asyncio
import secrets

import numpy as np

from limpet.core.exception import Keys, Records, Told
from limpet.daemon.directory.loading import Loading
from limpet.daemon.directory.record import Record
from limpet.daemon.directory.table import Table
from limpet.daemon.directory.worth import SKEW_MS
from limpet.daemon.unixtime import now_ms

EXPIRE_S = 10.0
VACANT_SHARE = 8  # of the table, as a divisor, beyond which it is compacted


class Merging:
    """The merged table, guarded."""

    def __init__(self, entries_max: int, loading: Loading, record: Record) -> None:
        key = secrets.randbits(64), secrets.randbits(64)
        self.table = Table(entries_max, key)
        self._loading, self._record = loading, record
        self._lock = asyncio.Lock()

    def known(self, keys: Keys) -> Records:
        """What there is of each name, all zeros for nothing."""
        return self.table.at(self.table.find(keys))

    async def learn(self, told: Told) -> None:
        """A batch of another director's."""
        record, now = self._record, now_ms()
        record.received += len(told.records)
        record.ahead += int((told.records["time"] > now + SKEW_MS).sum())
        valid = told.records[told.records["expiry"] > now]
        record.late += len(told.records) - len(valid)
        record.merged += await self.take(valid)
        record.lag_s = max(0, now_ms() - told.sent) / 1e3

    async def take(self, records: Records) -> int:
        """Merge records, of whomever; how many were newer."""
        async with self._lock:
            merged = self.table.merge(records)
            self._loading.apply(merged.changed, merged.before)
        self._record.stale += merged.stale
        self._record.table_full += merged.full
        return len(merged.changed)

    async def recall(self, records: Records) -> None:
        """Records of before a restart, this director's own as well; the map is made to fit."""
        async with self._lock:
            self.table.merge(records[records["expiry"] > now_ms()])
            await asyncio.to_thread(self._loading.audit, self.table, with_own=True)

    async def remember(self, told: Told) -> None:
        """A batch that this director wrote before it was started."""
        async with self._lock:
            merged = self.table.merge(told.records[told.records["expiry"] > now_ms()])
            self._loading.put(merged.changed)

    async def run(self) -> None:
        """Forget what has lapsed, until cancelled."""
        while True:
            await asyncio.sleep(EXPIRE_S)
            await self.expire(now_ms())

    async def expire(self, now: int) -> None:
        """Forget what has lapsed by `now`, and make good what that gave room for."""
        async with self._lock:
            gone = self.table.expire(now)
            self._record.expired += len(gone)
            await asyncio.to_thread(self._loading.unload, gone)
            if self.table.vacant * VACANT_SHARE > self.table.limit:
                self.table = await asyncio.to_thread(self.table.compacted)
            if self._loading.is_incomplete:
                await asyncio.to_thread(self._loading.audit, self.table)

    def records(self) -> Records:
        """A copy of everything that has not lapsed."""
        found = self.table.records()
        return found[found["expiry"] > np.uint64(now_ms())]
