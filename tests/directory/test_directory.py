# SPDX-License-Identifier: Apache-2.0
"""The session directory from one director's data path to another's: real maps, a real store."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from directory.place import SECRET, DataPath, director, moved, placement, session_of, until
from limpet.core import exception
from limpet.core.errors import Unavailable
from limpet.core.exception import RECORD, Flag, Kind
from limpet.daemon.directory.directory import Directory
from limpet.daemon.unixtime import now_ms
from limpet.datapath.abi import Slot
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Limits
from packets.case import tcp
from packets.world import CLIENT4, IPIP4, REDIRECTED, ROUND4, SHIFTED, VIP4

pytestmark = pytest.mark.kernel
A, B = "fra-d1", "par-d1"
WEB = VIP4[IPIP4]
CLIENT = int(ip_address(CLIENT4))
WORD = 0xFFFF << 32 | CLIENT


class Cut:
    """A store behind a network that can be cut: calls fail as those of a store out of reach do."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store, self.is_cut = store, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def append(self, log: str, batch: bytes) -> int:
        if self.is_cut:
            raise Unavailable("store: cut off")
        return await self._store.append(log, batch)


@pytest.fixture(scope="module")
def paths() -> Iterator[tuple[DataPath, DataPath]]:
    both = DataPath(), DataPath()
    try:
        yield both
    finally:
        for path in both:
            path.close()


@pytest.fixture
def empty(paths: tuple[DataPath, DataPath]) -> tuple[DataPath, DataPath]:
    for path in paths:
        path.kernel.forget_flows()
        path.kernel.directory().clear()
        news = path.kernel.news()
        news.read()
        news.close()
    return paths


@asynccontextmanager
async def two(
    folder: Path, paths: tuple[DataPath, DataPath], limits: Limits | None = None
) -> AsyncIterator[tuple[Directory, Directory, Cut]]:
    store = EmbeddedStore(folder / "cluster.db", limits)
    cut = Cut(store)
    try:
        async with (
            director(cut, paths[0], A, folder, (B,)) as a,  # type: ignore[arg-type]
            director(store, paths[1], B, folder, (A,)) as b,
        ):
            yield a, b, cut
    finally:
        await store.close()


def backend_here(path: DataPath) -> int:
    """The backend of the only session there."""
    (row,) = path.kernel.sessions().decode(path.kernel.tick())
    return int(row["backend"])


def test_a_session_that_begins_elsewhere_than_at_home_is_found_from_another_director(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, b, _):
            assert here.run(tcp(ROUND4)) == "round_robin"
            backend = backend_here(here)
            await until(lambda: WORD in there.told(), "told to the other data path")
            assert there.told()[WORD][0] == backend
            assert there.run(tcp(ROUND4, "A")) == "directory_existing"
            assert backend_here(there) == backend
            assert there.run(tcp(ROUND4, "S", sport=999)) == "session_new"
            found = session_of(b, ROUND4, CLIENT)
            assert found is not None
            assert (found.backend, found.origin, found.generation) == (backend, A, 1)
            assert not here.told(), "its own sessions are in its tables"
            await until(lambda: a.record()["published"] == 1, "published")
            await asyncio.sleep(0.1)
            assert b.record()["published"] == 0, "whoever follows need not repeat"

    asyncio.run(run())


def test_what_a_change_of_tables_makes_an_exception_is_in_effect_before_it(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, b, _):
            here.run(tcp(WEB))
            here.run(tcp(WEB, "A"))
            await asyncio.sleep(0.1)
            assert not there.told(), "at its home there is nothing to tell"
            last = await a.prepare(2, moved(IPIP4, REDIRECTED))
            assert last == a.published_up_to > 0
            await until(lambda: b.loaded_up_to()[A] >= last, "loaded")
            assert there.told()[WORD] == (IPIP4, 0)
            again = await a.prepare(2, moved(IPIP4, REDIRECTED))
            assert again == last, "all was told already"
            a.place(placement(2))

    asyncio.run(run())


def test_sessions_that_begin_while_a_change_is_under_way_are_told_by_marks(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    here, there = empty
    vip = VIP4[REDIRECTED]

    async def run() -> None:
        async with two(tmp_path, empty) as (a, _, _):
            await a.prepare(2, moved(REDIRECTED, IPIP4))
            here.mark(REDIRECTED, Slot.TELL)
            assert here.run(tcp(vip)) == "home_new"
            await until(lambda: there.told().get(WORD) == (REDIRECTED, 0), "told at once")

    asyncio.run(run())


def test_exceptions_wait_for_a_store_that_is_down(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, _, cut):
            cut.is_cut = True
            here.run(tcp(ROUND4))
            await until(lambda: a.record()["append_failed"], "tried")
            assert a.record()["queued"] == 1
            assert not there.told()
            cut.is_cut = False
            await until(lambda: WORD in there.told(), "sent when the store is back")
            await until(lambda: a.record()["queued"] == 0, "nothing waits any more")

    asyncio.run(run())


def test_news_that_were_lost_are_found_by_a_scan(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    """What the ring held was dropped by nobody's fault: here it is read away before the start."""
    here, there = empty
    here.run(tcp(ROUND4))
    here.run(tcp(ROUND4, "A"))
    news = here.kernel.news()
    assert len(news.read()) >= 1
    news.close()

    async def run() -> None:
        async with two(tmp_path, empty) as (a, _, _):
            await until(lambda: WORD in there.told(), "found by the first scan")
            assert a.record()["told"] == 0

    asyncio.run(run())


def test_a_director_that_is_started_again_knows_what_it_knew(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    """Of the others and of its own, without reading logs again; an empty map is filled."""
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty):
            here.run(tcp(ROUND4))
            await until(lambda: WORD in there.told(), "told")
        there.kernel.directory().clear()
        here.kernel.forget_flows()
        async with two(tmp_path, empty) as (a, b, _):
            await until(lambda: WORD in there.told(), "loaded again")
            assert b.record()["received"] == 0, "its log was not read again"
            await until(lambda: WORD in here.told(), "its own")
            assert session_of(a, ROUND4, CLIENT) is not None
            assert here.run(tcp(ROUND4)) == "directory_new", "its tables were lost"

    asyncio.run(run())


def test_entries_of_before_that_nobody_knows_any_more_leave_the_map(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    _, there = empty
    keys = np.zeros(2, exception.KEY)
    keys["client"][:, 1], keys["vip"], keys["kind"] = (5, 6), 1, Kind.FLOW
    values = np.zeros(2, kernels_exception())
    values["until"], values["flags"] = there.kernel.tick() + 1_000, (0, Flag.ANSWER)
    there.kernel.directory().put(keys, values)

    async def run() -> None:
        async with two(tmp_path, empty):
            await until(lambda: 5 not in there.told(), "forgotten")
            assert 6 in there.told(), "answers to queries are not the directory's"

    asyncio.run(run())


def kernels_exception() -> np.dtype[np.void]:
    from limpet.datapath.abi import EXCEPTION

    return EXCEPTION


def entry(backend: int, seen: int, lasts: int = 60_000) -> np.ndarray:
    made = np.zeros(1, RECORD)
    made["key"]["client"][:, 1], made["key"]["vip"] = WORD, 1
    made["key"]["kind"], made["backend"] = Kind.SESSION, backend
    made["time"], made["expiry"], made["generation"] = seen, seen + lasts, 1
    return made


def test_batches_that_are_not_the_directors_own_are_counted_and_skipped(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    _, there = empty

    async def run() -> None:
        now = now_ms()
        forged = exception.encode(entry(3, now), A, now, b"another key of 32 bytes, or so..")
        copied = exception.encode(entry(3, now), "ams-d1", now, SECRET)
        lapsed = exception.encode(entry(3, now - 90_000), A, now, SECRET)
        good = exception.encode(entry(4, now), A, now, SECRET)
        async with two(tmp_path, empty) as (_, b, cut):
            for batch in (forged, b"rubbish", copied, lapsed, good):
                await cut._store.append(f"directory-{A}", batch)
            await until(lambda: there.told().get(WORD) == (4, 0), "the good one")
            await until(lambda: b.loaded_up_to()[A] == 5, "all of them")
            record = b.record()
            names = ("rejected_signature", "rejected_form", "rejected_origin", "late", "merged")
            assert [record[name] for name in names] == [1, 1, 1, 1, 1]

    asyncio.run(run())


def test_a_log_that_was_cut_off_is_read_from_where_it_begins(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    _, there = empty

    async def run() -> None:
        store = EmbeddedStore(tmp_path / "cluster.db", Limits(log_bytes=1_000))
        now = now_ms()
        for number in range(40):
            batch = exception.encode(entry(number % 7 + 1, now + number), A, now, SECRET)
            await store.append(f"directory-{A}", batch)
        await store.close()
        async with two(tmp_path, empty, Limits(log_bytes=1_000)) as (_, b, _):
            await until(lambda: b.loaded_up_to()[A] == 40, "read to the end")
            assert there.told()[WORD][0] == 39 % 7 + 1
            assert b.record()["truncated"] == 1

    asyncio.run(run())


def test_a_session_that_moved_is_followed_to_its_new_backend(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    """The other director has followed it before; what comes later counts there, too."""
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, b, _):
            here.run(tcp(ROUND4))
            here.run(tcp(ROUND4, "A"))  # else it would soon have expired
            await until(lambda: WORD in there.told(), "told")
            first = there.told()[WORD][0]
            assert there.run(tcp(ROUND4)) == "directory_new"
            other = ({IPIP4, REDIRECTED} - {first}).pop()
            table = int(here.kernel._map("pools")["table"][13])
            here.kernel._map("member_tables")["standing"][table][first] = 1
            here.kernel._map("backends")["has_standing"][first] = 1
            try:
                here.run(tcp(ROUND4, sport=4_321))
            finally:
                here.kernel._map("member_tables")["standing"][table][first] = 0
                here.kernel._map("backends")["has_standing"][first] = 0
            assert backend_here(here) == other
            await until(lambda: there.told()[WORD][0] == other, "told of the move")
            # A flow that it has left behind may come here, by way of the other director.
            assert here.told()[WORD] == (other, Flag.ASK)
            assert session_of(b, ROUND4, CLIENT) is not None
            assert a.record()["outdated"] == 0

    asyncio.run(run())


def test_what_lapses_leaves_table_and_map(tmp_path: Path, empty: tuple[DataPath, DataPath]) -> None:
    _, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (_, b, cut):
            now = now_ms()
            batch = exception.encode(entry(4, now), A, now, SECRET)
            await cut._store.append(f"directory-{A}", batch)
            await until(lambda: WORD in there.told(), "told")
            await b._merging.expire(now + 60_000)
            assert WORD not in there.told()
            assert (b.record()["entries"], b.record()["expired"]) == (0, 1)

    asyncio.run(run())


def test_pools_of_which_slots_do_not_move_are_not_looked_at(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, _, _):
            here.run(tcp(WEB))
            await a.prepare(2, moved(SHIFTED, REDIRECTED))
            assert not there.told()

    asyncio.run(run())


def test_what_waited_for_the_store_is_told_by_the_next_start(
    tmp_path: Path, empty: tuple[DataPath, DataPath]
) -> None:
    """It is known here, so no scan would tell it, and the cluster does not know it."""
    here, there = empty

    async def run() -> None:
        async with two(tmp_path, empty) as (a, _, cut):
            cut.is_cut = True
            here.run(tcp(ROUND4))
            await until(lambda: a.record()["append_failed"], "tried")
        assert not there.told()
        async with two(tmp_path, empty) as (a, _, _):
            await until(lambda: WORD in there.told(), "told to the other data path")
            await until(lambda: a.record()["queued"] == 0, "nothing waits any more")

    asyncio.run(run())
