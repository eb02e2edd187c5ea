# SPDX-License-Identifier: Apache-2.0
"""Sampler: how fast counters move, and how many flows and sessions there are, for all who ask.

Counters are read once a second, so that a rate is there at once whoever asks first. Counting flows
and sessions means reading their tables; that is done only when asked for, and the answer is kept
for ten times as long as it took, so that many who ask do not cost more than one.
"""

import asyncio
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.datapath.flows import Census
from limpet.datapath.kernel import Kernel
from limpet.datapath.sessions import SessionCensus

PERIOD_S = 1.0
SHARE_OF_TIME = 0.1  # of one CPU, at most, that counting may take


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at a moment."""

    at: float
    vips: NDArray[np.void]  # VIP_STATS by id
    backends: NDArray[np.void]  # BACKEND_STATS by id


@dataclass(frozen=True, slots=True)
class Rates:
    """The last two samples."""

    before: Sample
    after: Sample

    def per_s(self, kind: str, number: int, field: str) -> float:
        """Of the counter `field` of row `number` of `kind`, "vips" or "backends"."""
        seconds = self.after.at - self.before.at
        if seconds <= 0:
            return 0.0
        new = int(getattr(self.after, kind)[number][field])
        old = int(getattr(self.before, kind)[number][field])
        return max(0, new - old) / seconds


@dataclass(frozen=True, slots=True)
class Population:
    """Who is there."""

    flows: Census
    sessions: SessionCensus  # of VIPs whose sessions have entries
    loads: NDArray[np.uint32]  # live sessions of every kind, by id of the backend


class Sampler:
    """Reads the counters of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        sample = self._sample()
        self._rates = Rates(sample, sample)
        self._counted: Population | None = None
        self._counted_until = 0.0
        self._counting = threading.Lock()

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            sample = await asyncio.to_thread(self._sample)
            self._rates = Rates(self._rates.after, sample)

    def rates(self) -> Rates:
        return self._rates

    def population(self) -> Population:
        """Flows and sessions now, or a moment ago. Any thread may ask."""
        with self._counting:
            began = time.monotonic()
            if self._counted is None or began >= self._counted_until:
                tick = self._kernel.tick()
                flows = self._kernel.flows().census(tick)
                sessions = self._kernel.sessions().census(tick)
                self._counted = Population(flows, sessions, self._kernel.loads())
                took = time.monotonic() - began
                self._counted_until = began + took / SHARE_OF_TIME
            return self._counted

    def _sample(self) -> Sample:
        return Sample(time.monotonic(), self._kernel.vip_stats(), self._kernel.backend_stats())
