# SPDX-License-Identifier: Apache-2.0
"""Directors of one cluster, each with a data path in the kernel, on one store.

Packets are test runs of the program. Times are real; the pools are those of the packet cases.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np

from limpet.core.diff import diff
from limpet.core.exception import Kind
from limpet.core.model import Image, PoolId, Slots, VipRow
from limpet.daemon.directory.directory import Directory, Identity, Known
from limpet.daemon.directory.placement import Placement
from limpet.datapath import bpf
from limpet.datapath import kernel as kernels
from limpet.datapath.clock import hz
from limpet.datapath.kernel import Kernel, Sizes
from limpet.datapath.settings import tick_s, tick_shift
from limpet.store.interface import Store
from packets.world import IMAGE, POOLS, SLOT_KEY, Switches, settings

SECRET = b"the key of a cluster of directors"
WAIT_S = 60.0  # for what must come: the machine may stand still meanwhile
NUMBERS = count(1)
KEY = b"".join(word.to_bytes(8, "big") for word in SLOT_KEY)


async def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"in {WAIT_S:.0f} s: {what}") from None


def placement(generation: int = 1, **more: tuple[Slots, ...]) -> Placement:
    """The tables of the packet cases; the agreed ones are the local ones."""
    tables = {row.id: (row.slots,) for row in IMAGE.pools}
    return Placement(generation, KEY, IMAGE.vips, tables)


class DataPath:
    """One director's part of the kernel; outlives its daemon."""

    def __init__(self, exceptions: int = 1_000) -> None:
        self.pins = bpf.BPFFS / f"limpet-directory-{os.getpid()}-{next(NUMBERS)}"
        self.kernel = Kernel.open(self.pins, Sizes(64, len(POOLS), 64, exceptions))
        record = settings(Switches())
        record["tick_shift"], record["is_member"] = tick_shift(hz()), 1
        self.kernel.load(record)
        self.kernel.apply(diff(Image(), IMAGE))

    def run(self, packet: object) -> str:
        """What chose the backend of a packet."""
        before = self.kernel.counters().rungs
        self.kernel.test_run(bytes(packet))  # type: ignore[call-overload]
        after = self.kernel.counters().rungs
        (rung,) = [name for name in after if after[name] != before[name]] or [""]
        return rung

    def told(self) -> dict[int, tuple[int, int]]:
        """The map: (backend, flags) by the low word of the client."""
        keys, values = self.kernel.directory().items()
        clients = keys["client"][:, 1].tolist()
        return dict(zip(clients, values[["backend", "flags"]].tolist(), strict=True))

    def mark(self, pool: int, marks: int) -> None:
        """Set marks on all slots of a pool."""
        table = int(self.kernel._map("pools")["table"][pool])
        self.kernel._map("slot_tables")["home"][table] |= np.uint16(marks)

    def close(self) -> None:
        self.kernel.close()
        kernels.remove(self.pins)


@asynccontextmanager
async def director(
    store: Store, path: DataPath, name: str, folder: Path, peers: tuple[str, ...] = ()
) -> AsyncIterator[Directory]:
    """A director's session directory, running."""
    own = folder / name
    own.mkdir(exist_ok=True)
    made = Directory(store, path.kernel, Identity(name, SECRET, own, tick_s(hz()), 1_000))
    made.peers((*peers, name))
    made.place(placement())
    task = asyncio.create_task(made.run())
    try:
        yield made
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def row_of(address: str) -> VipRow:
    return next(row for row in IMAGE.vips if str(row.address) == address)


def session_of(directory: Directory, vip: str, client: int) -> Known | None:
    """What a directory has of the session of an IPv4 client."""
    return directory.known(row_of(vip).id, Kind.SESSION, (0, (0xFFFF << 32) | client), 0)


def moved(pool: int, to: int) -> dict[PoolId, tuple[Slots, ...]]:
    """A change of tables: all slots of a pool get another home."""
    before = next(row.slots for row in IMAGE.pools if row.id == pool)
    after = np.full_like(before, to)
    return {PoolId(pool): (before, after)}
