# SPDX-License-Identifier: Apache-2.0
"""The kernel's jiffies, read by a BPF program: ages in the connection table are counted in them.

Their frequency (HZ) is not exported by every kernel, so it is measured once: two readings 0.1 s
apart tell the four values that Linux can have apart. On a busy machine a reading may take long;
such a reading is taken again, since the length of a tick, and with it the age of every flow that a
restart adopts, hangs on it.
"""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from limpet.datapath import bpf, elf

OBJECT = Path(__file__).with_name("clock.bpf.o")
HZ_VALUES = (100, 250, 300, 1000)
MEASURE_S = 0.1
READING_S = 1e-3  # what a reading may take: an error of 1 % at most


class Clock:
    """Reads jiffies64; keeps two tiny programs loaded."""

    def __init__(self) -> None:
        self._object = elf.Object(OBJECT)
        self._object.load()
        self._high = self._object.program_fd("clock_high")
        self._low = self._object.program_fd("clock_low")

    def _half(self, program: int) -> int:
        return bpf.run_value(program)

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
    start, began = dated(clock().jiffies)
    time.sleep(MEASURE_S)
    end, ended = dated(clock().jiffies)
    rate = (end - start) / (ended - began)
    return min(HZ_VALUES, key=lambda value: abs(value - rate))


def dated(read: Callable[[], int]) -> tuple[int, float]:
    """A reading and the time at which it was true."""
    while True:
        before = time.monotonic()
        value = read()
        after = time.monotonic()
        if after - before <= READING_S:
            return value, after
