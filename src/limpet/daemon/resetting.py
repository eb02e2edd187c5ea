# SPDX-License-Identifier: Apache-2.0
"""Resetting: which TCP flows are to be ended now, found and handed to the engine that ends them.

Flows of a backend with standing RESET in their pool: it is down for longer than the pool holds its
sessions, or the deadline of its drain has passed. They are looked for every half second while there
is such a backend; what clients of theirs say meanwhile comes through the kernel's ring. The engine
is daemon/resets.py; the data plane takes a flow that was reset off the list itself.
"""

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import structlog

from limpet.core import hashing
from limpet.core.errors import LimpetError
from limpet.core.model import BackendId, Protocol, Standing
from limpet.daemon.reconcile import Now, Reconciler
from limpet.daemon.resets import WANTED_MAX, Resets
from limpet.daemon.segment import Flow
from limpet.datapath.abi import Life
from limpet.datapath.flows import Wanted
from limpet.datapath.kernel import Kernel
from limpet.datapath.ring import Ring

PERIOD_S = 0.5
SHARE_OF_TIME = 0.2  # of one CPU, at most, that scans may take
LIVES = (Life.OPENING, Life.ESTABLISHED)
log = structlog.get_logger()


class Resetting:
    """The task between the kernel's tables and the engine."""

    def __init__(self, kernel: Kernel, reconciler: Reconciler, resets: Resets) -> None:
        self._kernel, self._reconciler = kernel, reconciler
        self.resets = resets

    async def run(self) -> None:
        """Look for flows, and read the ring, until cancelled."""
        loop, ring = asyncio.get_running_loop(), self._kernel.resets()
        loop.add_reader(ring.fd, self._read, ring)
        try:
            while True:
                began = time.monotonic()
                await self.look()
                took = time.monotonic() - began
                await asyncio.sleep(max(PERIOD_S, took / SHARE_OF_TIME))
        finally:
            loop.remove_reader(ring.fd)
            ring.close()

    def _read(self, ring: Ring) -> None:
        records = ring.read()
        if len(records):
            self.resets.answer(records)

    async def look(self) -> None:
        """One scan, if any backend is to be left by reset."""
        now = self._reconciler.now
        assert now is not None, "start comes first"
        self.resets.update(now.desired.director.mark)
        if not leaving(now):
            self.resets.want(())
            return
        try:
            found = await asyncio.to_thread(lambda: list(wanted(now, self._kernel)))
        except LimpetError as error:
            log.error("flows to reset could not be looked for", why=str(error))
        else:
            self.resets.want(found)


def leaving(now: Now) -> dict[BackendId, set[int]]:
    """Backends that are left by reset, each with the ids of the VIPs where it is so."""
    vips: dict[int, set[int]] = {}
    for vip in now.image.vips:
        if vip.protocol is Protocol.TCP:
            vips.setdefault(vip.pool, set()).add(vip.id)
    found: dict[BackendId, set[int]] = {}
    for pool in now.image.pools:
        for backend, bits in pool.standing:
            if bits & Standing.RESET and pool.id in vips:
                found.setdefault(backend, set()).update(vips[pool.id])
    return found


def wanted(now: Now, kernel: Kernel) -> Iterator[Flow]:
    """Live TCP flows that are to be ended."""
    addresses = {int(vip.id): vip.address for vip in now.image.vips}
    table, tick = kernel.flows(), kernel.tick()
    for backend, vips in leaving(now).items():
        flows = table.decode(tick, Wanted(backend=backend))
        is_ours = np.isin(flows["life"], [int(life) for life in LIVES])
        is_ours &= np.isin(flows["vip"], list(vips))
        for row in flows[is_ours][:WANTED_MAX]:
            yield Flow(
                client=hashing.address(int(row["client_high"]), int(row["client_low"])),
                client_port=int(row["client_port"]),
                vip=addresses[int(row["vip"])],
                vip_port=int(row["vip_port"]),
                backend=int(backend),
            )
