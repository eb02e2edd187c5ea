# SPDX-License-Identifier: Apache-2.0
"""One file, several processes at once, some of which are killed: nothing acknowledged is lost.

Each process says on its output what was acknowledged, and the file is judged by that.
"""

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limpet.core.errors import Unavailable
from limpet.core.model import Cluster
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Deleted, Entry, Limits, Ready, Truncated
from limpet.store.opening import open_store
from limpet.store.shared_file import DELETED_ROWS_MAX, FORGET_EVERY, SharedFile
from store.stores import WAIT_S, run

PROCESSES = 4
NUMBERS = 60  # that are counted between the first kill and the last
# Counts a shared key up with compare-and-set, and logs what it has made of it.
WORKER = """
import asyncio, sys
from pathlib import Path
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Limits, Outdated

async def work(path, name):
    store = EmbeddedStore(Path(path), Limits(deadline_s=60.0))  # in turn, however slowly
    while True:
        entry = await store.get("count")
        number = int(entry.value) + 1 if entry else 1
        try:
            await store.put_if("count", b"%d" % number, entry.revision if entry else 0)
        except Outdated:
            continue
        print("count", number, flush=True)
        sequence = await store.append("log", f"{name} {number}".encode())
        print("log", sequence, number, flush=True)

asyncio.run(work(*sys.argv[1:]))
"""


class Workers:
    """Processes that work, and what each has said."""

    def __init__(self, path: Path) -> None:
        self._outputs = [path.with_name(f"p{n}") for n in range(PROCESSES)]
        self._processes = []
        for output in self._outputs:
            command = [sys.executable, "-c", WORKER, str(path), output.name]
            with output.open("wb") as said:
                self._processes.append(subprocess.Popen(command, stdout=said))

    def kill(self, some: slice) -> None:
        for each in self._processes[some]:
            each.kill()
            each.wait()

    def counts(self) -> list[list[int]]:
        """What each has counted to."""
        found = [re.findall(r"^count (\d+)$", o.read_text(), re.M) for o in self._outputs]
        return [[int(number) for number in numbers] for numbers in found]

    def logged(self) -> list[tuple[str, str]]:
        """Sequences, and what was logged as them."""
        return [
            pair
            for output in self._outputs
            for pair in re.findall(r"^log (\d+) (\d+)$", output.read_text(), re.M)
        ]

    def wait_for(self, condition: Callable[[list[list[int]]], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not condition(self.counts()):
            assert time.monotonic() < until, self.counts()
            time.sleep(0.02)


@contextlib.contextmanager
def workers(path: Path) -> Iterator[Workers]:
    started = Workers(path)
    try:
        yield started
    finally:
        started.kill(slice(None))


def test_processes_that_are_killed_lose_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"
    with workers(path) as started:
        started.wait_for(all)  # each has begun
        started.kill(slice(1))
        reached = max(map(max, started.counts()))
        started.wait_for(lambda said: max(map(max, said)) >= reached + NUMBERS)
        started.kill(slice(None))
        counts, logged = [n for said in started.counts() for n in said], started.logged()
    assert len(set(counts)) == len(counts), "no number was given out twice"
    assert logged

    async def judge() -> None:
        store = EmbeddedStore(path)
        entry = await store.get("count")
        assert entry
        assert max(counts) <= int(entry.value) <= max(counts) + PROCESSES
        last = await store.last("log")
        data = {}
        async for batch in store.read("log", 0):
            data[batch.sequence] = batch.data.decode().split()[1]
            if batch.sequence == last:
                break
        assert list(data) == list(range(1, last + 1))
        assert all(data[int(sequence)] == number for sequence, number in logged)
        assert await store.put_if("count", b"0", entry.revision) > entry.revision
        await store.close()

    run(judge())


def test_watch_tells_what_another_process_changes(tmp_path: Path) -> None:
    path = tmp_path / "cluster.db"

    async def scenario() -> None:
        store = EmbeddedStore(path)
        numbers: list[int] = []
        with workers(path):
            async with asyncio.timeout(WAIT_S):
                async for each in store.watch("count"):
                    if isinstance(each, Entry):
                        numbers.append(int(each.value))
                    if numbers and numbers[-1] > 50:
                        break
        assert numbers == sorted(numbers)
        await store.close()

    run(scenario())


def test_watch_that_is_far_behind_reads_everything_again(tmp_path: Path) -> None:
    """The rows of most deleted keys are gone; that the key itself is gone is told nevertheless."""
    path = tmp_path / "cluster.db"

    async def scenario() -> None:
        store = EmbeddedStore(path)
        revision = await store.put_if("a", b"", 0)
        watch = store.watch("a")
        assert [await anext(watch), await anext(watch)] == [Entry("a", b"", revision), Ready()]
        file = SharedFile(path, Limits())
        file.put_if("a", None, revision)
        with file._transaction():
            for number in range(DELETED_ROWS_MAX + FORGET_EVERY):
                file._set(f"b{number}", b"")
                file._set(f"b{number}", None)
        assert await anext(watch) == Deleted("a", 0)
        rows = file._number("SELECT count(*) FROM entries")
        assert rows <= DELETED_ROWS_MAX + FORGET_EVERY
        file.close()
        await store.close()

    run(scenario())


def test_old_batches_go_and_who_asks_for_them_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = EmbeddedStore(tmp_path / "cluster.db", Limits(log_age_s=0.2))
        await store.append("log", b"1")
        await asyncio.sleep(0.25)
        await store.append("log", b"2")
        with pytest.raises(Truncated) as raised:
            await anext(aiter(store.read("log", 0)))
        assert raised.value.first == 2
        await store.close()

    run(scenario())


def test_file_that_cannot_be_opened_is_unavailable_until_it_can(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / "folder"
        folder.write_text("in the way")
        store = open_store(Cluster(), folder)
        with pytest.raises(Unavailable, match="Is the disk full"):
            await store.get("x")
        assert not store.state.is_connected
        folder.unlink()
        assert await store.get("x") is None
        assert store.state.is_connected
        assert store.state.reconnects == 1
        await store.close()
        with pytest.raises(Unavailable, match="was closed"):
            await store.get("x")

    run(scenario())


def test_without_servers_the_library_for_nats_is_not_loaded(tmp_path: Path) -> None:
    code = "import sys, limpet.store.opening as o, limpet.cli.main; print('nats' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
