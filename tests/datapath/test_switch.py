# SPDX-License-Identifier: Apache-2.0
"""What a packet sees while user space switches the VIP tables: one half, from start to end."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from threading import Event, Thread

import numpy as np
import pytest

from datapath.benches import KernelBenches, kernel_benches
from limpet.core.diff import diff
from limpet.core.model import Image
from limpet.datapath import bpf
from limpet.datapath.kernel import Kernel
from packets.case import tcp
from packets.world import EMPTY4, IMAGE, USUAL

pytestmark = pytest.mark.kernel
ROUNDS = 2_000_000  # the packet is dropped, so each round sees it as it was


@pytest.fixture(scope="module")
def benches() -> Iterator[KernelBenches]:
    with kernel_benches() as benches:
        yield benches


def both_halves(kernel: Kernel, image: Image) -> tuple[int, int]:
    """Words of `control` for both halves: all VIPs in one, in the other those from EMPTY4 on."""
    first = min(vip.id for vip in image.vips if vip.address == ip_address(EMPTY4))
    later = replace(image, vips=tuple(vip for vip in image.vips if vip.id >= first))
    words = []
    for before, after in ((image, later), (later, image)):
        kernel.apply(diff(before, after))
        words.append(int(kernel._map("control").view(np.uint64)[0]))
    return words[0], words[1]


def test_a_packet_never_sees_two_halves(benches: KernelBenches) -> None:
    """The number of an address in one half is another address's in the other half."""
    kernel = benches.get(USUAL)._kernel
    halves, control, done = (
        both_halves(kernel, IMAGE),
        kernel._map("control").view(np.uint64),
        Event(),
    )

    def switch() -> None:
        while not done.is_set():
            for word in halves * 50:
                control[0] = word

    thread, before = Thread(target=switch), kernel.counters().verdicts
    dropped = kernel.vip_stats()["dropped"]
    thread.start()
    try:
        bpf.run(kernel.program, bytes(tcp(EMPTY4)), ROUNDS)
    finally:
        done.set()
        thread.join()
    moved = {name: n - before[name] for name, n in kernel.counters().verdicts.items()}
    assert {name: n for name, n in moved.items() if n} == {"drop_no_backend": ROUNDS}
    assert sorted(kernel.vip_stats()["dropped"] - dropped)[-2:] == [0, ROUNDS]
