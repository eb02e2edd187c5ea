# SPDX-License-Identifier: Apache-2.0
"""What the shared store costs: a change of a key, entries into a log, and reading them again.

Three stores on this machine: the file, one NATS server, a cluster of three, every acknowledged
write on the disk. The changes are one after the other, as those of a leader; batches are of 256
entries of 48 bytes, as those of the session directory, one after the other and eight under way.
Prints a Markdown table. `--batches N`, at least 100.
"""

import argparse
import asyncio
import os
import platform
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from limpet.core.errors import LimpetError
from limpet.core.model import Cluster
from limpet.lab.nats import Servers
from limpet.store.interface import Store
from limpet.store.opening import open_store

ENTRIES, ENTRY_BYTES = 256, 48
PUTS, VALUE_BYTES = 200, 10_000
AT_ONCE = 8
BATCHES_MIN = 100
READY_S = 20.0


async def ready(store: Store) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                await store.get("head")
                await store.last("one")
                return
            except LimpetError:
                await asyncio.sleep(0.1)


async def puts(store: Store) -> list[float]:
    """Milliseconds of each change."""
    value, revision, taken = os.urandom(VALUE_BYTES), 0, []
    for _ in range(PUTS):
        begun = perf_counter()
        revision = await store.put_if("head", value, revision)
        taken.append((perf_counter() - begun) * 1_000)
    return taken


async def appends(store: Store, log: str, batches: int, at_once: int) -> float:
    """Entries per second."""
    batch = os.urandom(ENTRIES * ENTRY_BYTES)
    left = iter(range(batches))

    async def worker() -> None:
        for _ in left:
            await store.append(log, batch)

    begun = perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return batches * ENTRIES / (perf_counter() - begun)


async def catch_up(store: Store, log: str, batches: int) -> float:
    """Entries per second, of a reader that begins at the beginning."""
    begun = perf_counter()
    async for batch in store.read(log, 0):
        if batch.sequence == batches:
            break
    return batches * ENTRIES / (perf_counter() - begun)


async def measure(name: str, store: Store, batches: int) -> str:
    await ready(store)
    taken = sorted(await puts(store))
    one = await appends(store, "one", batches, 1)
    eight = await appends(store, "eight", batches, AT_ONCE)
    read = await catch_up(store, "eight", batches)
    await store.close()
    p99 = taken[int(len(taken) * 0.99)]
    cells = (f"{statistics.median(taken):.2f}", f"{p99:.2f}", f"{one:,.0f}", f"{eight:,.0f}")
    return f"| {name} | {' | '.join(cells)} | {read:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1_000)
    batches = max(parser.parse_args().batches, BATCHES_MIN)
    print(f"{platform.release()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    print(f"| store | change, p50 ms | p99 ms | entries/s | {AT_ONCE} at once | read, entries/s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for count, name in ((0, "file"), (1, "NATS, one server"), (3, "NATS, three servers")):
            with Servers(path / f"n{count}", count) as servers:
                print(asyncio.run(_measured(name, servers.urls, path, batches)))


async def _measured(name: str, urls: tuple[str, ...], folder: Path, batches: int) -> str:
    return await measure(name, open_store(Cluster("bench", urls), folder), batches)


if __name__ == "__main__":
    main()
