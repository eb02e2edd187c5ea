# SPDX-License-Identifier: Apache-2.0
"""Unix time and ticks: entries travel with Unix time, the data path counts ticks of its machine.

Both are read together, and again every second, so that a wall clock that is set moves nothing that
is written later by more than the tick between. A tick is about a quarter of a second.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limpet.daemon.unixtime import now_ms

ANCHOR_S = 1.0  # that a reading of both is used
TICK_MAX = (1 << 32) - 1
HALF = 1 << 31


class Clock:
    """Translates between the two."""

    def __init__(self, tick: Callable[[], int], tick_s: float) -> None:
        """`tick` reads the data path's clock, `tick_s` is the length of its tick."""
        self._read, self._tick_ms = tick, tick_s * 1e3
        self._tick = self._ms = 0
        self._anchored = -ANCHOR_S

    def _anchor(self) -> None:
        if time.monotonic() - self._anchored >= ANCHOR_S:
            self._tick, self._ms = self._read(), now_ms()
            self._anchored = time.monotonic()

    def ticks(self, ms: ArrayLike) -> NDArray[np.uint32]:
        """The tick of each Unix time in ms; modulo 2^32, as the data path counts."""
        self._anchor()
        ahead = np.asarray(ms).astype(np.int64) - self._ms
        ticks = self._tick + np.round(ahead / self._tick_ms).astype(np.int64)
        return (np.clip(ticks, 1, None) & TICK_MAX).astype(np.uint32)

    def times(self, ticks: ArrayLike) -> NDArray[np.uint64]:
        """The Unix time in ms of each tick; one of the future counts as now."""
        self._anchor()
        age = (self._tick - np.asarray(ticks).astype(np.int64)) & TICK_MAX
        age = np.where(age < HALF, age, 0)
        return (now_ms() - age * self._tick_ms).astype(np.uint64)

    def ago(self, age: ArrayLike) -> NDArray[np.uint64]:
        """The Unix time in ms that is so many ticks ago."""
        return (now_ms() - np.asarray(age) * self._tick_ms).astype(np.uint64)
