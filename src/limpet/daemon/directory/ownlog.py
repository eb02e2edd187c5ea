# SPDX-License-Identifier: Apache-2.0
"""This director's log: entries wait in a queue, and are appended in batches, signed.

A batch goes when it is full, or `GATHER_S` after its first entry. While the store is down they wait
and are sent when it is back; the queue has a limit, beyond which news are dropped and counted (a
scan finds them again), and scans wait. An append that failed is tried again, even if it may have
been made: entries may come twice. Batches that are on their way at once may arrive in any order.
"""

import asyncio
from collections import deque

import numpy as np
import structlog

from limpet.core import exception
from limpet.core.errors import LimpetError
from limpet.core.exception import BATCH_MAX, RECORD, Records
from limpet.daemon.directory.record import Record
from limpet.daemon.unixtime import now_ms
from limpet.store.interface import Connection, Store

GATHER_S = 0.005
QUEUE_MAX = 262_144  # entries
AT_ONCE_MAX = 8  # batches on their way to the store
RETRY_S = 0.5
PREFIX = "directory-"
log = structlog.get_logger()


class OwnLog:
    """The writing end; one writer per log."""

    def __init__(self, store: Store, director: str, secret: bytes, record: Record) -> None:
        self._store, self._director, self._secret = store, director, secret
        self._record, self._name = record, PREFIX + director
        self._queue: deque[Records] = deque()
        self._sending: list[Records] = []  # taken from the queue, and not known to be in the log
        self._taken = self._appended = 0  # entries, ever
        self._changed = asyncio.Condition()
        self._wake, self._back = asyncio.Event(), asyncio.Event()
        self._is_down = False
        self.sequence = 0  # of the last batch that was appended
        store.on_change(self._on_change)

    def _on_change(self, state: Connection) -> None:
        if state.is_connected:
            self._back.set()

    @property
    def queued(self) -> int:
        return self._taken - self._appended

    def offer(self, records: Records) -> Records:
        """Queue those for which there is room; what was queued. The rest is counted as lost."""
        kept = records[: max(0, QUEUE_MAX - self.queued)]
        self._record.queue_full += len(records) - len(kept)
        if len(kept):
            self._queue.append(kept)
            self._taken += len(kept)
            self._record.queued = self.queued
            self._wake.set()
        return kept

    def waiting(self) -> Records:
        """A copy of all that is not known to be in the log yet, the oldest first."""
        return np.concatenate([*self._sending, *self._queue, np.zeros(0, RECORD)])

    async def room(self, count: int) -> None:
        """Wait until `offer` takes so many."""
        async with self._changed:
            await self._changed.wait_for(lambda: QUEUE_MAX - self.queued >= count)

    async def flush(self) -> int:
        """Wait until all that is queued now is in the log; the sequence of the last batch."""
        wanted = self._taken
        async with self._changed:
            await self._changed.wait_for(lambda: self._appended >= wanted)
        return self.sequence

    async def run(self) -> None:
        """Append until cancelled."""
        while True:
            await self._wake.wait()
            if self.queued < BATCH_MAX:
                await asyncio.sleep(GATHER_S)
            batches = self._sending = self._batches()
            if not self._queue:
                self._wake.clear()
            async with asyncio.TaskGroup() as group:
                for batch in batches:
                    group.create_task(self._append(batch))
            self._sending = []
            async with self._changed:
                self._appended += sum(len(batch) for batch in batches)
                self._record.queued = self.queued
                self._changed.notify_all()

    def _batches(self) -> list[Records]:
        """What to append now: full batches of one generation each, as far as there are."""
        found: list[Records] = []
        while self._queue and len(found) < AT_ONCE_MAX:
            found.append(self._batch())
        return found

    def _batch(self) -> Records:
        parts: list[Records] = []
        room, generation = BATCH_MAX, self._queue[0]["generation"][0]
        while self._queue and room and self._queue[0]["generation"][0] == generation:
            part = self._queue.popleft()
            parts.append(part[:room])
            if len(part) > room:
                self._queue.appendleft(part[room:])
            room -= len(parts[-1])
        return exception.joined(parts)

    async def _append(self, batch: Records) -> None:
        while True:
            data = exception.encode(batch, self._director, now_ms(), self._secret)
            self._back.clear()
            try:
                sequence = await self._store.append(self._name, data)
            except LimpetError as error:
                await self._wait(error)
                continue
            self.sequence = max(self.sequence, sequence)
            self._is_down = False
            self._record.published += len(batch)
            self._record.batches += 1
            return

    async def _wait(self, error: LimpetError) -> None:
        """After a failure: until the store is back, or for a while."""
        self._record.append_failed += 1
        if not self._is_down:
            log.warning("exceptions wait for the store", why=str(error), queued=self.queued)
        self._is_down = True
        try:
            async with asyncio.timeout(RETRY_S):
                await self._back.wait()
        except TimeoutError:
            return
