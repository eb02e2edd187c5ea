# SPDX-License-Identifier: Apache-2.0
"""The connection table against the kernel's LRU hash: time per packet, and who survives a flood.

    python -m bench.tables [--rounds 15]

Same traffic, same capacity (1 M flows), in one process, interleaved, on one CPU and on both at
once. The flood sends 1 M new flows through tables for 64 k that hold 30,000 idle but live ones.
docs/adr/0001-connection-table.md draws the conclusion. Needs two CPUs.
"""

import argparse
import os
import threading
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.loads import K, M, client4, tcp4
from bench.pulse import Load, Pulse, compiled
from limpet.core.model import Director, Protocol, Timeouts
from limpet.datapath import bpf, clock, elf, settings
from limpet.datapath.abi import FLOW_BUCKET, IDLE_LIMITS

ROUNDS = 200_000
IDLE = 30_000
FLOOD = 1_000_000
VIP = 1  # of table_own
PROGRAMS = ("table_own", "table_lru")


class Tables:
    """Both tables, made for so many flows."""

    def __init__(self, flows_max: int) -> None:
        options = Director("bench", ("lo",), flows_max=flows_max)
        constants = settings.encode(options, settings.Machine(clock.hz(), bytes(16), b"k" * 16))
        self.object = elf.Object(compiled("tables"))
        self.object.set_constants(constants.tobytes())
        self.object.resize("lru", flows_max)
        buckets = settings.buckets(flows_max)
        self.object.resize("flows", buckets)
        self.object.resize("flow_clients", buckets * settings.WAYS)
        self.object.load()
        memory = bpf.map_memory(self.object.map_fd("flows"))
        self._flows = np.frombuffer(memory, FLOW_BUCKET, count=buckets)
        memory = bpf.map_memory(self.object.map_fd("idle_limits"))
        limits = np.frombuffer(memory, IDLE_LIMITS, count=1)["ticks"][0]
        limits[VIP] = settings.encode_limits(Timeouts(), Protocol.TCP, clock.hz())

    def program(self, name: str) -> int:
        return self.object.program_fd(name)

    def empty_own(self) -> None:
        self._flows["entries"]["word"] = 0

    def outcomes(self) -> tuple[int, int]:
        """(hits, creations) so far, of both programs."""
        cpus = os.cpu_count() or 1
        data = bpf.map_lookup(self.object.map_fd("outcomes"), 0, 16 * cpus)
        hits, created = np.frombuffer(data, np.uint64).reshape(cpus, 2).sum(axis=0)
        return int(hits), int(created)


def timed(pulse: Pulse, program: int, load: Load, start: int = 0) -> float:
    """Nanoseconds per packet, at the pace of the machine just now."""
    pulse.aim(program, load, start)
    pulse.fire(2_000)
    before = pulse.pace()
    took = pulse.fire(ROUNDS)
    return took / ((before + pulse.pace()) / 2)


def both_at_once(pulses: list[Pulse], program: int, load: Load) -> float:
    """The same on two CPUs over one table; mean of both."""
    took = [0.0, 0.0]

    def run(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        took[cpu] = timed(pulses[cpu], program, load, start=cpu * 77_777)

    threads = [threading.Thread(target=run, args=(cpu,)) for cpu in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(took) / 2


def survivors(pulse: Pulse, tables: Tables, program: int) -> int:
    """How many of IDLE established flows are still there after FLOOD others came."""
    idle = client4(tcp4("S"), 1 << 15, scattered=False)
    for packet in (tcp4("S"), tcp4("A")):
        pulse.aim(program, replace(idle, frame=client4(packet).frame))
        pulse.fire(IDLE)
    others = client4(tcp4("S"), 1 << 30, scattered=False)
    pulse.aim(program, others, start=1 << 20)
    pulse.fire(FLOOD)
    pulse.aim(program, replace(idle, frame=client4(tcp4("A")).frame))
    before = tables.outcomes()[0]
    pulse.fire(IDLE)
    return tables.outcomes()[0] - before


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Case -> program -> samples, in units of pace."""
    pulses = [Pulse(), Pulse()]
    large = Tables(1_000_000)
    found: dict[str, dict[str, list[float]]] = {}
    wrapper: list[float] = []
    for name in PROGRAMS:
        pulses[0].aim(large.program(name), client4(tcp4("S"), M, scattered=False))
        pulses[0].fire(M)
    for number in range(rounds):
        os.sched_setaffinity(0, {1})
        wrapper.append(timed(pulses[0], pulses[0].nothing, client4(tcp4("A"))))
        for name in PROGRAMS[:: 1 if number % 2 else -1]:
            program = large.program(name)
            for label, flows in (("1 flow", 1), ("16 k", 16 * K), ("128 k", 128 * K), ("1 M", M)):
                took = timed(pulses[0], program, client4(tcp4("A"), flows))
                found.setdefault(f"hit, {label}", {}).setdefault(name, []).append(took)
            took = both_at_once(pulses, program, client4(tcp4("A"), 128 * K))
            found.setdefault("hit, 128 k, both CPUs", {}).setdefault(name, []).append(took)
    fresh = Tables(1_000_000)
    for number in range(rounds):
        os.sched_setaffinity(0, {1})
        for name in PROGRAMS:
            if name == "table_own" and number % 4 == 0:
                fresh.empty_own()
            start = (number + 1) * (ROUNDS + 2_000)
            took = timed(pulses[0], fresh.program(name), client4(tcp4("S"), 1 << 31), start)
            found.setdefault("new flow", {}).setdefault(name, []).append(took)
    for programs in found.values():
        for name in PROGRAMS:
            programs[name] = [value - float(np.median(wrapper)) for value in programs[name]]
    pace = min(pulses[0].pace() for _ in range(20))
    return {
        case: {name: [v * pace for v in samples] for name, samples in programs.items()}
        for case, programs in found.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    rounds = arguments.parse_args().rounds
    table = Table("case", "own, ns", "LRU hash, ns", "ratio")
    for case, programs in measure(rounds).items():
        cells, medians = [], []
        for name in PROGRAMS:
            low, middle, high = np.percentile(programs[name], [25, 50, 75])
            cells.append(f"{middle:.0f} [{low:.0f}-{high:.0f}]")
            medians.append(middle)
        table.add_row(case, *cells, f"{medians[1] / medians[0]:.1f}")
    console = Console()
    console.print(table)
    pulse = Pulse()
    for name in PROGRAMS:
        tables = Tables(40_960)
        left = survivors(pulse, tables, tables.program(name))
        console.print(f"{name}: {left} of {IDLE} idle flows left after {FLOOD} new ones")


if __name__ == "__main__":
    main()
