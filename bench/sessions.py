# SPDX-License-Identifier: Apache-2.0
"""What a million sessions cost: kernel memory, sweeping, and what `limpet show` and a drain read.

    python -m bench.sessions [--rounds 7]

A director in the kernel with room for a million sessions and flows gets a million clients, with one
open flow each. Times are medians of wall time. Needs root.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from bench.cases import LARGE, Directors, Setup
from bench.loads import M, client4, tcp4
from bench.pulse import Pulse
from limpet.daemon.sampler import Sampler
from limpet.datapath.flows import Wanted
from limpet.datapath.kernel import Kernel
from limpet.datapath.maps import MAPPED

SESSION_MAPS = ("sessions", "session_seen")
FLOW_MAPS = ("flows", "flow_clients")
BACKEND = 7  # one of a hundred: who is asked about when its drain begins


def memory(director: Kernel, names: tuple[str, ...]) -> int:
    """Bytes of the maps."""
    return sum(director._map(name).nbytes for name in names)


def median_ms(function: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def fill(director: Kernel) -> None:
    """A million clients, one flow each, established."""
    pulse, load = Pulse(), client4(tcp4("A"), 16 * M, scattered=False, by_client=True)
    for _ in range(2):
        pulse.aim(director.program, load)
        pulse.fire(M)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=7)
    rounds = arguments.parse_args().rounds
    assert set(SESSION_MAPS + FLOW_MAPS) <= set(MAPPED)
    with Directors() as directors:
        director = directors.get(Setup(purpose="sessions"))
        fill(director)
        tick = director.tick()
        census = director.sessions().census(tick)
        table = Table("what", "value", title=f"{census.total:,} sessions, one open flow each")
        sizes = {names: memory(director, names) / LARGE for names in (SESSION_MAPS, FLOW_MAPS)}
        table.add_row("memory of a session, bytes", f"{sizes[SESSION_MAPS]:.0f}")
        table.add_row("memory of a flow, bytes", f"{sizes[FLOW_MAPS]:.0f}")
        table.add_row("a sweep that ends nobody, ms", f"{median_ms(director.sweep, rounds):.0f}")
        fresh = [Sampler(director) for _ in range(rounds)]
        counted = median_ms(lambda: fresh.pop().population(), rounds)
        table.add_row("counting for `limpet show`, ms", f"{counted:.0f}")
        wanted = Wanted(backend=BACKEND)
        scan = median_ms(
            lambda: (
                director.sessions().decode(tick, wanted),
                director.flows().decode(tick, wanted),
            ),
            rounds,
        )
        table.add_row("sessions and flows of one backend, for its drain, ms", f"{scan:.0f}")
        limits = director._content().limits()
        limits[1:, :] = 0
        time.sleep(1)
        ending = director.sweep()
        assert ending.sessions_expired == census.total, ending
        table.add_row("a sweep that ends all of them, ms", f"{ending.duration_s * 1e3:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
