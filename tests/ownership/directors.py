# SPDX-License-Identifier: Apache-2.0
"""Directors for tests: kernels with tables of their own, in one process, that ask each other.

Each has the small world of the packet cases, with every slot unsure: an existing flow that it does
not know is held. Keys of connection tables differ, as they do between machines.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from time import monotonic

import numpy as np

from limpet.core.diff import diff
from limpet.core.model import Image
from limpet.daemon.ownership.ownership import Ownership
from limpet.daemon.ownership.peers import Endpoint
from limpet.datapath import bpf
from limpet.datapath import kernel as kernels
from limpet.datapath.abi import Slot
from limpet.datapath.kernel import Kernel, Sizes
from packets.world import IMAGE, POOLS, USUAL, Switches, idle_ticks, settings

NUMBERS = count(1)
KEY, CLUSTER = b"a secret of at least 32 bytes...", "acme"
LOOPBACK = ("127.0.0.1", 0)
WAIT_S = 30.0  # for what must come: the machine may stand still meanwhile
EXCEPTIONS = 100_000


def unsure(image: Image = IMAGE) -> Image:
    """The same, with every slot unsure."""
    pools = []
    for pool in image.pools:
        slots = pool.slots | np.uint16(Slot.UNSURE)
        slots.setflags(write=False)
        pools.append(replace(pool, slots=slots))
    return replace(image, pools=tuple(pools))


def moved(image: Image, pool: int, to: int) -> Image:
    """The same, with all slots of a pool at another home."""
    pools = []
    for row in image.pools:
        if row.id == pool:
            slots = np.full_like(row.slots, to | Slot.UNSURE)
            slots.setflags(write=False)
            row = replace(row, slots=slots, generation=row.generation + 1, digest="moved")
        pools.append(row)
    return replace(image, pools=tuple(pools))


class Director:
    """A name and a kernel."""

    def __init__(self, name: str, kernel: Kernel) -> None:
        self.name, self.kernel = name, kernel
        self._image = Image()
        self.reset()

    def reset(self) -> None:
        """Empty tables, an empty ring, and the usual image; counters begin at 0."""
        self.apply(unsure())
        limits = self.kernel._map("idle_limits")["ticks"][0]
        for row in (None, *IMAGE.vips):
            for life, ticks in idle_ticks(row).items():
                limits[row.id if row else 0][life] = ticks
        self.kernel.forget_flows()
        self.kernel.directory().clear()
        ring = self.kernel.held()
        ring.read()
        ring.close()
        self._before = self.kernel.counters()

    def apply(self, image: Image) -> None:
        self.kernel.apply(diff(self._image, image))
        self._image = image

    def move(self, pool: int, to: int) -> None:
        """From now on, new sessions of a pool begin elsewhere here."""
        self.apply(moved(self._image, pool, to))

    def run(self, *frames: bytes, ifindex: int = 1) -> None:
        for frame in frames:
            self.kernel.test_run(frame, ifindex)

    def backends(self) -> list[int]:
        """Those of the live flows."""
        found: list[int] = self.kernel.flows().decode(self.kernel.tick())["backend"].tolist()
        return found

    def counted(self, kind: str) -> dict[str, int]:
        """Verdicts, rungs or events that were counted since the reset."""
        before = getattr(self._before, kind)
        now = getattr(self.kernel.counters(), kind)
        return {name: n - before[name] for name, n in now.items() if n != before[name]}

    def ownership(
        self, cluster: str = CLUSTER, key: bytes = KEY, listen: Endpoint = LOOPBACK
    ) -> Ownership:
        return Ownership(self.kernel, name=self.name, cluster=cluster, key=key, listen=listen)


@contextmanager
def directors(*names: str, switches: Switches = USUAL) -> Iterator[list[Director]]:
    """Directors, removed again."""
    bpf.mount_bpffs()
    pins = [bpf.BPFFS / f"limpet-own-{os.getpid()}-{next(NUMBERS)}" for _ in names]
    sizes = Sizes(switches.buckets, len(POOLS), switches.session_buckets, EXCEPTIONS)
    made: list[Kernel] = []
    try:
        for number, pin in enumerate(pins, 1):
            made.append(Kernel.open(pin, sizes))
            constants = settings(switches)
            constants["is_member"], constants["flow_key"] = 1, [number, 77 * number]
            made[-1].load(constants)
        yield [Director(name, kernel) for name, kernel in zip(names, made, strict=True)]
    finally:
        for kernel in made:
            kernel.close()
        for pin in pins:
            kernels.remove(pin)


@asynccontextmanager
async def running(*each: Ownership) -> AsyncIterator[None]:
    """Their tasks, ended again; an error in one of them is the test's."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in each]
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def introduce(*each: tuple[Director, Ownership]) -> None:
    """Everybody knows everybody."""
    addresses = {director.name: ownership.address for director, ownership in each}
    for _, ownership in each:
        ownership.peers(addresses)


async def until(ownership: Ownership, **wanted: int) -> dict[str, int]:
    """Its counters, when these have reached what is wanted."""
    end = monotonic() + WAIT_S
    while True:
        record = ownership.record()
        if all(record[name] >= value for name, value in wanted.items()):
            return record
        assert monotonic() < end, record
        await asyncio.sleep(0.002)
