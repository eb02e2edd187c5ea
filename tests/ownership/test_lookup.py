# SPDX-License-Identifier: Apache-2.0
"""A lookup finds what a scan of the whole table finds, and nothing else."""

import time
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from datapath.benches import KernelBenches, kernel_benches
from datapath.frames import cast, frame
from limpet.datapath.abi import Affinity, Life, SessionLife
from limpet.datapath.kernel import Kernel
from limpet.datapath.lookup import NAME
from packets.case import tcp
from packets.world import IPIP4, LISTED4, USUAL, VIP4, Switches

pytestmark = pytest.mark.kernel
HISTORIES, FRAMES = 12, 150
LOOKUP_S = 100e-6
ROOMY = Switches(buckets=1 << 12, session_buckets=1 << 12)


@pytest.fixture(scope="module")
def benches() -> Iterator[KernelBenches]:
    with kernel_benches() as benches:
        yield benches


def names_of(flows: NDArray[np.void]) -> NDArray[np.void]:
    """Names of decoded flows."""
    names = np.zeros(len(flows), NAME)
    names["client"][:, 0], names["client"][:, 1] = flows["client_high"], flows["client_low"]
    for field in ("client_port", "vip_port", "vip"):
        names[field] = flows[field]
    return names


def played(benches: KernelBenches, seed: int) -> Kernel:
    """A director after a history of random packets; its tables are small, so buckets fill."""
    bench, rng = benches.get(USUAL), Random(seed)
    kernel = bench._kernel
    kernel.forget_flows()
    actors = cast(rng)
    for _ in range(FRAMES):
        kernel.test_run(frame(rng, actors))
    return kernel


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_live_flow_is_found_with_its_backend_and_life(
    benches: KernelBenches, seed: int
) -> None:
    kernel = played(benches, seed)
    tick = kernel.tick()
    flows = kernel.flows().decode(tick)
    found = kernel.lookup().flows(names_of(flows), tick)
    assert found["is_there"].all()
    assert not found["has_expired"].any()
    for field in ("backend", "life", "idle_ticks"):
        assert found[field].tolist() == flows[field].tolist()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_flow_with_another_port_or_vip_is_not_found(benches: KernelBenches, seed: int) -> None:
    kernel = played(benches, seed)
    tick = kernel.tick()
    names = names_of(kernel.flows().decode(tick))
    for field, value in (("client_port", 65_001), ("vip_port", 65_002), ("vip", 1_000)):
        other = names.copy()
        other[field] = value
        assert not kernel.lookup().flows(other, tick)["is_there"].any()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_flow_finds_the_live_session_that_it_would_follow(
    benches: KernelBenches, seed: int
) -> None:
    """That of its range if there is one, else that of its client: as a scan has them."""
    kernel = played(benches, seed)
    tick = kernel.tick()
    rows = {
        (int(r["client_high"]), int(r["client_low"]), int(r["vip"]), int(r["range"])): r
        for r in kernel.sessions().decode(tick)
    }
    names = names_of(kernel.flows().decode(tick))
    found = kernel.lookup().sessions(names, tick)
    vips = kernel._map("vips")
    for name, session in zip(names, found, strict=True):
        vip, number = vips[name["vip"]], int(name["vip"])
        high, low = (name["client"] & vip["affinity_mask"]).tolist()
        port, expected = int(name["client_port"]), None
        if vip["affinity"] == Affinity.CLIENT_PORTS:
            expected = rows.get((high, low, number, 1 + (port >> int(vip["range_shift"]))))
        elif vip["affinity"] == Affinity.CLIENT:
            expected = rows.get((high, low, number, 0))
            if expected is not None and expected["is_split"]:
                of_range = (high, low, number, 1 + (port >> int(vip["split_shift"])))
                expected = rows.get(of_range, expected)
        assert bool(session["is_there"]) == (expected is not None)
        if expected is not None:
            assert session["backend"] == expected["backend"]
            assert session["life"] == expected["life"]


def test_late_flow_and_past_session_are_found_as_what_they_are(benches: KernelBenches) -> None:
    bench = benches.get(USUAL)
    kernel = bench._kernel
    kernel.forget_flows()
    for flags in "SA":
        kernel.test_run(bytes(tcp(VIP4[IPIP4], flags)))
    names = names_of(kernel.flows().decode(kernel.tick()))
    assert len(names) == 1
    bench.age(2_000)
    found, session = (
        look(names, kernel.tick()) for look in (kernel.lookup().flows, kernel.lookup().sessions)
    )
    assert found[0]["has_expired"]
    assert found[0]["life"] == Life.ESTABLISHED
    assert session[0]["has_expired"]
    kernel.sweep()
    found, session = (
        look(names, kernel.tick()) for look in (kernel.lookup().flows, kernel.lookup().sessions)
    )
    assert found[0]["life"] == Life.LATE
    assert session[0]["life"] == SessionLife.PAST
    assert found[0]["backend"] == session[0]["backend"] == IPIP4


def test_lookup_of_a_flow_and_its_session_costs_less_than_a_scan(benches: KernelBenches) -> None:
    """Of a table of 32,768 entries, half of a datagram's questions at a time."""
    kernel = benches.get(ROOMY)._kernel
    kernel.test_run(bytes(tcp(LISTED4)))
    tick = kernel.tick()
    names = np.repeat(names_of(kernel.flows().decode(tick)), 22)
    lookup, took = kernel.lookup(), []
    for _ in range(30):
        began = time.thread_time()
        assert lookup.flows(names, tick)["is_there"].all()
        assert lookup.sessions(names, tick)["is_there"].all()
        took.append((time.thread_time() - began) / len(names))
    assert min(took) < LOOKUP_S
