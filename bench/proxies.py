# SPDX-License-Identifier: Apache-2.0
"""How evenly backends are loaded when most connections come from one address: a mega-proxy.

    python -m bench.proxies

20,000 TCP connections, 80 % of them from one client address, over 8 backends of equal weight, all
through the kernel's program, each opened and established. The load of a backend is its open flows;
1.00 is even. Needs root.
"""

import os
import random
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.loads import LINK, VIP4, tcp4
from limpet.core.diff import diff
from limpet.core.model import (
    Backend,
    Desired,
    Director,
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

PINS = Path(f"/sys/fs/bpf/limpet-bench-proxies-{os.getpid()}")
KEY = b"key of this run."
CONNECTIONS, SHARE, BACKENDS = 20_000, 0.8, 8
SOURCE_AT, PORT_AT, FLAGS_AT = 14 + 12, 14 + 20, 14 + 20 + 13
SYN, ACK = 0x02, 0x10
PROXY = ip_address("198.51.100.7")
OFF = MegaProxy(flows=0)
LISTED = MegaProxy(port_ranges=16_384, prefixes=(ip_network("198.51.100.0/24"),))


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the table."""

    name: str
    proxy: MegaProxy
    policy: Policy = Policy.HASH


TRIALS = (
    Trial("hash, not split", OFF),
    Trial("least-sessions, not split", OFF, Policy.LEAST_SESSIONS),
    Trial("hash, split from 1,000 flows on, 4,096 ranges (default)", MegaProxy()),
    Trial("hash, split from 100 on, 16,384 ranges", MegaProxy(flows=100, port_ranges=16_384)),
    Trial("least-sessions, split from 100 on", MegaProxy(flows=100), Policy.LEAST_SESSIONS),
    Trial("hash, listed by prefix, 16,384 ranges", LISTED),
)


def director(trial: Trial) -> kernel.Kernel:
    options = Director("bench", ("lo",), slot_key=KEY, flows_max=65_536, sessions_max=65_536)
    sizes = kernel.Sizes(settings.buckets(65_536), 4, settings.session_buckets(65_536))
    opened = kernel.Kernel.open(PINS, sizes)
    constants = settings.encode(options, settings.Machine(clock.hz(), KEY, KEY))
    constants["flows_per_jiffy_16"] = 0
    opened.load(constants)
    backends = tuple(Backend(f"b{i}", ip_address(f"10.9.0.{i}")) for i in range(1, BACKENDS + 1))
    desired = Desired(
        director=options,
        backends=backends,
        pools=(Pool("all", {b.name: 1 for b in backends}, trial.policy),),
        vips=(Vip("vip", ip_address(VIP4), Protocol.TCP, None, "all"),),
        mega_proxy=trial.proxy,
    )
    hop = NextHop(1, bytes(range(6)), bytes(range(6, 12)), 9_000)
    _, image = plan(desired, Registry(), {b.address: hop for b in backends}, None)
    opened.apply(diff(opened.observe(), image))
    return opened


def connections() -> list[tuple[bytes, int]]:
    """(address, port) of each: those of the proxy with random ports, the others one a client."""
    drawn = random.Random(1)
    heavy = round(CONNECTIONS * SHARE)
    ports = drawn.sample(range(1_024, 65_536), heavy)
    found = [(PROXY.packed, port) for port in ports]
    found += [
        (drawn.getrandbits(30).to_bytes(4, "big"), drawn.randrange(1_024, 65_536))
        for _ in range(CONNECTIONS - heavy)
    ]
    drawn.shuffle(found)
    return found


def loads(trial: Trial) -> list[int]:
    """Open flows of each backend, the fullest first."""
    opened = director(trial)
    try:
        frame = bytearray(bytes(LINK / tcp4("S")))
        for address, port in connections():
            frame[SOURCE_AT : SOURCE_AT + 4] = address
            frame[PORT_AT : PORT_AT + 2] = port.to_bytes(2, "big")
            for flags in (SYN, ACK):
                frame[FLAGS_AT] = flags
                opened.test_run(bytes(frame))
        census = opened.flows().census(opened.tick())
        return sorted((int(n) for n in census.backends if n), reverse=True)
    finally:
        opened.close()
        kernel.remove(PINS)


def main() -> None:
    title = f"{CONNECTIONS:,} connections, {SHARE:.0%} from one address, {BACKENDS} backends"
    table = Table("how", "most / mean", "least / mean", "most", "least", title=title)
    for trial in TRIALS:
        found = loads(trial)
        mean = sum(found) / BACKENDS
        least = found[-1] if len(found) == BACKENDS else 0
        cells = (f"{found[0] / mean:.2f}", f"{least / mean:.2f}", f"{found[0]:,}", f"{least:,}")
        table.add_row(trial.name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
