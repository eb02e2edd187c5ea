# SPDX-License-Identifier: Apache-2.0
"""The kernel's jiffies, read by a BPF program: ages in the connection table are counted in them.

Their frequency (HZ) is not exported by every kernel, so it is measured once: two readings 0.1 s
apart tell the four values that Linux can have apart.
"""

import time
from functools import cache
from pathlib import Path

from limpet.datapath import libbpf

OBJECT = Path(__file__).with_name("clock.bpf.o")
HZ_VALUES = (100, 250, 300, 1000)
MEASURE_S = 0.1


class Clock:
    """Reads jiffies64; keeps two tiny programs loaded."""

    def __init__(self) -> None:
        self._object = libbpf.Object(OBJECT)
        self._object.load()
        self._high = self._object.program_fd("clock_high")
        self._low = self._object.program_fd("clock_low")

    def _half(self, program: int) -> int:
        return libbpf.run_value(program)

    def jiffies(self) -> int:
        """All 64 bits; read again if the low half ran over meanwhile."""
        while True:
            high = self._half(self._high)
            low = self._half(self._low)
            if high == self._half(self._high):
                return high << 32 | low


@cache
def clock() -> Clock:
    """The one clock of this process."""
    return Clock()


@cache
def hz() -> int:
    """Jiffies per second of the running kernel."""
    start, began = clock().jiffies(), time.monotonic()
    time.sleep(MEASURE_S)
    rate = (clock().jiffies() - start) / (time.monotonic() - began)
    return min(HZ_VALUES, key=lambda value: abs(value - rate))
