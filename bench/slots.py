# SPDX-License-Identifier: Apache-2.0
"""How long a slot table takes to build: 65,536 slots, 10 to 4,000 backends, four kinds of change.

The cases take turns within each round, so that a busy moment of the machine hits all of them
alike. Prints a Markdown table of medians and quartiles in ms, and fails if a target is missed
(20 ms for 100 backends, 100 ms for 1,000). `--rounds N`, at least 15.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from time import perf_counter

import numpy as np

from limpet.core.model import SLOTS, BackendId
from limpet.core.slots import SlotTable, build

KEY = 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF
SIZES = (10, 100, 1_000, 4_000)
CHANGES = ("first build", "one removed", "one added", "all re-weighted", "one returned")
ROUNDS_MIN = 15
TARGETS_MS = {100: 20.0, 1_000: 100.0}

Weights = dict[BackendId, int]
Case = tuple[int, str]


def drawn(count: int, seed: int) -> Weights:
    values = np.random.default_rng(seed).integers(1, 65_536, count)
    return {BackendId(i): int(value) for i, value in enumerate(values, start=1)}


def cases() -> dict[Case, Callable[[], SlotTable]]:
    """What is timed. The tables before carry a history of three changes."""
    made: dict[Case, Callable[[], SlotTable]] = {}
    for size in SIZES:
        weights = drawn(size, 1)
        table = None
        for seed in (2, 3, 4, 1):
            table = build(table, drawn(size, seed), KEY)
        fewer = {backend: weight for backend, weight in weights.items() if backend != 2}
        more = weights | {BackendId(size + 1): 30_000}
        changes = (
            (None, weights),
            (table, fewer),
            (table, more),
            (table, drawn(size, 5)),
            (build(table, fewer, KEY), weights),
        )
        for name, (before, after) in zip(CHANGES, changes, strict=True):
            made[size, name] = lambda before=before, after=after: build(  # type: ignore[misc]
                before, after, KEY
            )
    return made


def measure(rounds: int) -> dict[Case, list[float]]:
    """Milliseconds of every case in every round. A first round warms up and is not counted."""
    timed = cases()
    times: dict[Case, list[float]] = {case: [] for case in timed}
    for round_ in range(rounds + 1):
        for case, run in timed.items():
            start = perf_counter()
            run()
            if round_:
                times[case].append((perf_counter() - start) * 1_000)
    return times


def report(times: dict[Case, list[float]]) -> list[str]:
    """The table, and what misses its target."""
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()};")
    print(f"{len(next(iter(times.values())))} rounds, {SLOTS} slots; median (quartiles) in ms\n")
    print("| backends | " + " | ".join(CHANGES) + " |")
    print("|---|" + "---|" * len(CHANGES))
    missed = []
    for size in SIZES:
        cells = []
        for change in CHANGES:
            low, median, high = np.percentile(times[size, change], (25, 50, 75))
            cells.append(f"{median:.1f} ({low:.1f}-{high:.1f})")
            if median > TARGETS_MS.get(size, np.inf):
                missed.append(f"{size} backends, {change}: {median:.1f} ms")
        print(f"| {size} | " + " | ".join(cells) + " |")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="time to build a slot table")
    parser.add_argument("--rounds", type=int, default=ROUNDS_MIN)
    rounds = max(ROUNDS_MIN, parser.parse_args().rounds)
    missed = report(measure(rounds))
    for line in missed:
        print(f"over target: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
