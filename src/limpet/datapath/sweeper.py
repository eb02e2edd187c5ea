# SPDX-License-Identifier: Apache-2.0
"""Sweeper: ends what has been idle for too long, by a program in the kernel (bpf/sweep.bpf.c).

It frees places and makes counts right; packets do not depend on it. A table is swept in chunks, so
that no call keeps a CPU for long. The programs end with the process: they are not pinned.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from limpet.datapath import bpf, elf
from limpet.datapath.abi import SWEEP

OBJECT = Path(__file__).with_name("sweep.bpf.o")
PROGRAMS = {"flows": "sweep_flows", "sessions": "sweep_sessions"}
CHUNK = 1 << 14  # buckets a call: about a millisecond


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep of both tables ended, and how long it took."""

    flows_expired: int
    flows_forgotten: int  # had expired before, and were remembered for too long
    sessions_expired: int
    sessions_forgotten: int
    duration_s: float


class Sweeper:
    """The programs, over the maps of one director."""

    def __init__(self, maps: Mapping[str, int], constants: bytes) -> None:
        """`maps`: descriptors by name; `constants`: those that the director runs with."""
        program = elf.Object(OBJECT)
        try:
            program.set_constants(constants)
            for name, fd in maps.items():
                if program.has_map(name):
                    program.reuse(name, fd)
            program.load()
            self._programs = {
                table: os.dup(program.program_fd(name)) for table, name in PROGRAMS.items()
            }
        finally:
            program.close()
        self._buckets = {table: bpf.map_info(maps[table]).max_entries for table in PROGRAMS}

    def sweep(self) -> Swept:
        """Once over both tables."""
        began = perf_counter()
        flows, sessions = (self._table(table) for table in PROGRAMS)
        return Swept(*flows, *sessions, duration_s=perf_counter() - began)

    def _table(self, table: str) -> tuple[int, int]:
        expired = forgotten = 0
        for first in range(0, self._buckets[table], CHUNK):
            asked = np.zeros((), SWEEP)
            asked["first"] = first
            asked["count"] = min(CHUNK, self._buckets[table] - first)
            answer = bpf.run_syscall(self._programs[table], asked.tobytes())
            said = np.frombuffer(answer, SWEEP)[0]
            expired += int(said["expired"])
            forgotten += int(said["forgotten"])
        return expired, forgotten

    def close(self) -> None:
        for fd in self._programs.values():
            os.close(fd)
        self._programs.clear()
