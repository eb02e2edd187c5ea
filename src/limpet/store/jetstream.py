# SPDX-License-Identifier: Apache-2.0
"""The store of many machines: NATS JetStream, three copies, each change on the disks of two.

A change is one message to a stream, with the revision it was made for; JetStream takes it or not.
It carries an id, so that it may be sent again when the answer got lost. Keys are read from the
stream's leader, never from a copy that lags.

A watch reads what is there, then follows from the sequence it read at; after an interruption it
goes on behind the last message, or reads everything again if the stream is another or was away for
too long. So the last state of every key is always told, and `Deleted` only of what is gone.

NATS is an external program: docs/operate/store.md says how it has to be set up.
"""

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamInfo
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from limpet.core.errors import LimpetError, NotFound, Unavailable
from limpet.store import backup
from limpet.store.backup import Snapshot
from limpet.store.following import Interrupted, follow
from limpet.store.interface import (
    BLOB_BYTES_MAX,
    Batch,
    Connection,
    Deleted,
    Entry,
    Limits,
    Outdated,
    Ready,
    Truncated,
    check_name,
    check_size,
)
from limpet.store.link import Link, Servers
from limpet.store.streams import REPLICAS, Layout

OPERATION, DELETE = "KV-Operation", "DEL"  # as NATS's own tools write it
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
MESSAGE_ID = "Nats-Msg-Id"
NO_STREAM, NO_MESSAGE, EXISTS = 10059, 10037, 10058
IS_ANOTHER = {10071, 10164}  # wrong last sequence: the key has moved on
MARK_S = 3_600  # the mark of a deleted key stays so long
AWAY_S_MAX = MARK_S / 2  # a watch that was away for longer reads everything again
RETRY_S = 0.2
UNDER_WAY_S = 0.005
CONFIRM_S = 1.0  # a log that seems to have lost its end is looked at again: a new leader may lag
BLOB_PART_BYTES = 512 << 10
AT_ONCE = 8  # requests of one call that are under way together


@dataclass(slots=True)
class _Watched:
    """Where a watch stands."""

    known: dict[str, int] = field(default_factory=dict)
    position: int = 0  # of the last message seen
    created: object = None  # of the stream
    at: float = 0.0  # when it was last in touch


class JetStreamStore:
    """A `Store` in NATS."""

    def __init__(self, servers: Servers, cluster: str, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._layout = Layout(cluster, self._limits)
        self._link = Link(servers, self._limits.deadline_s)
        self._ensured: set[str] = set()

    @property
    def state(self) -> Connection:
        return self._link.state

    def on_change(self, callback: Callable[[Connection], None]) -> None:
        self._link.on_change(callback)

    async def close(self) -> None:
        await self._link.close()

    # --- Keys -----------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        check_name(key)
        found = await self._last_message(self._layout.keys, self._layout.key_subject(key))
        return None if found is None or _is_mark(found) else _entry(key, found)

    async def put_if(self, key: str, value: bytes, revision: int) -> int:
        check_name(key)
        check_size(f"value of {key!r}", value)
        return await self._write(key, value, revision, {})

    async def delete_if(self, key: str, revision: int) -> None:
        check_name(key)
        found = await self.get(key)
        current = found.revision if found else 0
        if current != revision:  # to the servers, the mark of a deleted key has a revision too
            raise Outdated(key, revision, current)
        if not revision:
            return
        mark = {OPERATION: DELETE, "Nats-TTL": str(MARK_S)}
        await self._write(key, b"", revision, mark)

    async def _write(self, key: str, data: bytes, revision: int, headers: dict[str, str]) -> int:
        subject, expected = self._layout.key_subject(key), revision
        identity, until = uuid.uuid4().hex, time.monotonic() + self._limits.deadline_s
        while time.monotonic() < until:
            wanted = headers | {EXPECTED: str(expected), MESSAGE_ID: f"{identity}.{expected}"}
            sequence = await self._publish(self._layout.keys, subject, data, wanted)
            if sequence:
                return sequence
            found = await self._last_message(self._layout.keys, subject)
            is_there = found is not None and not _is_mark(found)
            current = _sequence(found) if found and is_there else 0
            if current != revision:
                raise Outdated(key, revision, current)
            # Behind the mark of a deleted key; or another's change is still on its way to the
            # disks, and it was that which this one does not fit.
            expected = _sequence(found) if found else 0
            await asyncio.sleep(UNDER_WAY_S)
        raise Unavailable(f"store: key {key!r} is being changed by others all the time")

    # --- Watching -------------------------------------------------------------------------------

    async def watch(self, prefix: str) -> AsyncIterator[Entry | Deleted | Ready]:
        watched, is_ready = _Watched(), False
        while not self._link.is_closed:
            try:
                for each in await self._catch_up(prefix, watched):
                    yield each
                if not is_ready:
                    is_ready = True
                    yield Ready()
                async for change in self._follow_keys(prefix, watched):
                    yield change
            except (Interrupted, Unavailable, LimpetError):
                if not self._link.is_closed:
                    await asyncio.sleep(RETRY_S)

    async def _catch_up(self, prefix: str, watched: _Watched) -> list[Entry | Deleted]:
        """All that is new since, if following alone would not tell."""
        info = await self._info(self._layout.keys)
        is_same = watched.created == info.created and info.state.last_seq >= watched.position
        if is_same and time.monotonic() - watched.at < AWAY_S_MAX:
            return []
        found = {each.key: each for each in await self._whole(prefix)}
        news: list[Entry | Deleted] = [
            Deleted(key, 0) for key in sorted(watched.known.keys() - found.keys())
        ]
        news += [each for each in found.values() if watched.known.get(each.key) != each.revision]
        watched.known = {each.key: each.revision for each in found.values()}
        watched.position = info.state.last_seq
        watched.created, watched.at = info.created, time.monotonic()
        return news

    async def _follow_keys(self, prefix: str, watched: _Watched) -> AsyncIterator[Entry | Deleted]:
        subject = self._layout.key_filter(prefix)
        async for message in follow(self._link, self._layout.keys, subject, watched.position):
            watched.position, watched.at = message.sequence, time.monotonic()
            key = self._layout.key_of(message.subject)
            if not key.startswith(prefix) or message.sequence <= watched.known.get(key, 0):
                continue
            if OPERATION not in message.headers:
                watched.known[key] = message.sequence
                yield Entry(key, message.data, message.sequence)
            elif watched.known.pop(key, None):
                yield Deleted(key, message.sequence)

    async def _whole(self, prefix: str) -> list[Entry]:
        """Every key that is there, as the leader has it."""
        info = await self._info(self._layout.keys, self._layout.key_filter(prefix))
        keys = [self._layout.key_of(subject) for subject in info.state.subjects or ()]
        one_by_one = asyncio.Semaphore(AT_ONCE)

        async def get(key: str) -> Entry | None:
            async with one_by_one:
                return await self.get(key)

        found = await asyncio.gather(*(get(key) for key in keys if key.startswith(prefix)))
        return sorted((each for each in found if each), key=lambda each: each.revision)

    # --- Logs -----------------------------------------------------------------------------------

    async def append(self, log: str, batch: bytes) -> int:
        check_name(log)
        check_size(f"batch for log {log!r}", batch)
        stream, subject = self._layout.log(log), self._layout.log_subject(log)
        return await self._publish(stream, subject, batch, {MESSAGE_ID: uuid.uuid4().hex})

    async def last(self, log: str) -> int:
        check_name(log)
        return (await self._info(self._layout.log(log))).state.last_seq

    async def read(self, log: str, after: int) -> AsyncIterator[Batch]:
        check_name(log)
        stream, subject = self._layout.log(log), self._layout.log_subject(log)
        while not self._link.is_closed:
            try:
                await self._check_kept(log, after)
                async for message in follow(self._link, stream, subject, after):
                    if message.sequence != after + 1:
                        raise Truncated(log, after, message.sequence)
                    after = message.sequence
                    yield Batch(after, message.data)
            except Truncated:
                raise
            except (Interrupted, LimpetError):
                if not self._link.is_closed:
                    await asyncio.sleep(RETRY_S)

    async def _check_kept(self, log: str, after: int) -> None:
        until = time.monotonic() + CONFIRM_S
        while True:
            state = (await self._info(self._layout.log(log))).state
            first = max(state.first_seq, 1)
            if after + 1 < first:
                raise Truncated(log, after, first)
            if after <= state.last_seq:
                return
            if time.monotonic() > until:
                raise Truncated(log, after, first)
            await asyncio.sleep(RETRY_S)

    # --- Blobs ----------------------------------------------------------------------------------

    async def put_blob(self, data: bytes) -> str:
        check_size("blob", data, BLOB_BYTES_MAX)
        digest = hashlib.sha256(data).hexdigest()
        parts = [data[at : at + BLOB_PART_BYTES] for at in range(0, len(data), BLOB_PART_BYTES)]
        for begin in range(0, len(parts), AT_ONCE):
            some = enumerate(parts[begin : begin + AT_ONCE], begin)
            await asyncio.gather(*(self._put_part(digest, number, part) for number, part in some))
        # Last, so that a blob without it was never put whole.
        await self._put_part(digest, "head", json.dumps({"parts": len(parts)}).encode())
        return digest

    async def _put_part(self, digest: str, part: int | str, data: bytes) -> None:
        subject = self._layout.blob_subject(digest, part)
        await self._publish(self._layout.blobs, subject, data, {MESSAGE_ID: uuid.uuid4().hex})

    async def get_blob(self, digest: str) -> bytes:
        head = await self._get_part(digest, "head")
        numbers = range(json.loads(head)["parts"])
        parts: list[bytes] = []
        for begin in range(0, len(numbers), AT_ONCE):
            some = numbers[begin : begin + AT_ONCE]
            parts += await asyncio.gather(*(self._get_part(digest, number) for number in some))
        data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != digest:
            raise NotFound(f"store: blob {digest} is damaged")
        return data

    async def _get_part(self, digest: str, part: int | str) -> bytes:
        subject = self._layout.blob_subject(digest, part)
        found = await self._last_message(self._layout.blobs, subject)
        if found is None:
            raise NotFound(f"store: no blob {digest}: it was never put here, or gave way to others")
        return found.data or b""

    # --- All of it ------------------------------------------------------------------------------

    async def snapshot(self) -> bytes:
        entries = await self._whole("")
        blobs = await self._info(self._layout.blobs, self._layout.blob_filter)
        snapshot = Snapshot(
            revision=(await self._info(self._layout.keys)).state.last_seq,
            entries={each.key: each.value for each in sorted(entries, key=lambda each: each.key)},
            logs=await self._logs(),
        )
        for subject in blobs.state.subjects or ():
            if subject.endswith(".head"):
                snapshot.blobs.append(await self.get_blob(subject.split(".")[-2]))
        return backup.encode(snapshot)

    async def restore(self, data: bytes) -> None:
        snapshot = backup.decode(data)
        await self._begin_anew(self._layout.keys, snapshot.revision, snapshot.revision)
        for log, last in snapshot.logs.items():
            await self._begin_anew(self._layout.log(log), last, last + backup.LOG_GAP)
        for blob in snapshot.blobs:
            await self.put_blob(blob)
        there = {each.key: each.revision for each in await self._whole("")}
        for key, revision in there.items():
            if key not in snapshot.entries:
                await self.delete_if(key, revision)
        for key, value in snapshot.entries.items():
            await self.put_if(key, value, there.get(key, 0))

    async def _logs(self) -> dict[str, int]:
        """Every log of this cluster, and where it ends."""
        found: dict[str, int] = {}
        offset = 0
        while True:
            at = offset
            page = await self._link.call("list logs", lambda js: js.streams_info(at))  # noqa: B023
            for info in page:
                name = self._layout.log_name(info.config.name or "")
                if name is not None:
                    found[name] = info.state.last_seq
            offset += len(page)
            if not page:
                return found

    async def _begin_anew(self, stream: str, least: int, behind: int) -> None:
        """A stream that ends before `least` is replaced by an empty one that begins behind."""
        info = await self._info(stream)
        if info.state.last_seq >= least:
            return

        async def attempt(js: JetStreamContext) -> None:
            with contextlib.suppress(NotFoundError):
                await js.delete_stream(stream)
            await js.add_stream(self._layout.config(stream, self._replicas, behind + 1))

        await self._link.call(f"begin {stream} anew", attempt)

    # --- Requests -------------------------------------------------------------------------------

    @property
    def _replicas(self) -> int:
        return REPLICAS if self._link.servers >= REPLICAS else 1

    async def _ensure(self, js: JetStreamContext, stream: str) -> None:
        """Create the stream, or give it the copies that there are servers for by now."""
        if stream in self._ensured:
            return
        try:
            info = await js.stream_info(stream)
        except NotFoundError:
            info = await js.add_stream(self._layout.config(stream, self._replicas))
        if (info.config.num_replicas or 1) < self._replicas:
            await js.update_stream(info.config.evolve(num_replicas=self._replicas))
        self._ensured.add(stream)

    async def _info(self, stream: str, subjects: str | None = None) -> StreamInfo:
        async def attempt(js: JetStreamContext) -> StreamInfo:
            self._ensured.discard(stream)
            await self._ensure(js, stream)
            return await js.stream_info(stream, subjects)

        return await self._link.call(f"ask about {stream}", attempt)

    async def _publish(
        self, stream: str, subject: str, data: bytes, headers: dict[str, str]
    ) -> int:
        """Sequence; 0 if the subject is at another than expected."""

        async def attempt(js: JetStreamContext) -> int:
            await self._ensure(js, stream)
            try:
                answer = await js.publish(subject, data, stream=stream, headers=dict(headers))
            except NoStreamResponseError:
                self._ensured.discard(stream)
                raise
            except APIError as error:
                if error.err_code in IS_ANOTHER:
                    return 0
                raise
            return answer.seq

        return await self._link.call(f"write to {stream}", attempt)

    async def _last_message(self, stream: str, subject: str) -> RawStreamMsg | None:
        async def attempt(js: JetStreamContext) -> RawStreamMsg | None:
            await self._ensure(js, stream)
            try:
                return await js.get_last_msg(stream, subject)
            except NotFoundError as error:
                if error.err_code == NO_STREAM:
                    self._ensured.discard(stream)
                return None

        return await self._link.call(f"read {subject}", attempt)


def _is_mark(message: RawStreamMsg) -> bool:
    return OPERATION in (message.headers or {})


def _sequence(message: RawStreamMsg) -> int:
    return message.seq or 0


def _entry(key: str, message: RawStreamMsg) -> Entry:
    return Entry(key, message.data or b"", _sequence(message))
