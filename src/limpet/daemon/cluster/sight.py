# SPDX-License-Identifier: Apache-2.0
"""Sight: what a director sees of its cluster in the store: head, reports, lease.

Kept up to date by watching. When something last changed is told by this director's own steady
clock, so that nobody's wall clock decides who is alive. What cannot be read is logged and counted,
and the last that could be read stays.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from limpet.core import cluster_wire
from limpet.core.cluster import Head, Report, Seen
from limpet.daemon.unixtime import CLOCK, now_s
from limpet.store.interface import Deleted, Entry, Ready, Store

HEAD, LEASE, REPORTS = "head", "leader", "director/"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads, and since when by our clock the lease has been as it is."""

    holder: bytes = b""
    revision: int = 0
    at: float = 0.0


class Sight:
    """What is known, and the tasks that watch."""

    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        self._store, self._changed = store, changed
        self.head: Head | None = None
        self.head_revision = 0  # of the key in the store
        self.following_since = 0.0  # when this `following` was first seen
        self.reports: dict[str, Seen] = {}
        self.lease = Lease(at=time.monotonic())
        self.unreadable = 0
        self.skews: dict[str, float] = {}  # by director: seconds that our time is ahead of its
        self.has_reports = False  # all that were there at first have been seen
        self.is_ready = False  # all that was there at first has been seen

    async def watch_head(self) -> None:
        async for found in self._store.watch(HEAD):
            if isinstance(found, Entry) and found.key == HEAD:
                self.see_head(found)
            elif isinstance(found, Deleted) and found.key == HEAD:
                self.head, self.head_revision = None, found.revision
            elif isinstance(found, Ready):
                self.is_ready = True
            self._changed()

    def see_head(self, entry: Entry) -> None:
        """A head that was read or put; an older one than is known changes nothing."""
        if entry.revision <= self.head_revision:
            return
        try:
            head = cluster_wire.decode_head(entry.value)
        except ValueError as error:
            self._note_unreadable(error)
            return
        before = None if self.head is None else self.head.following
        if head.following != before:
            self.following_since = time.monotonic()
        self.head, self.head_revision = head, entry.revision

    async def watch_reports(self) -> None:
        async for found in self._store.watch(REPORTS):
            if isinstance(found, Entry):
                self._see_report(found)
            elif isinstance(found, Deleted):
                name = found.key.removeprefix(REPORTS)
                self.reports.pop(name, None)
                self.skews.pop(name, None)
            elif isinstance(found, Ready):
                self.has_reports = True
            self._changed()

    def _see_report(self, entry: Entry) -> None:
        try:
            report = cluster_wire.decode_report(entry.value)
        except ValueError as error:
            self._note_unreadable(error)
            return
        before = self.reports.get(report.name)
        if before is not None and before.report.at != report.at:
            CLOCK.hear(report.at)
            self.skews[report.name] = now_s() - report.at
        # At first sight nobody knows how old it is: it counts as old, until it changes.
        at = time.monotonic() if before is not None or self._is_recent(report) else 0.0
        self.reports[report.name] = Seen(report, at)

    @staticmethod
    def _is_recent(report: Report) -> bool:
        return abs(now_s() - report.at) < 2.0

    async def watch_lease(self) -> None:
        async for found in self._store.watch(LEASE):
            if isinstance(found, Entry) and found.key == LEASE:
                self.see_lease(found)
            elif isinstance(found, Deleted):
                self.lease = Lease()
            self._changed()

    def see_lease(self, entry: Entry) -> None:
        if entry.revision > self.lease.revision:
            self.lease = Lease(entry.value, entry.revision, time.monotonic())

    def _note_unreadable(self, error: ValueError) -> None:
        self.unreadable += 1
        log.error("the store has what this limpet cannot read", why=str(error))
