# SPDX-License-Identifier: Apache-2.0
"""Sampler: how fast counters move, and how many flows there are, for everybody who asks.

Counters are read once a second, so that a rate is there at once whoever asks first. Counting the
flows means reading the connection table; that is done only when asked for, and the answer is kept
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

PERIOD_S = 1.0
SHARE_OF_TIME = 0.1  # of one CPU, at most, that counting flows may take


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


class Sampler:
    """Reads the counters of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        sample = self._sample()
        self._rates = Rates(sample, sample)
        self._census: Census | None = None
        self._census_until = 0.0
        self._counting = threading.Lock()

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            sample = await asyncio.to_thread(self._sample)
            self._rates = Rates(self._rates.after, sample)

    def rates(self) -> Rates:
        return self._rates

    def census(self) -> Census:
        """Flows now, or a moment ago. Any thread may ask."""
        with self._counting:
            began = time.monotonic()
            if self._census is None or began >= self._census_until:
                self._census = self._kernel.flows().census(self._kernel.tick())
                took = time.monotonic() - began
                self._census_until = began + took / SHARE_OF_TIME
            return self._census

    def _sample(self) -> Sample:
        return Sample(time.monotonic(), self._kernel.vip_stats(), self._kernel.backend_stats())
