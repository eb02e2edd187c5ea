# SPDX-License-Identifier: Apache-2.0
"""Both stores keep what `store/interface.py` says: random work on two handles, against a model.

The same work runs on the file, on one NATS server, and on a cluster of three. The model is a dict,
lists and a set; watches and reads run beside the work, and have to arrive where the model is.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from limpet.store.interface import (
    Batch,
    Deleted,
    Entry,
    Outdated,
    Ready,
    Store,
    Truncated,
)
from store.stores import Place

EXAMPLES = {"file": 60, "one server": 15, "three servers": 6}
STEPS = 40
SETTLE_S = 60.0
KEYS = ("head", "director/fra-d1", "director/par.d1", "director", "history/1", "a b/ü/=2E")
PREFIXES = ("", "head", "director/", "dir", "history/", "director/f")
LOGS = ("directory-fra-d1", "directory-par.d1")


@dataclass
class Watched:
    """A watch that runs, and what it has told."""

    prefix: str
    keys: dict[str, Entry] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    is_ready: bool = False
    problems: list[str] = field(default_factory=list)

    async def follow(self, store: Store) -> None:
        async for each in store.watch(self.prefix):
            self.take(each)

    def take(self, each: Entry | Deleted | Ready) -> None:
        if isinstance(each, Ready):
            if self.is_ready:
                self.problems.append("ready twice")
            self.is_ready = True
            return
        if not each.key.startswith(self.prefix):
            self.problems.append(f"not asked for: {each}")
        if each.revision and each.revision <= self.revisions.get(each.key, 0):
            self.problems.append(f"out of order: {each}")
        if isinstance(each, Entry):
            self.keys[each.key] = each
        elif self.keys.pop(each.key, None) is None:
            self.problems.append(f"was not there: {each}")
        self.revisions[each.key] = each.revision


@dataclass
class Read:
    """A read that runs, from a sequence on."""

    log: str
    after: int
    batches: list[Batch] = field(default_factory=list)
    truncated: Truncated | None = None

    async def follow(self, store: Store) -> None:
        try:
            async for batch in store.read(self.log, self.after):
                self.batches.append(batch)
        except Truncated as error:
            self.truncated = error


class Contract(RuleBasedStateMachine):
    """Work on two handles of one store, and the model of it."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        name = self.place.fresh()
        self.stores = self.run(self.opened(name))
        self.keys: dict[str, Entry] = {}
        self.newest = 0
        self.logs: dict[str, list[bytes]] = {log: [] for log in LOGS}
        self.blobs: dict[str, bytes] = {}
        self.snapshots: list[tuple[bytes, dict[str, Entry]]] = []
        self.watches: list[Watched] = []
        self.reads: list[Read] = []
        self.is_read_beyond = False
        self.tasks: list[asyncio.Task[None]] = []

    async def opened(self, name: str) -> list[Store]:
        return [self.place.open(name), self.place.open(name)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def learn(self, key: str, value: bytes, revision: int) -> None:
        assert revision > self.newest, "revisions grow over all keys"
        self.newest = revision
        self.keys[key] = Entry(key, value, revision)

    @rule(key=st.sampled_from(KEYS), value=st.binary(max_size=64), which=st.booleans())
    def put(self, key: str, value: bytes, which: bool) -> None:
        entry = self.keys.get(key)
        revision = self.run(self.stores[which].put_if(key, value, entry.revision if entry else 0))
        self.learn(key, value, revision)

    @rule(key=st.sampled_from(KEYS), off=st.sampled_from((-1, 1, 1_000)), which=st.booleans())
    def put_on_another_revision(self, key: str, off: int, which: bool) -> None:
        entry = self.keys.get(key)
        revision = entry.revision if entry else 0
        for change in (self.stores[which].put_if(key, b"no", max(revision + off, 0)),):
            if max(revision + off, 0) == revision:
                change.close()
                continue
            with pytest.raises(Outdated) as raised:
                self.run(change)
            assert raised.value.revision == revision

    @rule(key=st.sampled_from(KEYS), which=st.booleans())
    def delete(self, key: str, which: bool) -> None:
        entry = self.keys.pop(key, None)
        store = self.stores[which]
        with pytest.raises(Outdated) if entry else contextlib.nullcontext():
            self.run(store.delete_if(key, 0))
        with contextlib.nullcontext() if entry else pytest.raises(Outdated):
            self.run(store.delete_if(key, entry.revision if entry else self.newest + 1))

    @rule(key=st.sampled_from(KEYS), which=st.booleans())
    def get(self, key: str, which: bool) -> None:
        assert self.run(self.stores[which].get(key)) == self.keys.get(key)

    @rule(key=st.sampled_from(KEYS))
    def race(self, key: str) -> None:
        """Of two that change the same revision at once one wins, and the other is told of it."""
        entry = self.keys.get(key)
        revision = entry.revision if entry else 0

        async def both() -> list[int | BaseException]:
            changes = (
                store.put_if(key, b"%d" % n, revision) for n, store in enumerate(self.stores)
            )
            return list(await asyncio.gather(*changes, return_exceptions=True))

        results = self.run(both())
        won = [n for n, each in enumerate(results) if isinstance(each, int)]
        assert len(won) == 1, results
        lost = results[1 - won[0]]
        assert isinstance(lost, Outdated)
        assert lost.revision == results[won[0]]
        self.learn(key, b"%d" % won[0], results[won[0]])

    @rule(log=st.sampled_from(LOGS), size=st.integers(1, 900), which=st.booleans())
    def append(self, log: str, size: int, which: bool) -> None:
        data = os.urandom(size)
        self.logs[log].append(data)
        assert self.run(self.stores[which].append(log, data)) == len(self.logs[log])

    @rule(log=st.sampled_from(LOGS), which=st.booleans())
    def last(self, log: str, which: bool) -> None:
        assert self.run(self.stores[which].last(log)) == len(self.logs[log])

    @rule(data=st.binary(max_size=2_000), which=st.booleans())
    def blob(self, data: bytes, which: bool) -> None:
        digest = self.run(self.stores[which].put_blob(data))
        self.blobs[digest] = data
        assert self.run(self.stores[not which].get_blob(digest)) == data

    @precondition(lambda self: len(self.watches) < 3)
    @rule(prefix=st.sampled_from(PREFIXES), which=st.booleans())
    def watch(self, prefix: str, which: bool) -> None:
        """What is there is told before `Ready`."""
        watched = Watched(prefix)
        self.watches.append(watched)
        self.begin(watched.follow(self.stores[which]))
        self.settle(lambda: watched.is_ready)
        assert watched.keys == self.below(prefix)

    @precondition(lambda self: len(self.reads) < 3)
    @rule(log=st.sampled_from(LOGS), share=st.floats(0, 1), which=st.booleans())
    def read(self, log: str, share: float, which: bool) -> None:
        """From a place that may be gone; then from where the log says it begins."""
        read = Read(log, int(share * len(self.logs[log])))
        task = self.begin(read.follow(self.stores[which]))
        self.settle(lambda: task.done() or self.is_read(read))
        if read.truncated:
            assert read.truncated.first > read.after + 1
            read = Read(log, read.truncated.first - 1)
            self.begin(read.follow(self.stores[which]))
            self.settle(lambda: self.is_read(read))
        self.reads.append(read)

    @precondition(lambda self: not self.is_read_beyond)
    @rule(log=st.sampled_from(LOGS))
    def read_beyond_the_end(self, log: str) -> None:
        self.is_read_beyond = True  # once: it is looked at twice, which takes its time
        read = Read(log, len(self.logs[log]) + 1)
        task = self.begin(read.follow(self.stores[0]))
        self.settle(task.done)
        assert read.truncated

    @rule(which=st.booleans())
    def snapshot(self, which: bool) -> None:
        self.snapshots.append((self.run(self.stores[which].snapshot()), dict(self.keys)))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.booleans())
    def restore(self, which: bool) -> None:
        data, keys = self.snapshots[-1]
        self.run(self.stores[which].restore(data))
        self.keys = {key: self.run(self.stores[which].get(key)) for key in keys}
        for key, entry in keys.items():
            found = self.keys[key]
            assert found.value == entry.value
            assert found.revision > entry.revision
            self.newest = max(self.newest, found.revision)

    def below(self, prefix: str) -> dict[str, Entry]:
        return {key: entry for key, entry in self.keys.items() if key.startswith(prefix)}

    def agrees(self, watched: Watched) -> bool:
        return watched.keys == self.below(watched.prefix)

    def is_told(self, read: Read) -> bool:
        return read.truncated is not None or self.is_read(read)

    def is_read(self, read: Read) -> bool:
        wanted = self.logs[read.log][read.after :]
        numbered = [Batch(read.after + n, data) for n, data in enumerate(wanted, 1)]
        assert read.batches == numbered[: len(read.batches)], "in order, without gaps"
        return len(read.batches) == len(wanted)

    def begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self.tasks.append(self.runner.get_loop().create_task(work))
        return self.tasks[-1]

    def settle(self, is_done: Callable[[], bool]) -> None:
        async def wait() -> None:
            async with asyncio.timeout(SETTLE_S):
                while not is_done():
                    await asyncio.sleep(0.005)

        self.run(wait())

    def teardown(self) -> None:
        try:
            for watched in self.watches:
                self.settle(partial(self.agrees, watched))
                assert not watched.problems
            for read in self.reads:
                # Who reads slowly may be overtaken by what is dropped; gaps it never sees.
                self.settle(partial(self.is_told, read))
            for digest, data in self.blobs.items():
                assert self.run(self.stores[0].get_blob(digest)) == data
        finally:
            self.run(self.close())
            self.runner.close()

    async def close(self) -> None:
        for store in self.stores:
            await store.close()
        async with asyncio.timeout(SETTLE_S):
            await asyncio.gather(*self.tasks)  # closing ends every watch and read
        await self.place.clear()


def test_random_work_agrees_with_the_model(place: Place, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["place"]
    machine = type("Machine", (Contract,), {"place": place})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES[kind],
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
