# SPDX-License-Identifier: Apache-2.0
"""What is pinned already, by another build or by a start that was cut short."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, repeat
from pathlib import Path

import pytest

from limpet.api.places import Places
from limpet.core import affinity
from limpet.core.diff import diff
from limpet.core.errors import Conflict
from limpet.core.model import Affinity, Image
from limpet.daemon.down import down
from limpet.datapath import bpf, clock, kernel
from limpet.datapath.kernel import Kernel, Sizes
from packets.case import tcp
from packets.world import IMAGE, IPIP4, POOLS, USUAL, VIP4, settings

pytestmark = pytest.mark.kernel
NUMBERS = count(1)


@dataclass(frozen=True)
class Pinned:
    """A director that is in the kernel, and nobody there."""

    pins: Path

    def open(self) -> Kernel:
        return Kernel.open(self.pins, Sizes(USUAL.buckets, len(POOLS), USUAL.session_buckets))

    def replace(self, name: str, other: str) -> None:
        """Let a pin name another map, whose values have another size."""
        maps = self.pins / "maps"
        (maps / name).unlink()
        fd = bpf.get(maps / other)
        bpf.pin(fd, maps / name)
        os.close(fd)


@pytest.fixture
def pinned() -> Iterator[Pinned]:
    made = Pinned(bpf.BPFFS / f"limpet-test-{os.getpid()}-a{next(NUMBERS)}")
    try:
        first = made.open()
        first.load(settings(USUAL))
        first.apply(diff(Image(), IMAGE))
        first.test_run(bytes(tcp(VIP4[IPIP4])))
        first.close()
        yield made
    finally:
        kernel.remove(made.pins)


def test_counters_of_another_layout_begin_anew_and_flows_stay(pinned: Pinned) -> None:
    """A build that counts something more is no reason to forget a session."""
    pinned.replace("counters", "rates")
    later = pinned.open()
    later.load(settings(USUAL))
    later.test_run(bytes(tcp(VIP4[IPIP4])))
    moved = later.counters()
    later.close()
    assert (moved.rungs["table"], moved.rungs["home_new"]) == (1, 0)
    again = pinned.open()
    again.load(settings(USUAL))
    assert again.counters() == moved
    again.close()


def test_rows_of_another_layout_are_refused_and_down_removes_them(
    pinned: Pinned, tmp_path: Path
) -> None:
    """The error says to run `limpet down`, so that has to work."""
    pinned.replace("backends", "vips")
    with pytest.raises(Conflict, match="limpet down"):
        pinned.open()
    assert down(Places("test", tmp_path / "socket", tmp_path, pinned.pins))
    assert not pinned.pins.exists()


def spelt_out(image: Image) -> Image:
    """With the prefixes that VIPs have if they do not say, as the kernel holds them."""
    vips = tuple(
        replace(vip, prefix=affinity.prefix(vip.address.version, vip.prefix))
        if vip.affinity is not Affinity.FLOW
        else vip
        for vip in image.vips
    )
    return replace(image, vips=vips)


def test_a_first_start_that_was_cut_short_holds_nothing_yet(pinned: Pinned) -> None:
    """Maps are pinned one by one; what is missing is made by the next start."""
    for name in ("backends", "flows", "flow_clients", "counters"):
        (pinned.pins / "maps" / name).unlink()
    later = pinned.open()
    assert later.observe() == Image()
    later.load(settings(USUAL))
    later.apply(diff(later.observe(), IMAGE))
    assert later.observe() == spelt_out(IMAGE)
    later.close()


def test_a_reading_of_the_clock_that_took_long_is_taken_again() -> None:
    """The machine was busy between a reading and its date: the rate would be wrong."""
    delays = chain((0.02, 0.02), repeat(0.0))  # later ones too, if the machine is busy now

    def read() -> int:
        delay = next(delays)
        time.sleep(delay)
        return int(delay == 0)

    assert clock.dated(read)[0] == 1


def test_maps_of_another_layout_are_refused(pinned: Pinned) -> None:
    """Same sizes, another meaning: nothing may be read out of them."""
    held = pinned.open()
    held._map("control")["layout"] = 99
    held.close()
    with pytest.raises(Conflict, match=r"layout 99.*limpet down"):
        pinned.open()
