# SPDX-License-Identifier: Apache-2.0
"""The log of another director, read from where this one has got to.

A batch that is not signed, is another director's, or cannot be read, is counted and skipped: one
bad batch must not hide those that follow. If the log no longer holds what comes next, reading goes
on with what it has: whoever wrote what is missing tells it again while it is true.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from limpet.core import exception
from limpet.core.errors import LimpetError
from limpet.core.exception import BatchError, Told
from limpet.daemon.directory.ownlog import PREFIX
from limpet.daemon.directory.record import Record
from limpet.store.interface import Batch, Store, Truncated

RETRY_S = 1.0
Take = Callable[[Told], Awaitable[None]]
log = structlog.get_logger()


class PeerLog:
    """The reading end of one log."""

    def __init__(self, store: Store, director: str, secret: bytes, record: Record) -> None:
        self._store, self._secret, self._record = store, secret, record
        self.director, self._name = director, PREFIX + director
        self.loaded = 0  # sequence up to which everything is in effect
        self._complained = ""

    async def run(self, take: Take) -> None:
        """Read until cancelled; `take` returns when a batch is in effect."""
        while True:
            try:
                await self._read(take, None)
            except LimpetError as error:
                log.warning("a log cannot be read", director=self.director, why=str(error))
                await asyncio.sleep(RETRY_S)

    async def replay(self, take: Take) -> int:
        """Read what is there now, and end; the sequence of the last batch."""
        last = await self._store.last(self._name)
        while self.loaded < last and not await self._read(take, last):
            pass
        return last

    async def _read(self, take: Take, last: int | None) -> bool:
        """Whether `last` was reached; if not, the log was cut off."""
        batches = self._store.read(self._name, self.loaded)
        try:
            async for batch in batches:
                await self._take(batch, take)
                if last is not None and batch.sequence >= last:
                    return True
        except Truncated as gap:
            self._record.truncated += 1
            log.warning(
                "a log of the session directory begins later than what was to be read next",
                director=self.director,
                wanted=self.loaded + 1,
                first=gap.first,
            )
            self.loaded = gap.first - 1
            return last is not None and self.loaded >= last
        finally:
            close = getattr(batches, "aclose", None)
            if close is not None:
                await close()
        return False

    async def _take(self, batch: Batch, take: Take) -> None:
        try:
            told = exception.decode(batch.data, self.director, self._secret)
        except BatchError as error:
            self._reject(error)
        else:
            await take(told)
        self.loaded = batch.sequence

    def _reject(self, error: BatchError) -> None:
        name = f"rejected_{error.reason}"
        setattr(self._record, name, getattr(self._record, name) + 1)
        if self._complained != error.reason:
            log.error("a batch is skipped", director=self.director, why=str(error))
        self._complained = error.reason
