# SPDX-License-Identifier: Apache-2.0
"""A storm: random packets from all CPUs at once through one director, made inside the kernel.

Frames come from a window over a pile of them; the window moves while the storm goes on, so that
clients fall silent, expire, and come back.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tools import compile_bpf

from limpet.datapath import bpf, elf

SOURCE = Path(__file__).with_name("storm.bpf.c")
FRAME, FRAMES_MAX, ROUNDS = 128, 16_384, 20_000


class Storm:
    """Frames, and threads that send them until they are told to stop."""

    def __init__(self, program: int, frames: list[bytes], window: int) -> None:
        assert len(frames) <= FRAMES_MAX
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "storm.bpf.o"
            compile_bpf.compile_object(SOURCE, target)
            self._object = elf.Object(target)
        self._object.load()
        self._program = self._object.program_fd("storm")
        subject, key = self._object.map_fd("subject"), bytes(4)
        bpf.map_update(subject, key, program.to_bytes(4, "little"))
        self._memory = [bpf.map_memory(self._object.map_fd(n)) for n in ("frames", "windows")]
        pile = b"".join(frame[:FRAME].ljust(FRAME, b"\0") for frame in frames)
        self._memory[0][: len(pile)] = pile
        self._window = np.frombuffer(self._memory[1], "<u4", count=2)
        self._window[1] = window
        self._places = max(1, len(frames) - window)
        self._is_over = threading.Event()

    def look_at(self, share: float) -> None:
        """Move the window: 0 the first frames, 1 the last."""
        self._window[0] = int(share * self._places)

    def _blow(self, cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        while not self._is_over.is_set():
            bpf.run(self._program, bytes(FRAME), ROUNDS)

    @contextmanager
    def blowing(self) -> Iterator[None]:
        """On two CPUs, while the block runs."""
        self._is_over.clear()
        cpus = sorted(os.sched_getaffinity(0))[:2]
        threads = [threading.Thread(target=self._blow, args=(cpu,)) for cpu in cpus]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        self._object.close()
