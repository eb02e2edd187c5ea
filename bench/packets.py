# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in the director: nanoseconds per packet, one row a case.

    python -m bench.packets [--rounds 15] [--only WORD]

Cases are interleaved in one process, in rotating order; bench/README.md has the method. The counter
that a case names must move by exactly the number of packets, or the run stops. Prints a table and
writes bench/latest.json. Needs root and two CPUs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cases import Case, Directors, cases, reading
from bench.loads import M, client4, tcp4
from bench.pulse import Pulse
from limpet.datapath.kernel import Kernel

LATEST = Path(__file__).resolve().parent / "latest.json"
ROUNDS = 200_000  # packets a sample
WARM_UP = 2_000
EMPTIED_EVERY = 4  # samples of fresh flows between two emptyings of their table


@dataclass(slots=True)
class Sample:
    """One timed run: nanoseconds a packet, and how long the fixed piece of work took around it."""

    took: float
    pace: float


@dataclass(slots=True)
class Samples:
    """All samples of the cases and of the harness itself."""

    cases: dict[str, list[Sample]] = field(default_factory=dict)
    harness: dict[str, list[Sample]] = field(default_factory=dict)

    def fastest_pace(self) -> float:
        every = (*self.cases.values(), *self.harness.values())
        return min(sample.pace for samples in every for sample in samples)

    def scaled(self, samples: list[Sample]) -> list[float]:
        """Nanoseconds as they would be at the machine's fastest."""
        fastest = self.fastest_pace()
        return [sample.took * fastest / sample.pace for sample in samples]

    def harness_ns(self, name: str) -> float:
        return statistics.median(self.scaled(self.harness[name]))


def fire(pulse: Pulse, rounds: int = ROUNDS) -> Sample:
    before = pulse.pace()
    took = pulse.fire(rounds)
    return Sample(took, (before + pulse.pace()) / 2)


def pin(cpu: int) -> None:
    """Bind this thread to a CPU."""
    os.sched_setaffinity(0, {cpu})


def measure_harness(pulse: Pulse, samples: Samples) -> None:
    """What the harness costs with an empty program, and what one adjust_head and one read cost."""
    one, many = client4(tcp4("A")), client4(tcp4("A"), M)
    before = pulse.pace()
    took = pulse.bare(ROUNDS)
    bare = Sample(took, (before + pulse.pace()) / 2)
    samples.harness.setdefault("bare", []).append(bare)
    for name, program, load in (
        ("wrapper", pulse.nothing, one),
        ("adjust_head", pulse.pushes, one),
        ("random read", pulse.reads, many),
    ):
        pulse.aim(program, load)
        samples.harness.setdefault(name, []).append(fire(pulse))


def measure_case(pulses: list[Pulse], case: Case, director: Kernel, number: int) -> Sample:
    """One sample, with the proof that every packet took the path that the case claims."""
    program, start = director.program, 0
    if case.is_fresh:
        start = number * (ROUNDS + WARM_UP)
        if number % EMPTIED_EVERY == 0:
            director.forget_flows()
    if case.prime is not None:
        pulses[0].aim(program, case.prime)
        pulses[0].fire(case.prime.flows >> 4 * case.prime.by_client)
    count = reading(director, case.proof)
    before = count()
    sample = fire_on_cpus(pulses[: case.cpus], program, case, start)
    moved, sent = count() - before, case.cpus * (ROUNDS + WARM_UP)
    if moved != sent:
        sys.exit(f"{case.name}: {case.proof} moved by {moved}, not by {sent}: another path")
    return sample


def fire_on_cpus(pulses: list[Pulse], program: int, case: Case, start: int) -> Sample:
    """One pulse a CPU, all at once over the same director; the mean of their samples."""
    found: list[Sample] = []

    def run(pulse: Pulse, cpu: int) -> None:
        pin(cpu)
        pulse.aim(program, case.load, start + cpu * 77_777)
        pulse.fire(WARM_UP)
        found.append(fire(pulse))

    if len(pulses) == 1:
        pulses[0].aim(program, case.load, start)
        pulses[0].fire(WARM_UP)
        return fire(pulses[0])
    threads = [threading.Thread(target=run, args=(p, cpu)) for cpu, p in enumerate(pulses)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = statistics.mean(sample.took for sample in found)
    return Sample(took, statistics.mean(sample.pace for sample in found))


def measure(rows: list[Case], rounds: int) -> Samples:
    samples, pulses = Samples(), [Pulse(), Pulse()]
    pin(1)
    with Directors() as directors:
        for number in range(rounds):
            measure_harness(pulses[0], samples)
            turn = number % len(rows)
            for case in rows[turn:] + rows[:turn]:
                sample = measure_case(pulses, case, directors.get(case.setup), number)
                samples.cases.setdefault(case.name, []).append(sample)
    return samples


def net(samples: Samples, case: Case) -> list[float]:
    """Nanoseconds of the program alone: 25, 50 and 75 %."""
    harness = samples.harness_ns("wrapper")
    if case.is_encapsulating:  # the harness takes the outer header off again
        harness += samples.harness_ns("adjust_head") - samples.harness_ns("wrapper")
    values = [value - harness for value in samples.scaled(samples.cases[case.name])]
    return [float(value) for value in np.percentile(values, [25, 50, 75])]


def report(rows: list[Case], samples: Samples) -> dict[str, object]:
    table = Table("case", "median, ns", "quartiles", "at most", "raw median", title="packet costs")
    found: dict[str, object] = {}
    for case in rows:
        low, middle, high = net(samples, case)
        raw = statistics.median(sample.took for sample in samples.cases[case.name])
        style = "red" if case.target_ns and middle > case.target_ns else None
        target = f"{case.target_ns:.0f}" if case.target_ns else ""
        cells = (f"{middle:.0f}", f"{low:.0f}-{high:.0f}", target, f"{raw:.0f}")
        table.add_row(case.name, *cells, style=style)
        found[case.name] = {"q1": low, "median": middle, "q3": high, "raw": raw}
    Console().print(table)
    harness = {name: round(samples.harness_ns(name), 1) for name in samples.harness}
    Console().print("harness, subtracted (fastest state, ns):", harness)
    return {"cases": found, "harness": harness, "pace_ns": samples.fastest_pace()}


def machine() -> dict[str, object]:
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpu": f"{len(models)} x {models[0]}",
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--only", default="", help="cases whose name contains this")
    options = arguments.parse_args()
    rows = [case for case in cases() if options.only in case.name]
    samples = measure(rows, options.rounds)
    found = {"machine": machine(), "rounds": options.rounds, **report(rows, samples)}
    if not options.only:
        LATEST.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
