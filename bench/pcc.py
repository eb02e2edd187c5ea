# SPDX-License-Identifier: Apache-2.0
"""How many sessions break when the pool changes, and when BGP shifts clients meanwhile.

    python -m bench.pcc [--sessions 2500] [--seed 1] [--picture docs/pictures/pcc.svg]

The same trace under five ways to choose a backend. A session is broken from the first packet on
that reaches another backend than its first; backends that leave the pool go on serving.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import pcc_limpet, pcc_plot
from bench.pcc_schemes import Consistent, LocalTable, Modulo, Scheme, SecondChance, broken
from bench.pcc_trace import SECONDS, STEPS_PER_S, Trace, make

SCHEMES: dict[str, Callable[[Trace], Scheme]] = {
    "modulo": Modulo,
    "consistent hash": Consistent,
    "local table": LocalTable,
    "second chance": SecondChance,
}
CASES = {"the pool changes": False, "and clients shift between PoPs": True}
SAYS = (
    "Percent of all sessions that broke, over a minute. Where only the pool changes, modulo breaks "
    "most, a consistent hash many, a second chance some, a local table and limpet none. Where "
    "clients shift as well, the local table breaks sessions, too; limpet none."
)
Seconds = np.ndarray[tuple[int], np.dtype[np.int64]]  # sessions that broke in each


def of_all(trace: Trace, seed: int) -> tuple[dict[str, Seconds], int]:
    """Sessions that broke in each second, by scheme; and how many there were."""
    found, sessions = {}, 0
    for name, scheme in SCHEMES.items():
        at, sessions = broken(trace, scheme(trace))
        found[name] = np.bincount(at[at >= 0] // STEPS_PER_S, minlength=SECONDS)[:SECONDS]
    at_s, tally = pcc_limpet.play(trace, seed)
    assert not tally.failed, tally.failures
    found["limpet"] = np.bincount(np.array(at_s, np.int64), minlength=SECONDS)[:SECONDS]
    return found, sessions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=2_500, help="at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    table = Table("scheme", title=f"broken sessions, {options.sessions:,} at a time")
    panels: dict[str, dict[str, list[float]]] = {}
    rows: dict[str, list[str]] = {}
    for case, has_shifts in CASES.items():
        table.add_column(f"{case}: total", justify="right")
        table.add_column("worst second", justify="right")
        found, sessions = of_all(make(options.sessions, options.seed, has_shifts), options.seed)
        share = {name: np.cumsum(each) / sessions * 100 for name, each in found.items()}
        panels[case] = {name: each.tolist() for name, each in share.items()}
        for name, each in found.items():
            worst = each.max() / options.sessions * 100
            rows.setdefault(name, []).extend([f"{share[name][-1]:.2f} %", f"{worst:.2f} %"])
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console().print(table)
    if options.picture:
        options.picture.write_text(pcc_plot.svg(panels, SAYS))


if __name__ == "__main__":
    main()
