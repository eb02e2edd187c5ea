# SPDX-License-Identifier: Apache-2.0
"""The stores that the suite of the interface runs on: a file, one NATS server, three."""

from collections.abc import Iterator

import pytest

from limpet.lab.nats import Servers
from store.stores import KINDS, Place, reached, run


@pytest.fixture(scope="module", params=KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("store")
    count = KINDS.index(request.param)
    if not count:
        yield Place(folder)
        return
    with Servers(folder, 3 if count == 2 else 1) as servers:
        place = Place(folder, servers.urls)
        store = run(_ready(place))
        assert store
        yield place


async def _ready(place: Place) -> bool:
    store = await reached(place.open(place.fresh()))
    await store.close()
    await place.clear()
    return True
