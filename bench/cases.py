# SPDX-License-Identifier: Apache-2.0
"""The cases of bench/packets.py: a director in the kernel, a load, the counter that proves it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import numpy as np

from bench.loads import (
    VIP4,
    VIP6,
    K,
    M,
    client4,
    client6,
    fragmentation_needed,
    packet_too_big,
    ports4,
    tcp4,
    tcp6,
    udp4,
)
from bench.pulse import Load
from limpet.core.diff import diff
from limpet.core.model import (
    Affinity,
    Backend,
    Cluster,
    Desired,
    Director,
    Image,
    MegaProxy,
    NextHop,
    Policy,
    Pool,
    Protocol,
    Vip,
)
from limpet.core.plan import plan
from limpet.core.registry import Registry
from limpet.datapath import clock, kernel, settings
from limpet.datapath.abi import Slot

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
    policy: Policy = Policy.HASH
    affinity: Affinity = Affinity.CLIENT
    purpose: str = ""  # keeps connection tables apart
    is_member: bool = False  # of a cluster: unknown flows are asked for, every slot is unsure


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
        _known_alone(),
        *_new_flows(),
        *_new_sessions(),
        Case("ICMP fragmentation needed", 70, four, fragmentation_needed(), "rung.table", one4),
        Case("ICMPv6 packet too big", 70, six, packet_too_big(), "rung.table", one6),
        _foreign("not for a VIP, IPv4", client4(tcp4("A", "192.0.2.99"))),
        _foreign("not for a VIP, IPv6", client6(tcp6("A", "2001:db8::99"))),
    ]


def _known_flows(setup: Setup) -> list[Case]:
    def known(
        label: str, flows: int, target: float | None, cpus: int = 1, by_client: bool = False
    ) -> Case:
        return Case(
            name=f"known IPv4 flow, {label}",
            target_ns=target,
            setup=setup if not by_client else Setup(purpose="a client a flow"),
            load=client4(tcp4("A"), flows, by_client=by_client),
            proof="rung.table",
            prime=client4(tcp4("A"), flows, scattered=False, by_client=by_client),
            cpus=cpus,
        )

    return [
        known("one flow", 1, 60),
        known("one flow again (A/A control)", 1, None),
        known("1 k flows", K, 80),
        known("16 k flows", 16 * K, 180),
        known("128 k flows", 128 * K, 180),
        known("1 M flows", M, 200),
        known("1 M flows of 1 M clients", 16 * M, None, by_client=True),
        known("128 k flows, both CPUs", 128 * K, 200, cpus=2),
    ]


def _known_alone() -> Case:
    """A flow that is a session of its own: nothing but its entry to refresh."""
    return Case(
        name="known IPv4 flow, 1 M flows, affinity flow",
        target_ns=None,
        setup=Setup(affinity=Affinity.FLOW),
        load=client4(tcp4("A"), M),
        proof="rung.table",
        prime=client4(tcp4("A"), M, scattered=False),
    )


def _new_sessions() -> list[Case]:
    """Every packet a SYN of a new client; and of one client, so of a live session."""
    found = [
        Case(
            name=f"new session, {policy}",
            target_ns=None,
            setup=Setup(purpose=policy, policy=policy),
            load=client4(tcp4("S"), EVERY_FLOW, by_client=True),
            proof="event.session_created",
            is_fresh=True,
        )
        for policy in (Policy.ROUND_ROBIN, Policy.LEAST_SESSIONS)
    ]
    return [*found, _new_flow_of_session()]


def _new_flow_of_session() -> Case:
    return Case(
        name="new flow of a live session",
        target_ns=None,
        setup=Setup(purpose="one client"),
        load=ports4(tcp4("S"), EVERY_FLOW),
        proof="rung.session_new",
        prime=client4(tcp4("A", port=1023)),
        is_fresh=True,
    )


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
            setup=Setup(purpose="fresh", affinity=Affinity.FLOW),
            load=client4(tcp4("S"), EVERY_FLOW),
            proof="event.flow_created",
            is_fresh=True,
        ),
        Case(
            name="new session, hash",
            target_ns=None,
            setup=Setup(purpose="fresh session"),
            load=client4(tcp4("S"), EVERY_FLOW, by_client=True),
            proof="event.session_created",
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
    size = setup.flows_max
    options = Director(
        "bench", ("lo",), slot_key=SLOT_KEY, flows_max=size, sessions_max=min(size, LARGE)
    )
    cluster = Cluster(name="bench" if setup.is_member else "")
    machine = settings.Machine(clock.hz(), SLOT_KEY, FLOW_KEY, cluster=cluster)
    constants = settings.encode(options, machine)
    constants["flows_per_jiffy_16"] = setup.is_limited
    constants["flows_burst"] = 0
    tables = settings.buckets(size), 4, settings.session_buckets(options.sessions_max)
    opened = kernel.Kernel.open(pins, kernel.Sizes(*tables))
    opened.load(constants)
    base = ip_address(setup.backend)
    backends = tuple(Backend(f"b{i}", base + i) for i in range(BACKENDS))
    hop = NextHop(1, bytes(range(6)), bytes(range(6, 12)), 9_000)
    desired = Desired(
        director=options,
        backends=backends,
        pools=(Pool("all", {b.name: 1 for b in backends}, setup.policy),),
        vips=tuple(
            Vip(f"{address}/{protocol}", ip_address(address), protocol, None, "all", setup.affinity)
            for address in (VIP4, VIP6)
            for protocol in Protocol
        ),
        mega_proxy=MegaProxy(flows=0),
    )
    _, image = plan(desired, Registry(), {b.address: hop for b in backends}, None)
    opened.apply(diff(opened.observe(), _unsure(image) if setup.is_member else image))
    return opened


def _unsure(image: Image) -> Image:
    """With every slot marked."""
    pools = [replace(pool, slots=pool.slots | np.uint16(Slot.UNSURE)) for pool in image.pools]
    return replace(image, pools=tuple(pools))


def reading(director: kernel.Kernel, proof: str) -> Callable[[], int]:
    """Reads the counter that a proof names."""
    kind, name = proof.split(".")
    return lambda: int(getattr(director.counters(), f"{kind}s")[name])
