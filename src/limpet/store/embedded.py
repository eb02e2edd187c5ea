# SPDX-License-Identifier: Apache-2.0
"""The store of one machine: a file that several processes may share.

For a single director, or several on one machine: nothing to install, no process that could die.
SQLite does the work, in one thread of its own; the event loop never waits for the disk. What other
processes change is noticed by asking the file every 50 ms, which costs microseconds.

What cannot be written (disk full, locked for too long) is `Unavailable`, and the next call tries
anew.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from limpet.core.errors import Unavailable
from limpet.store.interface import (
    BLOB_BYTES_MAX,
    Batch,
    Connection,
    Deleted,
    Entry,
    Limits,
    Ready,
    check_name,
    check_size,
)
from limpet.store.shared_file import SharedFile

POLL_S = 0.05
RETRY_S = 0.5
T = TypeVar("T")


class EmbeddedStore:
    """A `Store` in one file."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._path = path
        self._limits = limits or Limits()
        self._file: SharedFile | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._changed = asyncio.Event()  # replaced whenever it is set
        self._polling: asyncio.Task[None] | None = None
        self._is_closed = False
        self._callbacks: list[Callable[[Connection], None]] = []
        self._state = Connection(True, time.time(), str(path))

    @property
    def state(self) -> Connection:
        return self._state

    def on_change(self, callback: Callable[[Connection], None]) -> None:
        self._callbacks.append(callback)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._wake()
        if self._polling:
            self._polling.cancel()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._close_file)
        self._thread.shutdown()

    def _close_file(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    # --- Calls ----------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        check_name(key)
        return await self._call(lambda file: file.get(key))

    async def put_if(self, key: str, value: bytes, revision: int) -> int:
        check_name(key)
        check_size(f"value of {key!r}", value)
        return await self._change(lambda file: file.put_if(key, value, revision))

    async def delete_if(self, key: str, revision: int) -> None:
        check_name(key)
        await self._change(lambda file: file.put_if(key, None, revision))

    async def append(self, log: str, batch: bytes) -> int:
        check_name(log)
        check_size(f"batch for log {log!r}", batch)
        return await self._change(lambda file: file.append(log, batch))

    async def last(self, log: str) -> int:
        check_name(log)
        return await self._call(lambda file: file.last(log))

    async def put_blob(self, data: bytes) -> str:
        check_size("blob", data, BLOB_BYTES_MAX)
        return await self._change(lambda file: file.put_blob(data))

    async def get_blob(self, digest: str) -> bytes:
        return await self._call(lambda file: file.get_blob(digest))

    async def snapshot(self) -> bytes:
        return await self._call(lambda file: file.snapshot())

    async def restore(self, data: bytes) -> None:
        await self._change(lambda file: file.restore(data))

    async def _change(self, what: Callable[[SharedFile], T]) -> T:
        result = await self._call(what)
        self._wake()
        return result

    async def _call(self, what: Callable[[SharedFile], T]) -> T:
        if self._is_closed:
            raise Unavailable(f"store: {self._path} was closed")
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self._run, what)
        except (sqlite3.Error, OSError) as error:
            self._tell(f"{error}")
            raise Unavailable(
                f"store: {self._path}: {error}. Is the disk full, or the file another's?"
            ) from error
        self._tell("")
        return result

    def _run(self, what: Callable[[SharedFile], T]) -> T:
        self._file = self._file or SharedFile(self._path, self._limits)
        return what(self._file)

    def _tell(self, error: str) -> None:
        """`state` follows from how the last call ended."""
        if self._state.is_connected == (not error):
            return
        reconnects = self._state.reconnects + (not error)
        new = replace(self._state, is_connected=not error, error=error, since=time.time())
        self._state = replace(new, reconnects=reconnects)
        for callback in self._callbacks:
            callback(self._state)

    # --- Following ------------------------------------------------------------------------------

    async def watch(self, prefix: str) -> AsyncIterator[Entry | Deleted | Ready]:
        known: set[str] = set()
        revision, is_ready = 0, False
        async for changed in self._rounds():
            try:
                found = await self._call(lambda file, r=revision: file.changes(prefix, r))  # type: ignore[misc]
            except Unavailable:
                await self._pause()
                continue
            revision = found.revision
            if found.is_whole:
                gone = known - {each.key for each in found.changed}
                found.changed.extend(Deleted(key, 0) for key in sorted(gone))
            for each in found.changed:
                if isinstance(each, Deleted) and each.key not in known:
                    continue
                (known.add if isinstance(each, Entry) else known.discard)(each.key)
                yield each
            if not is_ready:
                is_ready = True
                yield Ready()
            await changed.wait()

    async def read(self, log: str, after: int) -> AsyncIterator[Batch]:
        check_name(log)
        async for changed in self._rounds():
            try:
                found = await self._call(lambda file, a=after: file.batches(log, a))  # type: ignore[misc]
            except Unavailable:
                await self._pause()
                continue
            for batch in found:
                after = batch.sequence
                yield batch
            if not found:
                await changed.wait()

    async def _rounds(self) -> AsyncIterator[asyncio.Event]:
        """One turn after the other until the store is closed; the event says when to look again."""
        self._polling = self._polling or asyncio.create_task(self._poll())
        while not self._is_closed:
            yield self._changed

    async def _pause(self) -> None:
        if not self._is_closed:
            await asyncio.sleep(RETRY_S)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _poll(self) -> None:
        """Notice what other processes do."""
        version = 0
        while not self._is_closed:
            try:
                found = await self._call(lambda file: file.version())
                if found != version:
                    self._wake()
                version = found
            except Unavailable:
                self._wake()
            await asyncio.sleep(POLL_S)
