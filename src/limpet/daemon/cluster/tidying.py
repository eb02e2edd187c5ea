# SPDX-License-Identifier: Apache-2.0
"""Tidying: what nobody needs any more goes out of the store. The leader does it, once a minute.

A director's report says which ids its flows and sessions name, and those are kept for it: one that
never comes back would hold them for ever, and so it is forgotten after two weeks
(core/cluster.py: ABSENT_MAX_S), or when an operator says that it is gone. One that was forgotten
and comes back all the same reports again, and is there.

Of the history the last revisions stay, within limits of number and size, so that what people
change can never fill the store. The current one is not there alone: the head has it.
"""

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import structlog

from limpet.core import cluster, cluster_wire
from limpet.core.errors import Conflict, LimpetError, NotFound
from limpet.daemon.cluster.changes import HISTORY
from limpet.daemon.cluster.membership import Record
from limpet.daemon.cluster.sight import REPORTS, Sight
from limpet.daemon.unixtime import now_s
from limpet.store.interface import Entry, Outdated, Ready, Store

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

PERIOD_S = 60.0
SHARED_HISTORY_MAX = 1_000  # revisions
SHARED_HISTORY_BYTES_MAX = 32 << 20  # of these, compressed; a quarter of what a store takes
HISTORY_STEP = 16  # revisions that are made between two looks at all of them
log = structlog.get_logger()


class Tidying:
    """The task."""

    def __init__(self, store: Store, sight: Sight, record: Record, me: str) -> None:
        self._store, self._sight, self._record, self._me = store, sight, record, me
        self._looked = -HISTORY_STEP  # the revision at which all of the history was looked at

    async def run(self) -> None:
        """Tidy while this director leads, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            if not self._record.leads:
                continue
            try:
                await self.tidy(now_s())
            except LimpetError as error:
                log.warning("the store could not be tidied", why=str(error))

    async def tidy(self, unix: float) -> None:
        """Once. `unix`: the wall clock."""
        reports = self._sight.reports
        for name in cluster.absent(reports, time.monotonic(), unix):
            await self._forget(name, unix)
        head = self._sight.head
        if head is not None and head.revision >= self._looked + HISTORY_STEP:
            await self.shorten_history()
            self._looked = head.revision

    async def _forget(self, name: str, unix: float) -> None:
        """Unless it has reported meanwhile."""
        entry = await self._store.get(REPORTS + name)
        if entry is None:
            return
        try:
            at = cluster_wire.decode_report(entry.value).at
        except ValueError:
            return  # another version's: that one knows what to do with it
        if unix - at > cluster.ABSENT_MAX_S and await self._deleted(entry):
            log.warning("a director that was away for long is forgotten", director_gone=name)

    async def shorten_history(self) -> None:
        """Delete the oldest revisions beyond the limits."""
        kept = [(each.key, each.revision, len(each.value)) for each in await self._history()]
        size = sum(bytes_ for _, _, bytes_ in kept)
        for number, (key, revision, bytes_) in enumerate(kept):
            if len(kept) - number <= SHARED_HISTORY_MAX and size <= SHARED_HISTORY_BYTES_MAX:
                return
            size -= bytes_
            try:
                await self._store.delete_if(key, revision)
            except Outdated:
                continue  # another leader was faster
            self._record.history_forgotten += 1

    async def _history(self) -> list[Entry]:
        """The oldest first."""
        found = []
        watch = cast("AsyncGenerator[object, None]", self._store.watch(HISTORY))
        async with aclosing(watch):
            async for each in watch:
                if isinstance(each, Ready):
                    break
                if isinstance(each, Entry):
                    found.append(each)
        return sorted(found, key=lambda each: each.key)

    # --- By command -----------------------------------------------------------------------------

    async def remove(self, name: str) -> None:
        """Have the cluster forget a director that is gone. Raises NotFound, or Conflict while it
        is there."""
        reports = self._sight.reports
        if name not in reports:
            names = ", ".join(sorted(reports))
            raise NotFound(f"the cluster has no director {name!r}; directors: {names}")
        if name == self._me or name in cluster.reachable(reports, time.monotonic()):
            raise Conflict(
                f"director {name!r} is there: stop it first (systemctl stop limpet, then limpet "
                "down), else it would be back within a second"
            )
        entry = await self._store.get(REPORTS + name)
        if entry is not None and not await self._deleted(entry):
            raise Conflict(f"director {name!r} has just reported: it is there")

    async def _deleted(self, entry: Entry) -> bool:
        """Whether nobody has changed it meanwhile."""
        try:
            await self._store.delete_if(entry.key, entry.revision)
        except Outdated:
            return False
        self._record.forgotten += 1
        return True
