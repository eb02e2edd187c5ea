# SPDX-License-Identifier: Apache-2.0
"""What a shift costs the data path: the first packet here of a flow that began elsewhere, and those
after it, beside flows that began here.

    python -m bench.shift [--rounds 15]

Every way that a flow may have come has a director of its own, with as many flows, each of another
client. All ways take their turns in one process, in rotating order, so that one is as often first
as last; the way "began here, alone" is there twice, and what differs between these two is noise.
bench/README.md has the method. Needs root and two CPUs.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cases import BACKENDS, Directors, Setup, reading
from bench.loads import VIP4, client4, tcp4
from bench.packets import ROUNDS, WARM_UP, Samples, fire, machine, measure_harness, pin
from bench.pulse import Load, Pulse
from limpet.core.model import Protocol
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY, ExceptionFlag, ExceptionKind
from limpet.datapath.kernel import Kernel

FLOWS = 1 << 16  # of a way: what their first packets tell fits into the ring of news
HELD = 256  # packets that wait at once, within the usual rate
TICKS = 1 << 24  # for which an exception holds: longer than any run
CLIENT = 0xFFFF << 32 | int(ip_address("10.0.0.0"))
PORTS = 1024 << 16 | 443


@dataclass(frozen=True, slots=True)
class Way:
    """How the flows of a director came to it."""

    name: str
    is_member: bool
    flags: str  # TCP, of their first packet here
    proof: str  # what chose its backend
    told: ExceptionKind | None = None  # what others told
    answer: ExceptionFlag | int = 0


ALONE = "began here, alone"
SYN, ACK = "S", "A"
TOLD = "rung.directory_existing"
SESSION, FLOW = ExceptionKind.SESSION, ExceptionKind.FLOW
WAYS = (
    Way(ALONE, False, SYN, "rung.home_new"),
    Way(f"{ALONE}, again (A/A control)", False, SYN, "rung.home_new"),
    Way("began here, member of a cluster", True, SYN, "rung.home_new"),
    Way("shifted here, session was told", True, ACK, TOLD, SESSION),
    Way("shifted here, flow was told", True, ACK, TOLD, FLOW),
    Way("shifted here, owner answered", True, ACK, "rung.owner", FLOW, ExceptionFlag.ANSWER),
)
PUT_ASIDE = "put aside, to be asked for"
STEPS = ("first packet", "second", "each later", "each later, one flow")


def told(way: Way, director: Kernel) -> None:
    """Write what others told of each flow; the backends take turns."""
    if way.told is None:
        return
    (vip,) = [
        row.id
        for row in director.observe().vips
        if str(row.address) == VIP4 and row.protocol is Protocol.TCP
    ]
    keys, values = np.zeros(FLOWS, EXCEPTION_KEY), np.zeros(FLOWS, EXCEPTION)
    keys["client"][:, 1] = CLIENT + np.arange(FLOWS)
    keys["range"] = PORTS if way.told is FLOW else 0
    keys["vip"], keys["kind"] = vip, way.told
    values["since"] = director.tick()
    values["until"] = director.tick() + TICKS
    values["backend"] = 1 + np.arange(FLOWS) % BACKENDS
    values["flags"] = way.answer
    assert director.directory().put(keys, values) == FLOWS


class Watch:
    """One director; takes the samples of its way, each with a proof of the path that it took."""

    def __init__(self, way: Way, director: Kernel, pulse: Pulse, samples: Samples) -> None:
        self._way, self._director, self._pulse, self._samples = way, director, pulse, samples
        self._news, self._held = director.news(), director.held()
        told(way, director)

    def measure(self) -> None:
        """Forget all flows; then their packets, from the first on."""
        self._director.forget_flows()
        self._news.read()
        first, ack = every(self._way.flags), every(ACK)
        self._take("first packet", first, FLOWS, self._way.proof)
        self._take("second", ack, FLOWS)
        self._take("each later", ack, ROUNDS, warm_up=WARM_UP)
        self._take("each later, one flow", client4(tcp4(ACK)), ROUNDS, warm_up=WARM_UP)
        if self._way.answer:  # what was before: nobody has told, and the daemon has to ask
            unknown = client4(tcp4(ACK), 2 * 16 * FLOWS, scattered=False, by_client=True)
            self._take(PUT_ASIDE, unknown, HELD, "verdict.held", start=FLOWS)
            self._held.read()

    def close(self) -> None:
        self._news.close()
        self._held.close()

    def _take(
        self,
        step: str,
        load: Load,
        rounds: int,
        proof: str = "rung.table",
        *,
        start: int = 0,
        warm_up: int = 0,
    ) -> None:
        self._pulse.aim(self._director.program, load, start)
        if warm_up:
            self._pulse.fire(warm_up)
        count = reading(self._director, proof)
        before = count()
        sample = fire(self._pulse, rounds)
        moved = count() - before
        if moved != rounds:
            sys.exit(f"{self._way.name}, {step}: {proof} moved by {moved}, not by {rounds}")
        self._samples.cases.setdefault(name_of(self._way, step), []).append(sample)


def every(flags: str) -> Load:
    """One packet of each flow, in scattered order."""
    return client4(tcp4(flags), 16 * FLOWS, by_client=True)


def name_of(way: Way, step: str) -> str:
    return f"{way.name}: {step}"


def measure(rounds: int) -> Samples:
    samples, pulse = Samples(), Pulse()
    pin(1)
    with Directors() as directors:
        watches = [Watch(way, directors.get(setup(way)), pulse, samples) for way in WAYS]
        for number in range(rounds):
            measure_harness(pulse, samples)
            turn = number % len(watches)
            for watch in watches[turn:] + watches[:turn]:
                watch.measure()
        for watch in watches:
            watch.close()
    return samples


def setup(way: Way) -> Setup:
    return Setup(purpose=way.name, is_member=way.is_member)


def net(samples: Samples, name: str) -> list[float]:
    """Nanoseconds of the program alone: 25, 50 and 75 %."""
    harness = samples.harness_ns("wrapper" if name.endswith(PUT_ASIDE) else "adjust_head")
    values = [value - harness for value in samples.scaled(samples.cases[name])]
    return [float(value) for value in np.percentile(values, [25, 50, 75])]


def against(samples: Samples, name: str, base: str) -> str:
    """How much more than another, round by round: median and quartiles."""
    pairs = zip(*(samples.scaled(samples.cases[each]) for each in (name, base)), strict=True)
    low, middle, high = np.percentile([one - other for one, other in pairs], [25, 50, 75])
    return f"{middle:+.0f} ({low:+.0f} to {high:+.0f})"


def report(samples: Samples) -> Table:
    columns = ("packet", "flow", "median, ns", "quartiles", "raw median", "more than alone")
    table = Table(*columns, title="what a shift costs a packet")
    for step in (*STEPS, PUT_ASIDE):
        for way in WAYS:
            name = name_of(way, step)
            if name not in samples.cases:
                continue
            low, middle, high = net(samples, name)
            raw = statistics.median(sample.took for sample in samples.cases[name])
            base = name_of(WAYS[0], step)
            more = against(samples, name, base) if base in samples.cases and way != WAYS[0] else ""
            table.add_row(
                *(step, way.name, f"{middle:.0f}", f"{low:.0f}-{high:.0f}", f"{raw:.0f}", more)
            )
        table.add_section()
    return table


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    samples = measure(options.rounds)
    Console(width=140).print(report(samples))
    about = machine()
    Console().print(
        f"{about['cpu']}, kernel {about['kernel']}, load {about['load']:.1f}, "
        f"commit {about['commit']}, {options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
