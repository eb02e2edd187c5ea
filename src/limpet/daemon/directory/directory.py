# SPDX-License-Identifier: Apache-2.0
"""The session directory of one director: tells the exceptions of its data path, learns all others'.

Each director has a log of its own and reads everybody else's; what is newest of every name is in
one table, and in the data path's map. Nothing waits for the store but `prepare` and the sending
itself: with the store down, what is known is used, and what is to be told waits.

What it knows is kept in a file, with how far each log was read. What goes wrong is counted.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from limpet.core import exception
from limpet.core.errors import DatapathError, LimpetError
from limpet.core.exception import KEY, Kind
from limpet.core.model import PoolId, Slots
from limpet.daemon.directory import keeping
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.keeping import Kept
from limpet.daemon.directory.loading import DirectoryMap, Loading
from limpet.daemon.directory.merging import Merging
from limpet.daemon.directory.ownlog import OwnLog
from limpet.daemon.directory.peerlog import PeerLog
from limpet.daemon.directory.placement import Placement
from limpet.daemon.directory.record import Record
from limpet.daemon.directory.telling import Tables, Telling
from limpet.daemon.unixtime import CLOCK, now_ms
from limpet.store.interface import Store

KEEP_S = 60.0  # between two times that the table is written to the disk
RETRY_S = 1.0
log = structlog.get_logger()


class Kernel(Tables, Protocol):
    """What is asked of the data path."""

    def directory(self) -> DirectoryMap: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this director is, and its limits."""

    name: str
    secret: bytes  # the cluster's key
    folder: Path  # for the file of `keeping`
    tick_s: float  # of the data path
    entries_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """What the directory has of a name."""

    backend: int
    flags: int
    origin: str  # director; empty: one that is not in the cluster any more
    generation: int
    time: float  # Unix time at which the session was last seen there, or moved
    expiry: float


class Directory:
    """The task, and what it knows. To be made and used in one event loop."""

    def __init__(self, store: Store, kernel: Kernel, identity: Identity) -> None:
        self._store, self._identity = store, identity
        self._record, self._origin = Record(), exception.origin_of(identity.name)
        clock = Clock(kernel.tick, identity.tick_s)
        loading = Loading(kernel.directory(), self._origin, clock, self._record)
        self._merging = Merging(identity.entries_max, loading, self._record)
        self._own = OwnLog(store, identity.name, identity.secret, self._record)
        self._telling = Telling(kernel, self._own, self._merging, clock, self._record, self._origin)
        self._telling.placement = self._effective
        self._placement: Placement | None = None
        self._moving: tuple[int, Mapping[PoolId, tuple[Slots, ...]]] | None = None
        self._peers: dict[str, PeerLog] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._read: dict[str, int] = {}  # of logs that are not read now: how far
        self._group: asyncio.TaskGroup | None = None

    # --- What it is told -------------------------------------------------------------------------

    def place(self, placement: Placement) -> None:
        """What is in effect from now on: VIPs, tables, generation."""
        if self._moving is not None and placement.generation >= self._moving[0]:
            self._moving = None
        self._placement = placement

    def _effective(self) -> Placement | None:
        """With the tables to come, while a change is under way."""
        if self._placement is None or self._moving is None:
            return self._placement
        return self._placement.with_tables(self._moving[1])

    def peers(self, names: Iterable[str]) -> None:
        """Who else is in the cluster; their logs are read from now on."""
        wanted = {*names} - {self._identity.name}
        for name in self._peers.keys() - wanted:
            self._read[name] = self._peers.pop(name).loaded
            if name in self._readers:
                self._readers.pop(name).cancel()
        for name in sorted(wanted - self._peers.keys()):
            self._peers[name] = self._log_of(name)
            self._start(name)

    def _log_of(self, name: str) -> PeerLog:
        found = PeerLog(self._store, name, self._identity.secret, self._record)
        found.loaded = self._read.pop(name, 0)
        return found

    def _start(self, name: str) -> None:
        if self._group is not None:
            task = self._group.create_task(self._peers[name].run(self._merging.learn))
            self._readers[name] = task

    async def prepare(self, generation: int, moved: Mapping[PoolId, tuple[Slots, ...]]) -> int:
        """Tell what tables to come make an exception; the sequence up to which that is told.

        `moved`: pools whose slots move, with their tables of before and after. What begins later
        is told by the marks on the slots, so those come first. Waits for the store; raises
        DatapathError if the data path's tables could not be read.
        """
        assert self._placement is not None, "place comes first"
        self._moving = generation, moved
        await self._telling.tell_news()
        if not await self._telling.scan(self._placement.with_tables(moved).of_pools(moved)):
            raise DatapathError("scan for exceptions", 0, "failed; the log says why")
        return await self._own.flush()

    # --- What it tells ---------------------------------------------------------------------------

    def loaded_up_to(self) -> Mapping[str, int]:
        """For each of the other directors, how much of its log is in effect in the data path."""
        return {name: peer.loaded for name, peer in self._peers.items()}

    @property
    def published_up_to(self) -> int:
        """The sequence of the last batch in this director's log."""
        return self._own.sequence

    def record(self) -> dict[str, int | float]:
        """Counters by name."""
        self._record.entries = len(self._merging.table)
        self._record.clock_jumps, self._record.clock_off_s = CLOCK.jumps, CLOCK.off_s
        return asdict(self._record)

    def known(self, vip: int, kind: Kind, client: tuple[int, int], number: int) -> Known | None:
        """What is known of a session or flow; `number` is the field `range` of its key."""
        keys = np.zeros(1, KEY)
        keys["client"], keys["range"], keys["vip"], keys["kind"] = client, number, vip, kind
        found = self._merging.known(keys)[0]
        if found["expiry"] <= now_ms():
            return None
        names = {exception.origin_of(name): name for name in (*self._peers, self._identity.name)}
        return Known(
            int(found["backend"]),
            int(found["flags"]),
            names.get(int(found["origin"]), ""),
            int(found["generation"]),
            int(found["time"]) / 1e3,
            int(found["expiry"]) / 1e3,
        )

    # --- Tasks -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell and learn until cancelled; what is known is kept at the end."""
        await self._recall()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name in self._peers:
                    self._start(name)
                for task in (self._own.run, self._merging.run, self._telling.run, self._replay):
                    group.create_task(task())
                group.create_task(self._keep_always())
        finally:
            self._group = None
            self._readers.clear()
            keeping.keep(self._identity.folder, self._kept())

    async def _recall(self) -> None:
        kept = await asyncio.to_thread(keeping.recall, self._identity.folder)
        await self._merging.recall(np.concatenate([kept.records, kept.waiting]))
        self._own.offer(kept.waiting[kept.waiting["expiry"] > now_ms()])
        for name, sequence in kept.loaded.items():
            if name in self._peers:
                self._peers[name].loaded = max(sequence, self._peers[name].loaded)
            else:
                self._read[name] = sequence

    async def _replay(self) -> None:
        """What this director told before it was started: the cluster knows that, and so must it."""
        own = self._log_of(self._identity.name)
        while True:
            try:
                last = await own.replay(self._merging.remember)
                self._own.sequence = max(self._own.sequence, last)
                return
            except LimpetError as error:
                log.warning("own log of the session directory cannot be read", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def _keep_always(self) -> None:
        before = None
        while True:
            await asyncio.sleep(KEEP_S)
            marks = self._record.merged, self._record.published
            if marks != before:
                await asyncio.to_thread(keeping.keep, self._identity.folder, self._kept())
            before = marks

    def _kept(self) -> Kept:
        loaded = {**self._read, **self.loaded_up_to()}
        loaded[self._identity.name] = self._own.sequence
        return Kept(self._merging.records(), loaded, self._own.waiting())
