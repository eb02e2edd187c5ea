# SPDX-License-Identifier: Apache-2.0
"""Sweeping: runs the kernel's sweeper about once a second, and what is due as often as that.

An expired entry is never used, swept or not; what the sweeper frees is memory, and what it makes
right are counts. So a sweep that fails is logged and counted, and the next one comes. Two never
run at once, and together they take no more than a share of one CPU, however large the tables are.

With `share` in [mega_proxy], the number of flows from which on a client is split follows the flows
of its VIP, in steps, so that the VIP's row is not written all the time.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from limpet.api.feed import Feed
from limpet.core.errors import LimpetError
from limpet.core.model import Affinity, Desired
from limpet.core.registry import VipKey
from limpet.daemon import clients
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Reconciler
from limpet.datapath.kernel import Kernel
from limpet.datapath.sweeper import Swept

PERIOD_S = 1.0
SHARE_OF_TIME = 0.2  # of one CPU, at most
SHARE_FLOWS_MIN = 64  # flows of a client below which a share of a few is no sign of anything
STEP = 1.25  # by which the threshold has to differ from the one that is in effect
log = structlog.get_logger()


@dataclass
class Record:
    """What became of the sweeps; for status and metrics."""

    done: int = 0
    failed: int = 0
    error: str = ""  # of the last sweep; empty: it was good
    duration_s: float = 0.0  # of the last good one
    flows_expired: int = 0
    sessions_expired: int = 0
    forgotten: int = 0  # entries that were remembered for too long


class Sweeping:
    """The task."""

    def __init__(self, kernel: Kernel, reconciler: Reconciler, pacing: Pacing, feed: Feed) -> None:
        self._kernel, self._reconciler, self._pacing = kernel, reconciler, pacing
        self._feed = feed
        self._splits_counted: int | None = None  # None: since before this daemon
        self._split_clients: set[tuple[int, clients.Words]] = set()
        self.record = Record()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.sweep()
            await self._move_thresholds()
            await asyncio.to_thread(self._tell_splits)
            await asyncio.sleep(max(PERIOD_S, self.record.duration_s / SHARE_OF_TIME))

    async def sweep(self) -> None:
        """Once over both tables."""
        record = self.record
        try:
            swept = await asyncio.to_thread(self._sweep)
        except LimpetError as error:
            record.failed += 1
            if record.error != str(error):
                log.error("sweep failed; expired entries keep their places", why=str(error))
            record.error = str(error)
            return
        record.done, record.error, record.duration_s = record.done + 1, "", swept.duration_s
        record.flows_expired += swept.flows_expired
        record.sessions_expired += swept.sessions_expired
        record.forgotten += swept.flows_forgotten + swept.sessions_forgotten

    def _sweep(self) -> Swept:
        with self._reconciler.loading:
            return self._kernel.sweep()

    def _tell_splits(self) -> None:
        """An event for every client that has become a mega-proxy. The tables are read only when
        the data plane has counted one; those of before this daemon are no news."""
        counted = self._kernel.counters().events["client_split"]
        if counted == self._splits_counted:
            return
        is_first, self._splits_counted = self._splits_counted is None, counted
        now = self._reconciler.now
        assert now is not None, "start comes first"
        found = clients.split_clients(now, self._kernel)
        for key, row in found.items():
            if key not in self._split_clients and not is_first:
                self._feed.publish(
                    "split", client=row["client"], vip=row["vip"], flows=row["flows"]
                )
        self._split_clients = set(found)

    async def _move_thresholds(self) -> None:
        """Bring new thresholds into effect, if a share is what splits."""
        now = self._reconciler.now
        assert now is not None, "start comes first"
        before = self._reconciler.split_flows
        if not now.desired.mega_proxy.share:
            wanted: Mapping[VipKey, int] = {}
        else:
            census = await asyncio.to_thread(self._count)
            numbers = {key: known.id for key, known in now.registry.vips.items()}
            flows = {key: int(census[number]) for key, number in numbers.items()}
            wanted = thresholds(now.desired, flows, before)
        if wanted != before:
            self._reconciler.split_flows = wanted
            self._pacing.wake(False)

    def _count(self) -> Mapping[int, int]:
        found = self._kernel.flows().census(self._kernel.tick()).vips
        return dict(enumerate(found.tolist()))


def thresholds(
    desired: Desired, flows: Mapping[VipKey, int], before: Mapping[VipKey, int]
) -> dict[VipKey, int]:
    """Flows of a client from which on it is split, by VIP; `flows` are those that are open."""
    proxy, found = desired.mega_proxy, {}
    for vip in desired.vips:
        if vip.affinity is not Affinity.CLIENT:
            continue
        key = (vip.address, vip.protocol, vip.port)
        wanted = max(SHARE_FLOWS_MIN, round(flows.get(key, 0) * proxy.share / 100))
        if proxy.flows:
            wanted = min(wanted, proxy.flows)
        old = before.get(key, 0)
        is_near = old and max(old, wanted) / min(old, wanted) < STEP
        found[key] = old if is_near else wanted
    return found
