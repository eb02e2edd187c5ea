# SPDX-License-Identifier: Apache-2.0
"""A director's log: batches are full, in time, of one generation; the queue has an end."""

import asyncio
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from directory.place import WAIT_S
from limpet.core import exception
from limpet.core.errors import Unavailable
from limpet.core.exception import BATCH_MAX, RECORD, Records
from limpet.daemon.directory import ownlog
from limpet.daemon.directory.ownlog import OwnLog
from limpet.daemon.directory.record import Record
from limpet.store.embedded import EmbeddedStore

SECRET, NAME = b"k" * 32, "fra-d1"


def records(count: int, generation: int = 1) -> Records:
    made = np.zeros(count, RECORD)
    made["key"]["client"][:, 1] = np.arange(count)
    made["generation"], made["origin"] = generation, exception.origin_of(NAME)
    return made


class Failing(EmbeddedStore):
    """A file that refuses so many appends, some of them after they were made."""

    failures = 0

    async def append(self, log: str, batch: bytes) -> int:
        if self.failures:
            self.failures -= 1
            if self.failures % 2:
                await super().append(log, batch)
            raise Unavailable("store: out of reach")
        return await super().append(log, batch)


async def written(store: EmbeddedStore) -> list[Records]:
    found: list[Records] = []
    last = await store.last(f"directory-{NAME}")
    if last:
        async for batch in store.read(f"directory-{NAME}", 0):
            found.append(exception.decode(batch.data, NAME, SECRET).records)
            if batch.sequence == last:
                break
    return found


async def appended(folder: Path, *offered: Records, failures: int = 0) -> list[Records]:
    store, record = Failing(folder / "cluster.db"), Record()
    store.failures = failures
    log = OwnLog(store, NAME, SECRET, record)
    task = asyncio.create_task(log.run())
    for each in offered:
        assert len(log.offer(each)) == len(each)
    async with asyncio.timeout(WAIT_S):
        sequence = await log.flush()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert sequence == await store.last(f"directory-{NAME}")
    assert (record.published, record.queued) == (sum(map(len, offered)), 0)
    assert record.append_failed == failures
    found = await written(store)
    await store.close()
    return found


def test_entries_that_come_together_share_batches(tmp_path: Path) -> None:
    found = asyncio.run(appended(tmp_path, *(records(10) for _ in range(100))))
    assert sorted(map(len, found)) == sorted([BATCH_MAX] * 3 + [1_000 - 3 * BATCH_MAX])


def test_a_batch_is_of_one_generation(tmp_path: Path) -> None:
    found = asyncio.run(appended(tmp_path, records(10), records(10), records(5, 2)))
    assert sorted((len(each), int(each["generation"][0])) for each in found) == [(5, 2), (20, 1)]


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_what_a_store_refused_is_sent_again(
    tmp_path: Path, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownlog, "RETRY_S", 0.01)
    found = asyncio.run(appended(tmp_path, records(700), failures=failures))
    clients = {int(each["key"]["client"][1]) for batch in found for each in batch}
    assert clients == set(range(700))


def test_a_full_queue_drops_news_and_lets_scans_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownlog, "QUEUE_MAX", 100)

    async def run() -> None:
        store, record = EmbeddedStore(tmp_path / "cluster.db"), Record()
        log = OwnLog(store, NAME, SECRET, record)
        assert len(log.offer(records(90))) == 90
        assert len(log.offer(records(20))) == 10
        assert record.queue_full == 10
        waiting = asyncio.create_task(log.room(50))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        task = asyncio.create_task(log.run())
        async with asyncio.timeout(WAIT_S):
            await waiting
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()

    asyncio.run(run())
