# SPDX-License-Identifier: Apache-2.0
"""A change that comes in while the leader plans stands: what was planned without it is dropped."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from cluster.member import OWN, SHARED, WITH_THIRD
from directory.place import DataPath
from limpet.core.agreement import digest
from limpet.core.cluster import NOTHING, Head
from limpet.core.cluster_wire import decode_head
from limpet.core.config import parse
from limpet.daemon.cluster import changes as changes_of
from limpet.daemon.cluster.changes import Changes
from limpet.daemon.cluster.leading import Leading
from limpet.daemon.cluster.membership import Membership
from limpet.daemon.cluster.sight import HEAD
from limpet.daemon.nexthop import NextHops
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Reconciler
from limpet.store.embedded import EmbeddedStore
from limpet.store.interface import Outdated
from limpet.store.state import State

pytestmark = pytest.mark.kernel


class Store(EmbeddedStore):
    """Something happens just when an agreement was put, and the head does not name it yet."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def put_blob(self, data: bytes) -> str:
        found = await super().put_blob(data)
        if self.meanwhile is not None:
            await self.meanwhile()
        return found


class Place:
    """A director d1 that is to lead."""

    def __init__(self, folder: Path, thread: ThreadPoolExecutor, reconciler: Reconciler) -> None:
        self.store = Store(folder / "cluster.db")
        local = parse(OWN.format(name="d1", pop="fra", address="10.10.0.1", key="/k", more=""))
        pacing = Pacing(thread, reconciler)
        self.member = Membership(self.store, local, reconciler._kernel, reconciler, pacing)
        self.leading = Leading(self.member)
        self.changes = Changes(self.member, lambda text: digest(text.encode()))

    async def apply(self, text: str) -> None:
        await self.changes.apply(text, "root", None)

    async def head(self) -> Head:
        entry = await self.store.get(HEAD)
        assert entry is not None
        return decode_head(entry.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(changes_of, "EFFECT_S", 0.0)  # no director follows here
    path = DataPath()
    try:
        with ThreadPoolExecutor(1) as thread, IPRoute() as netlink:
            # The state file is of the thread of the passes, as in the daemon.
            state = thread.submit(State, tmp_path / "state.db").result()
            made = thread.submit(Reconciler, path.kernel, state, NextHops(netlink), path.pins)
            reconciler = made.result()
            yield Place(tmp_path, thread, reconciler)
            thread.submit(state.close).result()
    finally:
        path.close()


def test_a_change_while_the_leader_plans_is_not_undone(place: Place) -> None:
    async def story() -> None:
        await place.apply(SHARED)
        place.store.meanwhile = lambda: place.apply(WITH_THIRD)
        with pytest.raises(Outdated):
            await place.leading._lead()
        head = await place.head()
        assert (head.revision, head.text, head.current) == (2, WITH_THIRD, NOTHING)
        place.store.meanwhile = None
        await place.leading._lead()
        agreed = await place.member.fetch((await place.head()).current)
        assert agreed.agreement.revision == 2, "and it is what is planned next"
        assert set(agreed.agreement.registry.backends) == {"b1", "b2", "b3"}
        await place.store.close()

    asyncio.run(story())
