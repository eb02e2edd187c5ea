# SPDX-License-Identifier: Apache-2.0
"""What the session directory costs: a million exceptions, propagation, and a change of tables.

    python -m bench.directory [--exceptions 1000000] [--samples 300]

Two directors in the kernel, in one process, on one store: a file of this machine, then three NATS
servers on loopback whose every write is on the disk. Needs root.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.cases import SLOT_KEY, Directors, Setup
from bench.loads import M, client4, frame, tcp4
from bench.pulse import Pulse
from limpet.core import exception
from limpet.core.exception import BATCH_MAX, RECORD, Kind, Told
from limpet.core.model import Cluster, Policy, PoolId, Slots
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.directory import Directory, Identity
from limpet.daemon.directory.loading import Loading
from limpet.daemon.directory.merging import Merging
from limpet.daemon.directory.placement import Placement
from limpet.daemon.directory.record import Record
from limpet.daemon.unixtime import now_ms
from limpet.datapath.clock import hz
from limpet.datapath.directory import DirectoryMap
from limpet.datapath.kernel import Kernel
from limpet.datapath.settings import tick_s
from limpet.lab.nats import Servers
from limpet.store.interface import Store
from limpet.store.opening import open_store

SECRET = b"the key of a cluster of directors"
A, B = "fra-d1", "par-d1"
MOVED_SHARE = 10  # one slot in so many moves
WAIT_S = 1.0  # for one of them
PAUSE_S = 0.02  # between two samples


@dataclass
class Watched:
    """The data path of a director whose map says when something was written."""

    kernel: Kernel
    changed: asyncio.Event

    def __getattr__(self, name: str) -> object:
        return getattr(self.kernel, name)

    def directory(self) -> "WatchedMap":
        return WatchedMap(self.kernel.directory(), self.changed)


@dataclass
class WatchedMap:
    """The map."""

    target: DirectoryMap
    changed: asyncio.Event

    def put(self, keys: NDArray[np.void], values: NDArray[np.void]) -> int:
        done = self.target.put(keys, values)
        self.changed.set()
        return done

    def remove(self, keys: NDArray[np.void]) -> int:
        return self.target.remove(keys)

    def items(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        return self.target.items()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def kernel_bytes(director: Kernel) -> int:
    """What the kernel has set aside for the map, by its own account."""
    text = Path(f"/proc/self/fdinfo/{director._fds['directory']}").read_text()
    (line,) = [each for each in text.splitlines() if each.startswith("memlock")]
    return int(line.split()[1])


def exceptions(count: int, first: int) -> NDArray[np.void]:
    made = np.zeros(count, RECORD)
    made["key"]["client"][:, 1] = np.arange(first, first + count) + (0xFFFF << 32 | 10 << 24)
    made["key"]["vip"], made["key"]["kind"], made["backend"] = 1, Kind.SESSION, 7
    made["time"], made["expiry"], made["generation"] = now_ms(), now_ms() + 3_300_000, 1
    made["origin"] = exception.origin_of(A)
    return made


async def measure_merge(director: Kernel, count: int, table: Table) -> None:
    """All the exceptions there may be, from signed bytes to the data path's map."""
    batches = [
        exception.encode(exceptions(min(BATCH_MAX, count - at), at), A, now_ms(), SECRET)
        for at in range(0, count, BATCH_MAX)
    ]
    before, record = resident(), Record()
    clock = Clock(director.tick, tick_s(hz()))
    merging = Merging(
        count, Loading(director.directory(), exception.origin_of(B), clock, record), record
    )
    took = []
    for data in batches:
        began = time.perf_counter()
        told: Told = exception.decode(data, A, SECRET)
        await merging.learn(told)
        took.append(time.perf_counter() - began)
    assert record.loaded == record.merged == count, record
    table.add_row(f"{count:,} exceptions: verified, merged, loaded, s", f"{sum(took):.2f}")
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    table.add_row("a batch of 256 of them, ms, p50 / p99", f"{p50:.2f} / {p99:.2f}")
    table.add_row("bytes of one: daemon", f"{(resident() - before) / count:.0f}")
    table.add_row("bytes of one: kernel", f"{kernel_bytes(director) / count:.0f}")
    table.add_row("bytes of one: log", f"{sum(map(len, batches)) / count:.1f}")
    director.directory().clear()


def placement(director: Kernel) -> Placement:
    """The one pool and the VIPs of the benchmark."""
    image = director.observe()
    (pool,) = image.pools
    return Placement(1, SLOT_KEY, image.vips, {pool.id: (pool.slots,)})


@asynccontextmanager
async def running(
    store: Store, path: object, name: str, peer: str, folder: Path, place: Placement
) -> AsyncIterator[Directory]:
    """One director's session directory."""
    own = folder / name
    own.mkdir()
    made = Directory(store, path, Identity(name, SECRET, own, tick_s(hz())))  # type: ignore[arg-type]
    made.peers([peer])
    made.place(place)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settled(directory: Directory) -> None:
    """Once the first scan is over."""
    async with asyncio.timeout(60):
        while not directory.record()["scans"]:
            await asyncio.sleep(0.01)


async def propagation(
    here: Kernel, there: Kernel, store: Store, folder: Path, samples: int
) -> list[float]:
    """Seconds from a packet of a new session here to its exception in the map there."""
    changed, found = asyncio.Event(), []
    place = placement(here)
    here.forget_flows()  # of another store: their sessions are no news
    async with (
        running(store, here, A, B, folder, place) as a,
        running(store, Watched(there, changed), B, A, folder, place),
    ):
        await settled(a)
        for number in range(samples):
            packet = tcp4("S")
            packet.src = str(ip_address("10.9.0.0") + number)
            changed.clear()
            told, began = a.record()["told"], time.perf_counter()
            here.test_run(frame(packet))
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await changed.wait()
                found.append(time.perf_counter() - began)
            if not changed.is_set():  # one in a hundred is at its home by chance
                assert a.record()["told"] == told, "told, and not heard of"
            await asyncio.sleep(PAUSE_S)
    assert len(found) > samples * 0.9, f"{len(found)} of {samples} were exceptions"
    return found


async def change(
    here: Kernel, there: Kernel, store: Store, folder: Path, table: Table, name: str
) -> None:
    """A change of tables that displaces a share of all sessions, until it is in effect there."""
    place = placement(here)
    async with (
        running(store, here, A, B, folder, place) as a,
        running(store, there, B, A, folder, place) as b,
    ):
        await settled(a)
        scan_s = a.record()["scan_s"]
        moved = displaced(place)
        began = time.perf_counter()
        sequence = await a.prepare(2, moved)
        told = time.perf_counter() - began
        async with asyncio.timeout(120):
            while b.loaded_up_to()[A] < sequence:
                await asyncio.sleep(0.001)
        took = time.perf_counter() - began
        counted = b.record()["loaded"]
        assert counted == a.record()["published"]
    sessions = here.sessions().census(here.tick()).total
    table.add_row(
        f"{name}: scan of {sessions:,} sessions, none of them an exception, s", f"{scan_s:.2f}"
    )
    table.add_row(f"{name}: scan, encoding, append of {counted:,} exceptions, s", f"{told:.2f}")
    table.add_row(f"{name}: the same until they are in effect there, s", f"{took:.2f}")


def displaced(place: Placement) -> Mapping[PoolId, tuple[Slots, ...]]:
    """Every tenth slot gets the next one's home."""
    ((pool, (slots,)),) = place.tables.items()
    after = slots.copy()
    every = np.arange(0, len(slots), MOVED_SHARE)
    after[every] = slots[every] % 100 + 1
    return {pool: (slots, after)}


def fill(director: Kernel) -> None:
    """A million clients, one flow each, established."""
    pulse, load = Pulse(), client4(tcp4("A"), 16 * M, scattered=False, by_client=True)
    for _ in range(2):
        pulse.aim(director.program, load)
        pulse.fire(M)


async def measure_store(
    name: str, cluster: Cluster, folder: Path, directors: Directors, samples: int, table: Table
) -> None:
    there = directors.get(Setup(purpose="there"))
    told = directors.get(Setup(purpose="told", is_member=True, policy=Policy.ROUND_ROBIN))
    for purpose in ("propagation", "change"):
        (folder / purpose).mkdir(parents=True)
        store = open_store(Cluster(f"{cluster.name}-{purpose}", cluster.servers), folder / purpose)
        await reachable(store)
        there.directory().clear()
        if purpose == "propagation":
            took = await propagation(told, there, store, folder / purpose, samples)
            p50, p99 = np.percentile(took, [50, 99]) * 1e3
            table.add_row(
                f"{name}: packet here to map there, ms, p50 / p99", f"{p50:.1f} / {p99:.1f}"
            )
        else:
            full = directors.get(Setup(purpose="full"))
            await change(full, there, store, folder / purpose, table, name)
        await store.close()


async def reachable(store: Store) -> None:
    """Servers that have just started elect their leaders."""
    async with asyncio.timeout(30):
        while True:
            with suppress(Exception):
                await store.append("ready", b"?")
                return
            await asyncio.sleep(0.1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--exceptions", type=int, default=1_000_000)
    arguments.add_argument("--samples", type=int, default=300)
    options = arguments.parse_args()
    table = Table("what", "value", title="session directory")
    with Directors() as directors, tempfile.TemporaryDirectory(prefix="limpet-bench-") as text:
        folder = Path(text)
        there = directors.get(Setup(purpose="there"))
        asyncio.run(measure_merge(there, options.exceptions, table))
        fill(directors.get(Setup(purpose="full")))
        alone = Cluster("bench")
        asyncio.run(
            measure_store("file", alone, folder / "file", directors, options.samples, table)
        )
        with Servers(folder / "nats", 3) as servers:
            nats = Cluster("bench", servers.urls)
            work = measure_store("NATS, R3", nats, folder / "r3", directors, options.samples, table)
            asyncio.run(work)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
