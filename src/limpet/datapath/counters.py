# SPDX-License-Identifier: Apache-2.0
"""Counters of the data plane, summed over CPUs, by the names of bpf/abi.h in lower case."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from limpet.datapath.abi import COUNTERS, Event, Rung, Verdict


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading. `verdicts` has every packet exactly once; `rungs` every forwarded one."""

    verdicts: dict[str, int]
    rungs: dict[str, int]
    events: dict[str, int]


def _named(kind: type[IntEnum], values: NDArray[np.uint64]) -> dict[str, int]:
    return {member.name.lower(): int(values[member]) for member in kind}


def decode(per_cpu: bytes) -> Counters:
    """Sum of COUNTERS records, one a CPU."""
    rows = np.frombuffer(per_cpu, COUNTERS)
    return Counters(
        verdicts=_named(Verdict, rows["verdicts"].sum(axis=0)),
        rungs=_named(Rung, rows["rungs"].sum(axis=0)),
        events=_named(Event, rows["events"].sum(axis=0)),
    )


def totals(per_cpu: bytes, dtype: np.dtype[np.void], entries: int) -> NDArray[np.void]:
    """Sum over CPUs of records whose fields are all counters, shape (entries,)."""
    cpus = len(per_cpu) // (dtype.itemsize * entries)
    rows = np.frombuffer(per_cpu, dtype).reshape(entries, cpus)
    total = np.zeros(entries, dtype)
    for name in dtype.names or ():
        total[name] = rows[name].sum(axis=1)
    return total
