# SPDX-License-Identifier: Apache-2.0
"""Two directors on a NATS server: told through it, and after it was gone for a while."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from directory.place import DataPath, director, until
from limpet.core.model import Cluster
from limpet.lab.nats import Servers, wait_for_port
from limpet.store.interface import Limits, Store
from limpet.store.opening import open_store
from packets.case import tcp
from packets.world import ROUND4

pytestmark = pytest.mark.kernel
A, B = "fra-d1", "par-d1"
SMALL = Limits(deadline_s=1.0, log_bytes=1 << 20, blobs_bytes=1 << 20)
DOWN_S = 1.5  # longer than a call may take


@pytest.fixture
def paths() -> Iterator[tuple[DataPath, DataPath]]:
    both = DataPath(), DataPath()
    try:
        yield both
    finally:
        for path in both:
            path.close()


def client(number: int) -> tuple[bytes, int]:
    """A packet of a new client, and the low word of its address."""
    packet = tcp(ROUND4)
    packet["IP"].src = f"198.51.100.{number}"
    del packet["IP"].chksum
    return bytes(packet), 0xFFFF << 32 | 198 << 24 | 51 << 16 | 100 << 8 | number


def test_a_server_that_comes_back_is_told_what_waited(
    tmp_path: Path, paths: tuple[DataPath, DataPath]
) -> None:
    here, there = paths
    first, second = client(20), client(21)

    async def run(servers: Servers) -> None:
        cluster = Cluster(name="directors", servers=servers.urls)
        stores: list[Store] = [open_store(cluster, tmp_path / n, SMALL) for n in (A, B)]
        async with (
            director(stores[0], here, A, tmp_path, (B,)) as a,
            director(stores[1], there, B, tmp_path, (A,)) as b,
        ):
            here.run(first[0])
            await until(lambda: first[1] in there.told(), "told through the server")
            servers.stop()
            here.run(second[0])
            await asyncio.sleep(DOWN_S)
            assert second[1] not in there.told()
            assert a.record()["queued"] == 1
            servers.servers[0].start()
            wait_for_port(servers.nodes[0])
            await until(lambda: second[1] in there.told(), "told when it is back")
            await until(lambda: b.loaded_up_to()[A] == a.published_up_to, "all of it")
            await until(lambda: a.record()["queued"] == 0, "nothing waits any more")
        for store in stores:
            await store.close()

    for folder in (A, B):
        (tmp_path / folder).mkdir()
    with Servers(tmp_path / "nats", 1) as servers:
        asyncio.run(run(servers))
