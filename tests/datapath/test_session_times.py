# SPDX-License-Identifier: Apache-2.0
"""When a session was seen, where its idle limit is long: traffic writes it seldom, and the sweeper
makes good what traffic left out before the session would expire.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from datapath.benches import KernelBench, KernelBenches, kernel_benches
from limpet.datapath.abi import FlowWord, Life, Rung, SessionLife, SessionWord
from limpet.datapath.clock import hz
from packets.case import tcp
from packets.world import IMAGE, IPIP4, USUAL, VIP4, settings

pytestmark = pytest.mark.kernel
LIMIT = 1_088  # ticks; just long
PERIOD = LIMIT // SessionWord.REFRESHES
FLOW_REFRESH = int(FlowWord.REFRESH_TICKS)
PACKETS = 40
SLACK = 1  # tick that may pass while a test runs
V4 = VIP4[IPIP4]


@pytest.fixture(scope="module")
def benches() -> Iterator[KernelBenches]:
    with kernel_benches() as benches:
        yield benches


@pytest.fixture
def kernel(benches: KernelBenches) -> KernelBench:
    """A director whose sessions and established flows have a long idle limit."""
    bench = benches.get(USUAL)
    bench.reset(IMAGE)
    limits = bench._kernel._map("idle_limits")["ticks"][0]
    limits[1:, [Life.ESTABLISHED, Life.SESSION]] = LIMIT
    return bench


def idle(kernel: KernelBench) -> int:
    """Ticks since the only session was seen, as its entry says."""
    sessions = kernel._kernel._map("sessions")["entries"].reshape(-1)
    life = sessions["word"] >> np.uint64(SessionWord.LIFE_SHIFT) & np.uint64(7)
    (place,) = np.flatnonzero(life == SessionLife.LIVE)
    seen = kernel._kernel._map("session_seen")["seen"].reshape(-1)[place]
    return (int(kernel._kernel.tick()) - int(seen)) % (1 << 32)


def opened(kernel: KernelBench) -> None:
    kernel.run(bytes(tcp(V4)))
    kernel.run(bytes(tcp(V4, "A")))


def period(tick: int) -> int:
    """The number of the period that a tick lies in; a session is written down once in each."""
    return tick % (1 << FlowWord.SEEN_BITS) // PERIOD


def test_traffic_writes_seldom(kernel: KernelBench) -> None:
    """In real time, with a tick of one jiffy: every packet refreshes its flow, few the session."""
    constants = settings(USUAL)
    constants["tick_shift"] = 0
    seen = kernel._kernel._map("session_seen")["seen"].reshape(-1)
    kernel._kernel.load(constants)
    try:
        kernel.run(bytes(tcp(V4)))
        kernel.run(bytes(tcp(V4, "A")))
        found = []
        for _ in range(PACKETS):
            time.sleep(3 * FLOW_REFRESH / hz())
            before = int(kernel._kernel.tick())
            kernel.run(bytes(tcp(V4, "A")))
            after = int(kernel._kernel.tick())
            found.append(int(seen.max()))
            now = {period(tick) for tick in range(before, after + 1)}
            assert period(found[-1]) in now, "not written down"
    finally:
        kernel._kernel.load(settings(USUAL))
        seen[:] = 0
    written = set(found)
    assert len({period(tick) for tick in written}) == len(written), "written down too often"


def test_the_sweeper_passes_on_what_traffic_left_out(kernel: KernelBench) -> None:
    """The last packet counts, to the tick: not the last that was written down."""
    opened(kernel)
    leave_out(kernel)
    kernel.age(LIMIT - PERIOD)
    assert idle(kernel) > LIMIT - PERIOD + SLACK
    kernel.sweep()
    assert idle(kernel) <= LIMIT - PERIOD + SLACK
    kernel.age(PERIOD - 2 * SLACK)
    assert kernel.run(bytes(tcp(V4, sport=4_000))).rung is Rung.SESSION_NEW


def test_a_session_expires_by_its_last_packet(kernel: KernelBench) -> None:
    opened(kernel)
    leave_out(kernel)
    kernel.age(LIMIT - PERIOD)
    kernel.sweep()
    kernel.age(PERIOD + 1)
    assert kernel.run(bytes(tcp(V4, sport=4_000))).rung is not Rung.SESSION_NEW


def test_the_end_of_a_flow_passes_it_on_too(kernel: KernelBench) -> None:
    """A flow that is closing ends long before its session."""
    opened(kernel)
    kernel.run(bytes(tcp(V4, "FA")))
    leave_out(kernel)
    closing = int(kernel._kernel._map("idle_limits")["ticks"][0][1][Life.CLOSING])
    kernel.age(closing + 1)
    kernel.sweep()
    assert idle(kernel) <= closing + 1 + SLACK


def leave_out(kernel: KernelBench) -> None:
    """As if the last packets had not been written down at the only session."""
    sessions = kernel._kernel._map("sessions")["entries"].reshape(-1)
    kernel._kernel._map("session_seen")["seen"].reshape(-1)[sessions["word"] > 0] -= PERIOD - 1
