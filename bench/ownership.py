# SPDX-License-Identifier: Apache-2.0
"""What it costs to ask whose a flow is: latency, questions per second, and a flood of them.

    python -m bench.ownership [--flood-s 4]

Two directors in two processes ask each other over loopback. Latency is from the packet's arrival in
the program of one to its being given back, with the answer of the other. Costs are CPU time. The
flood are packets of flows that nobody knows, each of another client; a ticker in the event loop of
the director under flood tells how long a health check there would be kept waiting. Needs root.
"""

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cases import Directors, Setup
from bench.loads import K, M, client4, frame, tcp4
from bench.pulse import Pulse
from limpet.core.ownership import QUESTION, Known, Records
from limpet.core.sealing import Datagram, Kind, Seal, questions_max
from limpet.daemon.ownership.answering import Answering
from limpet.daemon.ownership.ownership import Ownership
from limpet.datapath.clock import hz
from limpet.datapath.inject import inject
from limpet.datapath.kernel import Kernel
from limpet.datapath.lookup import NAME
from limpet.datapath.settings import tick_s

KEY = bytes(range(32))
SINGLE_FLOWS = 400
TICK_S = 0.01  # of the ticker
ROUNDS = 200
FLOOD_SLICE = 200  # packets
LOOPBACK = 1


def opened(kernel: Kernel, name: str) -> Ownership:
    return Ownership(kernel, name=name, cluster="bench", key=KEY, listen=("127.0.0.1", 0))


class Timed(Ownership):
    """Knows how long each packet was away, if there is one at a time."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, name="a", cluster="bench", key=KEY, listen=("127.0.0.1", 0))
        self.began = 0.0
        self.took: list[float] = []
        self.is_back = asyncio.Event()

    def _release(self) -> None:
        before = self.counts.injected
        super()._release()
        if self.counts.injected > before:
            self.took.append(time.perf_counter() - self.began)
            self.is_back.set()


@contextmanager
def child(main: object) -> Iterator[int]:
    """A process that runs a function until it is killed."""
    assert callable(main)
    number = os.fork()
    if not number:
        try:
            main()
        finally:
            os._exit(0)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def percentiles(values: list[float]) -> str:
    """Milliseconds: median, p99, largest."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{statistics.median(ordered) * 1e3:.2f} / {p99 * 1e3:.2f} / {ordered[-1] * 1e3:.2f}"


def syn_and_ack(port: int) -> tuple[bytes, bytes]:
    return frame(tcp4("S", port=port)), frame(tcp4("A", port=port))


async def latency(first: Timed, asking: Kernel, second: tuple[str, int], is_known: bool) -> None:
    """One flow after the other."""
    first.peers({"b": second})
    task = asyncio.create_task(first.run())
    await asyncio.sleep(0.05)
    for port in range(2_000, 2_000 + SINGLE_FLOWS):
        first.is_back.clear()
        packet = syn_and_ack(port + (0 if is_known else 10_000))[1]
        asking.forget_flows()
        first.began = time.perf_counter()
        asking.test_run(packet, LOOPBACK)
        async with asyncio.timeout(2):
            await first.is_back.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def measure_latency(asking: Kernel, answering: Kernel, table: Table) -> None:
    for port in range(2_000, 2_000 + SINGLE_FLOWS):
        for packet in syn_and_ack(port):
            answering.test_run(packet, LOOPBACK)
    for is_known, what in ((True, "its owner answers"), (False, "only the client is known")):
        second = opened(answering, "b")
        asking.directory().clear()

        async def run(is_known: bool = is_known, second: Ownership = second) -> Timed:
            first = Timed(asking)
            await latency(first, asking, second.address, is_known)
            return first

        with child(lambda second=second: asyncio.run(second.run())):
            first = asyncio.run(run())
        table.add_row(f"ms a packet is away, {what}: p50 / p99 / most", percentiles(first.took))


def cpu_us(function: object, each: int, rounds: int = ROUNDS) -> float:
    """Microseconds of CPU for one of `each`, the median of some rounds."""
    assert callable(function)
    took = []
    for _ in range(rounds):
        began = time.thread_time_ns()
        function()
        took.append((time.thread_time_ns() - began) / 1e3 / each)
    return statistics.median(took)


def questions(kernel: Kernel, number: int) -> Records:
    """About flows that it has."""
    flows = kernel.flows().decode(kernel.tick())[:number]
    made = np.zeros(len(flows), QUESTION)
    made["client"][:, 0], made["client"][:, 1] = flows["client_high"], flows["client_low"]
    for field in ("client_port", "vip_port", "vip"):
        made[field] = flows[field]
    return made


def measure_answers(kernel: Kernel, table: Table) -> None:
    """What answering costs, with the datagrams read and written."""
    answering, seal = Answering(kernel, lambda: 0, tick_s(hz()) * 1e3), Seal("bench", KEY)
    asked = questions(kernel, questions_max("b"))
    unknown = asked.copy()
    unknown["client"][:, 1] += 1 << 20

    def answer(records: Records) -> Records:
        said = seal.open(seal.close(Datagram(Kind.QUESTIONS, "b", 0, 1, 0, records)))
        assert isinstance(said, Datagram)
        answers = answering.answer(said.records)
        seal.open(seal.close(Datagram(Kind.ANSWERS, "b", 0, 2, 1, answers)))
        return answers

    assert (answer(asked)["known"] == Known.OPEN).all()
    assert not answer(unknown)["known"].any()
    for records, what in ((asked, "known"), (unknown, "unknown")):
        for number in (1, len(records)):
            part = records[:number]
            each = cpu_us(lambda part=part: answer(part), number)
            name = f"us of CPU to answer a question, {what}, {number} a datagram"
            table.add_row(name, f"{each:.1f} ({1e6 / each:,.0f} a second)")
    names, lookup, tick = np.zeros(1, NAME), kernel.lookup(), kernel.tick()
    for field in NAME.names or ():
        names[field] = asked[field][:1]
    table.add_row("us to look up one flow", f"{cpu_us(lambda: lookup.flows(names, tick), 1):.0f}")
    table.add_row(
        "us to look up one session", f"{cpu_us(lambda: lookup.sessions(names, tick), 1):.0f}"
    )
    packet = syn_and_ack(2_000)[1]
    each = cpu_us(lambda: inject(kernel.program, packet, LOOPBACK), 1, 1_000)
    table.add_row("us to give a packet back", f"{each:.1f}")


async def watched(first: Ownership, seconds: float) -> list[float]:
    """How late a ticker in the same event loop is."""
    task, late = asyncio.create_task(first.run()), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append(time.monotonic() - due)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return late


def flood(kernel: Kernel, per_s: int) -> None:
    """Packets of unknown flows, of a million clients, at this rate."""
    pulse, start = Pulse(), time.monotonic()
    pulse.aim(kernel.program, client4(tcp4("A"), 16 * M, by_client=True), start=5 * K)
    sent = 0
    while True:
        pulse.fire(FLOOD_SLICE)
        sent += FLOOD_SLICE
        time.sleep(max(0.0, start + sent / per_s - time.monotonic()))


def measure_flood(asking: Kernel, answering: Kernel, seconds: float, table: Table) -> None:
    for per_s in (0, 1_000, 5_000, 50_000):
        asking.forget_flows()
        asking.directory().clear()
        ring = asking.held()
        ring.read()
        ring.close()
        before = asking.counters()
        second = opened(answering, "b")
        with child(lambda second=second: asyncio.run(second.run())):

            async def run(second: Ownership = second) -> tuple[Ownership, list[float]]:
                first = opened(asking, "a")
                first.peers({"b": second.address})
                return first, await watched(first, seconds)

            began = time.process_time()
            if per_s:
                with child(lambda per_s=per_s: flood(asking, per_s)):
                    first, late = asyncio.run(run())
            else:
                first, late = asyncio.run(run())
            cpu = (time.process_time() - began) / seconds
        counts, after = first.record(), asking.counters()
        lost = sum(
            after.events[f"orphan_{why}"] - before.events[f"orphan_{why}"]
            for why in ("rate", "full")
        )
        held = after.verdicts["held"] - before.verdicts["held"]
        name = f"flood of {per_s:,} packets/s"
        table.add_row(f"{name}: ms that a ticker is late, p50 / p99 / most", percentiles(late))
        decided = (counts["owned"] + counts["orphaned"]) / seconds
        table.add_row(
            f"{name}: a second: held, decided, not held; share of one CPU",
            f"{held / seconds:,.0f}, {decided:,.0f}, {lost / seconds:,.0f}; {cpu:.0%}",
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--flood-s", type=float, default=4.0)
    seconds = arguments.parse_args().flood_s
    table = Table("what", "value", title="ownership queries")
    with Directors() as directors:
        asking = directors.get(Setup(purpose="asking", is_member=True))
        answering = directors.get(Setup(purpose="answering", is_member=True))
        measure_latency(asking, answering, table)
        measure_answers(answering, table)
        measure_flood(asking, answering, seconds, table)
    Console().print(table)


if __name__ == "__main__":
    main()
