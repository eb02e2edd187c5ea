# SPDX-License-Identifier: Apache-2.0
"""Load generator for packet costs: makes frames inside the kernel and times a program over them.

Times are CPU time of the calling thread around one BPF_PROG_TEST_RUN of many rounds, so that other
processes do not count; `pace` tells how fast the CPU was right then. See bench/README.md.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tools import compile_bpf

from limpet.datapath import bpf, elf

SOURCES = Path(__file__).resolve().parent / "bpf"
HEAD = 112
PULSE = np.dtype(
    [
        ("head", "u1", (HEAD,)),
        ("count", "<u8"),
        ("length", "<u4"),
        ("mask", "<u4"),
        ("multiplier", "<u4"),
        ("address_at", "<u4"),
        ("port_at", "<u4"),
        ("reserved", "<u4"),
    ]
)
FLOW_MASK = 0xFFFF_FFFF
SCATTER = 0x9E3779B1  # odd, so count * SCATTER & mask visits each flow once a pass
PACE_ROUNDS = 20_000


@dataclass(frozen=True, slots=True)
class Load:
    """Frames to send: the first one, and where flow numbers are mixed into it."""

    frame: bytes
    address_at: int
    port_at: int
    flows: int = 1  # a power of two
    scattered: bool = True
    by_client: bool = False  # one flow of each client, not 16


def compiled(name: str) -> Path:
    """A benchmark's own BPF object, compiled if its source is newer."""
    source, target = SOURCES / f"{name}.bpf.c", SOURCES / f"{name}.bpf.o"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        compile_bpf.compile_object(source, target)
    return target


class Pulse:
    """Pulse, baselines and pace, loaded. One per process."""

    def __init__(self) -> None:
        self._object = elf.Object(compiled("pulse"))
        self._object.load()
        self._memory = bpf.map_memory(self._object.map_fd("pulses"))
        self._row = np.frombuffer(self._memory, PULSE, count=1)
        self.nothing = self._object.program_fd("nothing")
        self.pushes = self._object.program_fd("pushes")
        self.reads = self._object.program_fd("reads")
        self._pulse = self._object.program_fd("pulse")
        self._pace = self._object.program_fd("pace")

    def aim(self, program: int, load: Load, start: int = 0) -> None:
        """From now on `fire` sends this load through this program."""
        row = self._row[0]
        head = load.frame[:HEAD].ljust(HEAD, b"\0")
        row["head"] = np.frombuffer(head, np.uint8)
        row["length"] = max(HEAD, len(load.frame))
        row["mask"] = load.flows - 1
        row["multiplier"] = (SCATTER if load.scattered else 1) << (4 * load.by_client) & FLOW_MASK
        row["address_at"], row["port_at"] = load.address_at, load.port_at
        row["count"] = start
        bpf.map_update(self._object.map_fd("subject"), bytes(4), program.to_bytes(4, "little"))

    def fire(self, rounds: int) -> float:
        """Nanoseconds a round."""
        frame = bytes(int(self._row[0]["length"]))
        begun = time.thread_time_ns()
        bpf.run(self._pulse, frame, rounds)
        return (time.thread_time_ns() - begun) / rounds

    def pace(self) -> float:
        """Nanoseconds that the fixed piece of work takes just now."""
        begun = time.thread_time_ns()
        bpf.run(self._pace, bytes(HEAD), PACE_ROUNDS)
        return (time.thread_time_ns() - begun) / PACE_ROUNDS

    def bare(self, rounds: int) -> float:
        """The kernel's own loop around an empty program."""
        begun = time.thread_time_ns()
        bpf.run(self.nothing, bytes(HEAD), rounds)
        return (time.thread_time_ns() - begun) / rounds
