# SPDX-License-Identifier: Apache-2.0
"""Counters of the agent's programs, summed over CPUs, by the names of bpf/abi.h in lower case."""

import numpy as np

from limpet.datapath import abi, bpf


def read(fd: int) -> dict[str, int]:
    """One reading of the map `agent_counters`; zeros where another version's map has fewer."""
    size = bpf.map_info(fd).value_size
    data = bpf.map_lookup(fd, 0, size * bpf.possible_cpus())
    totals = np.frombuffer(data, "<u8").reshape(-1, size // 8).sum(axis=0)
    return {
        verdict.name.lower(): int(totals[verdict]) if verdict < len(totals) else 0
        for verdict in abi.AgentVerdict
    }
