# SPDX-License-Identifier: Apache-2.0
"""What nobody needs any more goes out of the store: directors that are gone, old revisions."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from limpet.core.cluster import ABSENT_MAX_S, Head, Report, Seen, absent, referenced
from limpet.core.cluster_wire import encode_head, encode_report
from limpet.core.errors import Conflict, NotFound
from limpet.daemon.cluster import tidying
from limpet.daemon.cluster.changes import HISTORY
from limpet.daemon.cluster.membership import Record
from limpet.daemon.cluster.sight import HEAD, REPORTS, Sight
from limpet.daemon.cluster.tidying import Tidying
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Entry

DAY_S = 86_400.0


class World:
    """A store, what a leader called d1 sees of it, and its task."""

    def __init__(self, folder: Path) -> None:
        self.store = EmbeddedStore(folder / "cluster.db")
        self.sight, self.record = Sight(self.store, lambda: None), Record(leads=1)
        self.tidying = Tidying(self.store, self.sight, self.record, "d1")

    async def reported(self, name: str, ago_s: float, *, is_seen: bool = False) -> None:
        report = Report(name, at=time.time() - ago_s, scanned=1, referenced=frozenset({7}))
        await self.store.put_if(REPORTS + name, encode_report(report), 0)
        self.sight.reports[name] = Seen(report, time.monotonic() if is_seen else 0.0)

    async def names(self) -> list[str]:
        names = ("d1", "d2", "d3")
        return [name for name in names if await self.store.get(REPORTS + name) is not None]

    async def head(self, revision: int, text: str = "") -> None:
        value = encode_head(Head(revision, text, bytes(16)))
        await self.store.put_if(f"{HISTORY}{revision:010d}", value, 0)
        self.sight.see_head(Entry(HEAD, value, revision))

    async def revisions(self) -> list[int]:
        found = [int(each.key[len(HISTORY) :]) for each in await self.tidying._history()]
        return sorted(found)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    found = World(folder)
    try:
        yield found
    finally:
        await found.store.close()


def in_world(folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def told() -> None:
        async with world(folder) as found:
            await story(found)

    asyncio.run(told())


def test_a_director_that_was_away_for_two_weeks_holds_no_ids_any_more(tmp_path: Path) -> None:
    async def story(found: World) -> None:
        await found.reported("d1", 0.0, is_seen=True)
        await found.reported("d2", ABSENT_MAX_S - DAY_S)
        await found.reported("d3", ABSENT_MAX_S + DAY_S)
        await found.tidying.tidy(time.time())
        assert await found.names() == ["d1", "d2"]
        assert found.record.forgotten == 1

    in_world(tmp_path, story)


def test_who_is_there_is_not_forgotten_whatever_the_wall_clock_says() -> None:
    there = Seen(Report("d2", at=0.0, scanned=1), 100.0)
    assert absent({"d2": there}, 101.0, ABSENT_MAX_S * 9) == ()
    assert absent({"d2": there}, 200.0, ABSENT_MAX_S * 9) == ("d2",)
    assert referenced({"d2": there}, 2) is None


def test_an_operator_removes_a_director_that_is_gone_and_no_other(tmp_path: Path) -> None:
    async def story(found: World) -> None:
        await found.reported("d1", 0.0, is_seen=True)
        await found.reported("d2", 1.0, is_seen=True)
        await found.reported("d3", 60.0)
        with pytest.raises(Conflict, match="'d2' is there: stop it first"):
            await found.tidying.remove("d2")
        with pytest.raises(Conflict):
            await found.tidying.remove("d1")
        with pytest.raises(NotFound, match="directors: d1, d2, d3"):
            await found.tidying.remove("d4")
        await found.tidying.remove("d3")
        assert await found.names() == ["d1", "d2"]

    in_world(tmp_path, story)


def test_the_history_keeps_its_newest_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "SHARED_HISTORY_MAX", 5)

    async def story(found: World) -> None:
        for revision in range(1, 13):
            await found.head(revision)
        await found.tidying.tidy(time.time())
        assert await found.revisions() == [8, 9, 10, 11, 12]
        assert found.record.history_forgotten == 7

    in_world(tmp_path, story)


def test_a_history_of_large_documents_is_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "SHARED_HISTORY_BYTES_MAX", 1_000)

    async def story(found: World) -> None:
        for revision in range(1, 9):
            await found.head(revision)
        await found.tidying.tidy(time.time())
        kept = await found.revisions()
        assert 1 < len(kept) < 8
        assert kept[-1] == 8

    in_world(tmp_path, story)
