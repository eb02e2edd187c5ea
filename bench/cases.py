# SPDX-License-Identifier: Apache-2.0
"""The cases of bench/packets.py: a director in the kernel, a load, the counter that proves it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from bench.loads import (
    VIP4,
    VIP6,
    K,
    M,
    client4,
    client6,
    fragmentation_needed,
    packet_too_big,
    tcp4,
    tcp6,
    udp4,
)
from bench.pulse import Load
from limpet.core.diff import diff
from limpet.core.model import Backend, Desired, Director, NextHop, Pool, Protocol, Vip
from limpet.core.plan import plan
from limpet.core.registry import Registry
from limpet.datapath import clock, kernel, settings

PINS = Path(f"/sys/fs/bpf/limpet-bench-{os.getpid()}")
SLOT_KEY, FLOW_KEY = b"slot key of this", b"flow key of this"
BACKENDS = 100
SMALL = 40_960  # flows; a connection table of 64 k entries, 1 MiB
LARGE = 1_000_000  # flows; 2 M entries, 32 MiB
EVERY_FLOW = 1 << 31


@dataclass(frozen=True, slots=True)
class Setup:
    """What a director is made of; cases with the same one share it."""

    backend: str = "10.9.0.1"  # the first of 100
    flows_max: int = LARGE
    is_limited: bool = False  # every new flow is over the rate limit
    purpose: str = ""  # keeps connection tables apart


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    target_ns: float | None
    setup: Setup
    load: Load
    proof: str  # "rung.table": counters().rungs["table"] must move once a packet
    prime: Load | None = None  # sent once before each sample
    is_encapsulating: bool = True  # then one adjust_head of the harness is subtracted
    is_fresh: bool = False  # every packet is a new flow
    cpus: int = 1


def cases() -> list[Case]:
    """All cases, in the order of the table."""
    four, six = Setup(), Setup(backend="fd00:9::1")
    one4, one6 = client4(tcp4("A")), client6(tcp6("A"))
    return [
        *_known_flows(four),
        Case("known IPv4 UDP flow", None, four, client4(udp4()), "rung.table", client4(udp4())),
        Case("known IPv6 flow, 6-in-6", 70, six, one6, "rung.table", one6),
        Case("known IPv6 flow, 6-in-4", None, four, one6, "rung.table", one6),
        Case("known IPv4 flow, 4-in-6", 70, six, one4, "rung.table", one4),
        *_new_flows(),
        Case("ICMP fragmentation needed", 70, four, fragmentation_needed(), "rung.table", one4),
        Case("ICMPv6 packet too big", 70, six, packet_too_big(), "rung.table", one6),
        _foreign("not for a VIP, IPv4", client4(tcp4("A", "192.0.2.99"))),
        _foreign("not for a VIP, IPv6", client6(tcp6("A", "2001:db8::99"))),
    ]


def _known_flows(setup: Setup) -> list[Case]:
    def known(label: str, flows: int, target: float | None, cpus: int = 1) -> Case:
        return Case(
            name=f"known IPv4 flow, {label}",
            target_ns=target,
            setup=setup,
            load=client4(tcp4("A"), flows),
            proof="rung.table",
            prime=client4(tcp4("S"), flows, scattered=False),
            cpus=cpus,
        )

    return [
        known("one flow", 1, 60),
        known("one flow again (A/A control)", 1, None),
        known("1 k flows", K, 80),
        known("16 k flows", 16 * K, 180),
        known("128 k flows", 128 * K, 180),
        known("1 M flows", M, 200),
        known("128 k flows, both CPUs", 128 * K, 200, cpus=2),
    ]


def _new_flows() -> list[Case]:
    def by_hash(label: str, flows: int, target: float | None, flows_max: int) -> Case:
        return Case(
            name=f"by hash, no entry, {label}",
            target_ns=target,
            setup=Setup(flows_max=flows_max, is_limited=True),
            load=client4(tcp4("S"), flows),
            proof="event.refused_rate",
        )

    return [
        Case(
            name="new flows, entry created",
            target_ns=250,
            setup=Setup(purpose="fresh"),
            load=client4(tcp4("S"), EVERY_FLOW),
            proof="event.flow_created",
            is_fresh=True,
        ),
        by_hash("one flow", 1, 60, LARGE),
        by_hash("1 M flows, table of 1 MiB", M, 70, SMALL),
        by_hash("1 M flows, table of 32 MiB", M, None, LARGE),
    ]


def _foreign(name: str, load: Load) -> Case:
    return Case(name, 25, Setup(), load, "verdict.not_vip", is_encapsulating=False)


class Directors:
    """Directors in the kernel, made when first asked for; a context manager that removes them."""

    def __init__(self) -> None:
        self._made: dict[Setup, kernel.Kernel] = {}

    def __enter__(self) -> "Directors":
        return self

    def __exit__(self, *error: object) -> None:
        for number in range(len(self._made)):
            kernel.remove(PINS / str(number))
        if PINS.exists():
            PINS.rmdir()

    def get(self, setup: Setup) -> kernel.Kernel:
        if setup not in self._made:
            self._made[setup] = _made(PINS / str(len(self._made)), setup)
        return self._made[setup]


def _made(pins: Path, setup: Setup) -> kernel.Kernel:
    options = Director("bench", ("lo",), slot_key=SLOT_KEY, flows_max=setup.flows_max)
    constants = settings.encode(options, settings.Machine(clock.hz(), SLOT_KEY, FLOW_KEY))
    constants["flows_per_jiffy_16"] = setup.is_limited
    constants["flows_burst"] = 0
    opened = kernel.Kernel.open(pins, kernel.Sizes(settings.buckets(setup.flows_max), 4))
    opened.load(constants)
    base = ip_address(setup.backend)
    backends = tuple(Backend(f"b{i}", base + i) for i in range(BACKENDS))
    hop = NextHop(1, bytes(range(6)), bytes(range(6, 12)), 9_000)
    desired = Desired(
        director=options,
        backends=backends,
        pools=(Pool("all", {b.name: 1 for b in backends}),),
        vips=tuple(
            Vip(f"{address}/{protocol}", ip_address(address), protocol, None, "all")
            for address in (VIP4, VIP6)
            for protocol in Protocol
        ),
    )
    _, image = plan(desired, Registry(), {b.address: hop for b in backends}, None)
    opened.apply(diff(opened.observe(), image))
    return opened


def reading(director: kernel.Kernel, proof: str) -> Callable[[], int]:
    """Reads the counter that a proof names."""
    kind, name = proof.split(".")
    return lambda: int(getattr(director.counters(), f"{kind}s")[name])
