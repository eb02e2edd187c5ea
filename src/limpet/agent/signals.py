# SPDX-License-Identifier: Apache-2.0
"""Signals: SIGHUP, SIGTERM and SIGINT one after the other, and never in the middle of a change.

They are blocked in the main thread but while it waits, because the kernel breaks off the load of a
BPF program for a signal. That alone is not enough: libraries start threads of their own that block
nothing, and there a signal would have its default effect, the end. So each has a handler, and
arrives through Python's wake-up descriptor, whichever thread took it.
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Self

HANDLED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def _note(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has the number already."""


class Signals:
    """While open, the signals are queued. Main thread only."""

    def __enter__(self) -> Self:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, _note) for number in HANDLED}
        self._wakeup = signal.set_wakeup_fd(self._write)
        return self

    def wait(self) -> signal.Signals:
        """The next signal."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        try:
            return signal.Signals(os.read(self._read, 1)[0])
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
