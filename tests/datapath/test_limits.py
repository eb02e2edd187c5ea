# SPDX-License-Identifier: Apache-2.0
"""What only the driver decides: how much room a frame has for what is put in front of it."""

from collections.abc import Iterator
from platform import release as release_name

import pytest

from datapath.benches import KernelBench, kernel_benches
from limpet.datapath.abi import Verdict
from packets.case import tcp
from packets.world import IPIP4, IPIP6, L2, USUAL, VIP4, VIP6

pytestmark = pytest.mark.kernel
# Bytes of metadata in front of a packet: of 256 bytes of headroom they and 40 of the kernel's stay.
ROOM_FOR_NONE, ROOM_FOR_IP4 = 200, 188


def release() -> tuple[int, ...]:
    """Major and minor number of the running kernel."""
    return tuple(int(part) for part in release_name().split(".")[:2])


@pytest.fixture(scope="module")
def bench() -> Iterator[KernelBench]:
    with kernel_benches() as benches:
        yield benches.get(USUAL)


def verdict(bench: KernelBench, vip: str, metadata: int, hops: int = 64) -> Verdict:
    """Verdict on a packet in a frame with so little headroom."""
    return bench.run(bytes(tcp(vip, hops=hops)), metadata).verdict


class TestHeadroom:
    """Taken away by metadata in front of the packet, of which older kernels allow 32 bytes."""

    __test__ = release() >= (6, 12)

    @pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4], VIP4[IPIP6], VIP6[IPIP6]])
    def test_no_room_for_an_outer_header_is_a_verdict(self, bench: KernelBench, vip: str) -> None:
        """The packet is dropped, and counted by name."""
        assert verdict(bench, vip, ROOM_FOR_NONE) is Verdict.DROP_HEADROOM

    def test_room_for_an_outer_header_is_counted_in_its_own_size(self, bench: KernelBench) -> None:
        """Where 20 bytes fit and 40 do not, IPv4 goes out and IPv6 does not."""
        assert verdict(bench, VIP4[IPIP4], ROOM_FOR_IP4) is Verdict.TRANSMIT
        assert verdict(bench, VIP4[IPIP6], ROOM_FOR_IP4) is Verdict.DROP_HEADROOM

    def test_an_answer_needs_room_as_well(self, bench: KernelBench) -> None:
        """No room for the headers of "time exceeded"."""
        assert verdict(bench, VIP4[IPIP4], ROOM_FOR_NONE, hops=1) is Verdict.DROP_HEADROOM

    def test_mac_rewrite_needs_no_room(self, bench: KernelBench) -> None:
        """The frame does not grow."""
        assert verdict(bench, VIP4[L2], ROOM_FOR_NONE) is Verdict.TRANSMIT
