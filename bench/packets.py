# SPDX-License-Identifier: Apache-2.0
"""What a packet costs in the director: nanoseconds per packet, one row a case.

    python bench/packets.py [--rounds 15] [--only WORD]

Cases are interleaved in one process, in rotating order; see bench/README.md for the method. Every case
names the counter that must have moved by exactly the number of packets, or the run stops. Writes
bench/latest.json beside the table.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import numpy as np
from pulse import Load, Pulse
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from limpet.core.diff import diff
from limpet.core.model import Backend, Desired, Director, Encapsulation, NextHop, Pool, Protocol, Vip
from limpet.core.plan import plan
from limpet.core.registry import Registry
from limpet.datapath import clock, kernel, settings

VIP4, VIP6 = "192.0.2.10", "2001:db8:0:10::10"
LINK = Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:02")
PINS = Path(f"/sys/fs/bpf/limpet-bench-{os.getpid()}")
SLOT_KEY, FLOW_KEY = b"slot key of this", b"flow key of this"
SAMPLE_S = 0.03
K, M = 1 << 10, 1 << 20


def director(flows_max: int, backend: str, limited: bool) -> kernel.Kernel:
    """A director in the kernel with 100 backends of one family behind both VIPs."""
    options = Director(name="bench", interfaces=("lo",), slot_key=SLOT_KEY, flows_max=flows_max)
    options = replace(options, new_flows_per_s=1, icmp_per_s=0)
    machine = settings.Machine(clock.hz(), SLOT_KEY, FLOW_KEY)
    pins = PINS / f"{flows_max}-{backend.replace('.', '_').replace(':', '_')}-{limited}"
    opened = kernel.Kernel.open(pins, kernel.Sizes(settings.buckets(flows_max), 4))
    constants = settings.encode(options, machine)
    constants["flows_per_jiffy_16"] = limited
    constants["flows_burst"] = 0  # with a limit, every new flow is over it
    opened.load(constants)
    base = ip_address(backend)
    backends = tuple(Backend(f"b{i}", base + i) for i in range(100))
    pool = Pool("all", {b.name: 1 for b in backends})
    vips = tuple(
        Vip(f"{address}/{protocol}", ip_address(address), protocol, None, "all")
        for address in (VIP4, VIP6)
        for protocol in Protocol
    )
    hop = NextHop(1, bytes(range(6)), bytes(range(6, 12)), 9_000)
    desired = Desired(options, backends, (pool,), vips)
    _, image = plan(desired, Registry(), {b.address: hop for b in backends}, None)
    opened.apply(diff(opened.observe(), image))
    return opened


@dataclass
class Case:
    """One row: a load on a program, and the counter that proves its path."""

    name: str
    target_ns: float | None
    program: Callable[[], kernel.Kernel]
    load: Load
    proof: str  # "rung.table", "verdict.not_vip", "event.flow_created"
    prime: Load | None = None
    pushes: int = 1  # adjust_head calls to subtract
    fresh: bool = False  # every packet is a new flow: the table is emptied now and then
    samples: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)


def frame(packet: Packet) -> bytes:
    return bytes(LINK / packet)


def client4(packet: Packet, flows: int = 1, scattered: bool = True) -> Load:
    return Load(frame(packet), 14 + 12, 14 + 20, flows, scattered)


def client6(packet: Packet, flows: int = 1) -> Load:
    return Load(frame(packet), 14 + 8 + 4, 14 + 40, flows)


def tcp4(flags: str, target: str = VIP4) -> Packet:
    return IP(src="10.0.0.0", dst=target) / TCP(sport=1024, dport=443, flags=flags)


def tcp6(flags: str) -> Packet:
    return IPv6(src="2001:db8:8000::1", dst=VIP6) / TCP(sport=1024, dport=443, flags=flags)


def frag_needed() -> Load:
    quoted = IP(src=VIP4, dst="10.0.0.0") / TCP(sport=443, dport=1024)
    packet = IP(src="198.51.100.1", dst=VIP4) / ICMP(type=3, code=4) / bytes(quoted)[:28]
    return Load(frame(packet), 14 + 20 + 8 + 16, 14 + 20 + 8 + 20 + 2)


def too_big() -> Load:
    quoted = IPv6(src=VIP6, dst="2001:db8:8000::1") / TCP(sport=443, dport=1024)
    packet = IPv6(src="2001:db8:ffff::1", dst=VIP6) / ICMPv6PacketTooBig() / bytes(quoted)[:48]
    return Load(frame(packet), 14 + 40 + 8 + 24 + 4, 14 + 40 + 8 + 40 + 2)


class Directors:
    """Kernels by what they are made of, made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str, bool], kernel.Kernel] = {}

    def get(self, flows: int, backend: str, limited: bool) -> Callable[[], kernel.Kernel]:
        def made() -> kernel.Kernel:
            key = (flows, backend, limited)
            if key not in self._made:
                self._made[key] = director(*key)
            return self._made[key]

        return made


def cases(directors: Directors) -> list[Case]:
    four = directors.get(1_000_000, "10.9.0.1", False)
    six = directors.get(1_000_001, "fd00:9::1", False)
    new = directors.get(1_000_002, "10.9.0.1", False)
    limited = directors.get(1_000_003, "10.9.0.1", True)
    small = directors.get(40_960, "10.9.0.1", True)
    known = [
        Case(
            f"known IPv4 flow, {label}",
            target,
            four,
            client4(tcp4("A"), flows),
            "rung.table",
            prime=client4(tcp4("S"), flows, scattered=False),
        )
        for label, flows, target in (
            ("one flow", 1, 60.0),
            ("1 k flows", K, 80.0),
            ("16 k flows", 16 * K, 180.0),
            ("128 k flows", 128 * K, 180.0),
            ("1 M flows", M, 200.0),
        )
    ]
    one4, one6 = client4(tcp4("A")), client6(tcp6("A"))
    udp = IP(src="10.0.0.0", dst=VIP4) / UDP(sport=1024, dport=53)
    return [
        *known,
        replace(known[0], name="  the same again (A/A control)", target_ns=None, samples=[], raw=[]),
        Case("known IPv4 UDP flow, one flow", None, four, client4(udp), "rung.table", client4(udp)),
        Case("known IPv6 flow 6-in-6, one flow", 70.0, six, one6, "rung.table", one6),
        Case("known IPv6 flow 6-in-4, one flow", None, four, one6, "rung.table", one6),
        Case("known IPv4 flow 4-in-6, one flow", 70.0, six, one4, "rung.table", one4),
        Case("new flows, entry created", 250.0, new, client4(tcp4("S"), 1 << 31), "event.flow_created", fresh=True),
        Case("by hash, no entry, one flow", 60.0, limited, client4(tcp4("S")), "event.refused_rate"),
        Case("by hash, no entry, 1 M flows, table for 64 k", 70.0, small, client4(tcp4("S"), M), "event.refused_rate"),
        Case("by hash, no entry, 1 M flows, table for 1 M", None, limited, client4(tcp4("S"), M), "event.refused_rate"),
        Case("ICMP fragmentation needed", 70.0, four, frag_needed(), "rung.table", one4),
        Case("ICMPv6 packet too big", 70.0, six, too_big(), "rung.table", one6),
        Case("not for a VIP, IPv4", 25.0, four, client4(tcp4("A", "192.0.2.99")), "verdict.not_vip", pushes=0),
        Case(
            "not for a VIP, IPv6",
            25.0,
            four,
            client6(IPv6(src="2001:db8:8000::1", dst="2001:db8::99") / TCP(sport=1024)),
            "verdict.not_vip",
            pushes=0,
        ),
    ]


def reading(director_: kernel.Kernel, proof: str) -> int:
    kind, name = proof.split(".")
    return int(getattr(director_.counters(), kind + "s")[name])


def empty(director_: kernel.Kernel) -> None:
    director_._map("flows")["entries"]["word"] = 0  # the bench owns this table


FRESH_ROUNDS = 200_000


def sample(pulse: Pulse, case: Case, number: int) -> tuple[float, float]:
    """(raw ns, pace ns) of one sample, with proof that every packet took the path."""
    director_ = case.program()
    start = 0
    if case.fresh:
        start = number * (FRESH_ROUNDS + 2_000)
        if number % 4 == 0:
            empty(director_)
    if case.prime is not None:
        pulse.aim(director_._program, replace(case.prime, scattered=False))
        pulse.fire(case.prime.flows)
    pulse.aim(director_._program, case.load, start)
    pulse.fire(2_000)
    before = reading(director_, case.proof)
    rounds = FRESH_ROUNDS if case.fresh else max(50_000, int(SAMPLE_S * 1e9 / 100))
    paced = pulse.pace()
    took = pulse.fire(rounds)
    paced = min(paced, pulse.pace()) if False else (paced + pulse.pace()) / 2
    moved = reading(director_, case.proof) - before
    if moved < rounds * 0.9999:
        sys.exit(f"{case.name}: {case.proof} moved by {moved}, not {rounds}: not the path it claims")
    return took, paced


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--only", default="")
    options = arguments.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pulse = Pulse()
    rows = [case for case in cases(Directors()) if options.only in case.name]
    baselines: dict[str, list[tuple[float, float]]] = {"bare": [], "wrapper": [], "push": []}
    taken: dict[str, list[tuple[float, float]]] = {case.name: [] for case in rows}
    try:
        measure(pulse, rows, baselines, taken, options.rounds)
        report(rows, baselines, taken, options.rounds)
    finally:
        for path in PINS.glob("*"):
            kernel.remove(path)
        shutil.rmtree(PINS, ignore_errors=True)


def measure(pulse, rows, baselines, taken, rounds) -> None:  # type: ignore[no-untyped-def]
    some = rows[0]
    for number in range(rounds):
        for name, program in (("wrapper", pulse.nothing), ("push", pulse.pushes)):
            pulse.aim(program, some.load)
            paced = pulse.pace()
            took = pulse.fire(200_000)
            baselines[name].append((took, (paced + pulse.pace()) / 2))
        paced = pulse.pace()
        took = pulse.bare(200_000)
        baselines["bare"].append((took, (paced + pulse.pace()) / 2))
        turn = number % len(rows)
        for case in rows[turn:] + rows[:turn]:
            taken[case.name].append(sample(pulse, case, number))


def report(rows, baselines, taken, rounds) -> None:  # type: ignore[no-untyped-def]
    fastest = min(p for s in (*baselines.values(), *taken.values()) for _, p in s)
    def norm(samples): return [t * fastest / p for t, p in samples]  # type: ignore[no-untyped-def]
    wrapper = statistics.median(norm(baselines["wrapper"]))
    push = statistics.median(norm(baselines["push"])) - wrapper
    print(f"bare {statistics.median(norm(baselines['bare'])):.1f} wrapper {wrapper:.1f} push {push:.1f} pace {fastest:.0f}")
    for case in rows:
        net = sorted(x - wrapper - (push if case.pushes else 0) for x in norm(taken[case.name]))
        q = np.percentile(net, [25, 50, 75])
        raw = statistics.median(t for t, _ in taken[case.name])
        print(f"{case.name:48s} {q[1]:6.0f} [{q[0]:.0f}-{q[2]:.0f}] raw {raw:.0f} target {case.target_ns}")


if __name__ == "__main__":
    main()
