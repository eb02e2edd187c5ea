# SPDX-License-Identifier: Apache-2.0
"""Who was away trusts its tables only when it has loaded what the others told meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from limpet.core.announcement import Facts, decide, routes
from limpet.core.cluster import Report, Seen
from limpet.core.model import Bgp, Protocol, Speaker, Vip
from limpet.daemon.cluster import catchup as catchups
from limpet.daemon.cluster.catchup import Catchup
from limpet.daemon.cluster.sight import Sight
from limpet.daemon.directory.ownlog import PREFIX
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Store

VIP = Vip("web", ip_address("192.0.2.10"), Protocol.TCP, 80, "web")
BGP = Bgp(speaker=Speaker.KERNEL)


class Place:
    """A director d1 that comes back, and what it has loaded of the logs of d1, d2 and d3."""

    def __init__(self, store: Store) -> None:
        self.store, self.sight = store, Sight(store, lambda: None)
        self.loaded: dict[str, int] = {}
        self.changes = 0
        self.catchup = Catchup(store, self.sight, "d1")
        self.catchup.loaded = lambda: self.loaded
        self.catchup.changed = self._note

    def _note(self) -> None:
        self.changes += 1

    def sees(self, *names: str) -> None:
        self.sight.reports = {name: Seen(Report(name), time.monotonic()) for name in names}
        self.sight.has_reports = True

    async def tells(self, name: str, batches: int) -> None:
        for _ in range(batches):
            await self.store.append(PREFIX + name, b"batch")

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.01)


def in_place(folder: Path, story: Callable[[Place], Awaitable[None]]) -> None:
    async def told() -> None:
        store = EmbeddedStore(folder / "cluster.db")
        place = Place(store)
        task = asyncio.create_task(place.catchup.run())
        try:
            await story(place)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await store.close()

    asyncio.run(told())


def test_it_is_behind_until_all_logs_are_loaded(tmp_path: Path) -> None:
    async def story(place: Place) -> None:
        await place.tells("d2", 3)
        await place.tells("d3", 2)
        await asyncio.sleep(0.2)
        assert place.catchup.is_behind, "who is there was not seen yet"
        place.sees("d1", "d2", "d3", "d4")
        place.loaded = {"d2": 3, "d3": 1}
        await asyncio.sleep(0.2)
        assert place.catchup.is_behind
        assert place.catchup.why
        assert place.catchup.missing == ("d3",)
        place.loaded = {"d2": 3, "d3": 2}
        await place.until(lambda: not place.catchup.is_behind)
        assert (place.catchup.why, place.changes) == ("", 1)

    in_place(tmp_path, story)


def test_it_is_behind_again_when_it_was_away(tmp_path: Path) -> None:
    async def story(place: Place) -> None:
        place.sees("d1", "d2")
        await place.until(lambda: not place.catchup.is_behind)
        await place.tells("d2", 5)
        place.catchup.again()
        assert place.catchup.is_behind
        await asyncio.sleep(0.2)
        assert place.catchup.is_behind
        place.loaded = {"d2": 5}
        await place.until(lambda: not place.catchup.is_behind)

    in_place(tmp_path, story)


def test_nobody_waits_for_the_log_of_a_director_that_was_removed(tmp_path: Path) -> None:
    async def story(place: Place) -> None:
        await place.tells("d2", 5)
        place.sees("d1", "d2")
        await asyncio.sleep(0.2)
        assert place.catchup.is_behind
        place.sees("d1")
        await place.until(lambda: not place.catchup.is_behind)

    in_place(tmp_path, story)


def test_a_log_that_cannot_be_loaded_keeps_nobody_out_of_service_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(place: Place) -> None:
        place.sees("d1")
        await place.until(lambda: not place.catchup.is_behind)
        await place.tells("d2", 5)
        place.sees("d1", "d2")
        monkeypatch.setattr(catchups, "LATE_S", 0.3)
        place.catchup.again()
        assert place.catchup.why
        await place.until(lambda: place.catchup.late == 1)
        assert not place.catchup.why
        assert place.catchup.is_behind, "it stays unsure"

    in_place(tmp_path, story)


def test_meanwhile_no_address_is_announced_that_was_not_before() -> None:
    facts = Facts(eligible={"web": 1}, not_ready="logs are being loaded")
    (decision,) = decide(BGP, (VIP,), facts)
    assert (decision.route, decision.why) == (None, "logs are being loaded")
    there = Facts(eligible={"web": 1}, not_ready="logs", announced=frozenset({VIP.address}))
    assert [each.address for each in routes(decide(BGP, (VIP,), there))] == [VIP.address]
