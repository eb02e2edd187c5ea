# SPDX-License-Identifier: Apache-2.0
"""Catchup: who was away loads what the others have told meanwhile, before it trusts its tables.

At a start, and each time that the store hears this director again after it did not: sessions may
have moved, and only the logs of the others say so. Until all that they held when it came back is in
effect here, the director is sure of no slot, so it asks the others for flows that it does not know,
and it announces no address that was not announced before.

A log that cannot be loaded must not keep a director out of service for ever: after `LATE_S` it is
announced all the same, and that is counted. It stays unsure until it has caught up.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from limpet.core.errors import LimpetError
from limpet.daemon.cluster.sight import Sight
from limpet.daemon.directory.ownlog import PREFIX
from limpet.store.interface import Store

LATE_S = 30.0
POLL_S = 0.05
RETRY_S = 0.5
log = structlog.get_logger()


class Catchup:
    """Of one director; behind until it has caught up for the first time."""

    def __init__(self, store: Store, sight: Sight, me: str) -> None:
        self._store, self._sight, self._me = store, sight, me
        self._wanted = asyncio.Event()
        self._since = time.monotonic()
        self.is_behind = True
        self.missing: tuple[str, ...] = ()  # directors whose logs are being loaded, if known
        self.late = 0  # times that it took longer than LATE_S
        self.loaded: Callable[[], Mapping[str, int]] = dict  # of each log, by its director
        self.changed: Callable[[], object] = lambda: None
        self._wanted.set()

    def again(self) -> None:
        """The director was away from the store, and is back."""
        self._since, self.is_behind = time.monotonic(), True
        self._wanted.set()

    @property
    def why(self) -> str:
        """Why this director is not announced yet; empty: nothing of this keeps it."""
        if not self.is_behind or time.monotonic() - self._since >= LATE_S:
            return ""
        return "what other directors have told of sessions is being loaded"

    async def run(self) -> None:
        """Catch up whenever that is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            late = asyncio.create_task(self._note_late())
            try:
                await self._catch_up()
            finally:
                late.cancel()
            if not self._wanted.is_set():
                self.is_behind = False
                took = round(time.monotonic() - self._since, 2)
                log.info("caught up with the other directors", after_s=took)
                self.changed()

    async def _note_late(self) -> None:
        await asyncio.sleep(LATE_S)
        self.late += 1
        what = "logs of other directors are not loaded; unknown flows are asked for"
        log.error(what, missing=self.missing)
        self.changed()

    async def _catch_up(self) -> None:
        """Until everything is loaded that was in the others' logs when this began."""
        ends = await self._ends()
        while True:
            loaded = self.loaded()
            ends = {name: end for name, end in ends.items() if loaded.get(name, 0) < end}
            self.missing = tuple(sorted(ends.keys() & self._sight.reports.keys()))
            if not self.missing:
                return
            await asyncio.sleep(POLL_S)

    async def _ends(self) -> dict[str, int]:
        """Where the log of each other director ends; the store says so when it is in reach."""
        while True:
            try:
                if self._sight.has_reports:
                    names = self._sight.reports.keys() - {self._me}
                    return {name: await self._store.last(PREFIX + name) for name in sorted(names)}
            except LimpetError as error:
                log.debug("logs are out of reach", why=str(error))
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(POLL_S)
