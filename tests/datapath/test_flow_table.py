# SPDX-License-Identifier: Apache-2.0
"""Reading the connection table while the kernel writes it: nothing is missed, nothing is mixed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpet.datapath.abi import FLOW_CLIENT, FLOW_ENTRY, FlowWord, Life, Limit
from limpet.datapath.flows import FLOW, READS_MAX, FlowTable, Wanted

ENTRIES, VIP, TICK, LIFE_TICKS = 64, 1, 1_000, 100


class Written:
    """Entries that somebody else writes: `rewrite` runs after each read of their words."""

    def __init__(self, entries: NDArray[np.void], reads: int) -> None:
        self.entries, self.left = entries, reads

    def rewrite(self) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self
        read = self.entries[key].copy()
        if key == "word" and self.left:
            self.left -= 1
            self.rewrite()
        return read


class Refreshed(Written):
    """Every flow gets a packet: the same word with a newer tick."""

    def rewrite(self) -> None:
        self.entries["word"] += np.uint64(1 << FlowWord.SEEN_SHIFT)


class Replaced(Written):
    """Every entry is given to another client's flow."""

    def rewrite(self) -> None:
        self.entries["id"] += np.uint64(1 << 32)
        self.entries["word"] ^= np.uint64(1 << FlowWord.CHECK_SHIFT)


def table(kind: type[Written], reads: int) -> tuple[FlowTable, NDArray[np.void]]:
    entries = np.zeros(ENTRIES, FLOW_ENTRY)
    entries["id"] = np.arange(ENTRIES, dtype=np.uint64) << np.uint64(32)
    entries["word"] = word(backend=3)
    family = np.zeros(int(Limit.VIPS), np.uint8)
    family[VIP] = 4
    limits = np.full((int(Limit.VIPS), len(Life)), LIFE_TICKS, np.uint32)
    written: Any = kind(entries, reads)
    return FlowTable(written, np.zeros(ENTRIES, FLOW_CLIENT), family, limits), entries


def word(backend: int) -> np.uint64:
    life = int(Life.ESTABLISHED) << FlowWord.LIFE_SHIFT
    return np.uint64(backend | VIP << FlowWord.VIP_SHIFT | life | TICK << FlowWord.SEEN_SHIFT)


def clients(flows: NDArray[np.void]) -> list[int]:
    assert flows.dtype == FLOW
    return [int(low) & 0xFFFF_FFFF for low in flows["client_low"]]


def test_a_flow_that_is_used_while_it_is_read_is_not_missed() -> None:
    for reads in range(READS_MAX):
        flows, _ = table(Refreshed, reads)
        found = flows.decode(TICK, Wanted(vip=VIP, backend=3))
        assert clients(found) == list(range(ENTRIES))


def test_an_entry_that_is_replaced_while_it_is_read_is_named_as_it_is_now() -> None:
    for reads in range(READS_MAX):
        flows, entries = table(Replaced, reads)
        found = flows.decode(TICK)
        assert clients(found) == [int(i) >> 32 for i in entries["id"]]


def test_an_entry_that_never_holds_still_is_left_out() -> None:
    flows, _ = table(Replaced, 1_000)
    assert len(flows.decode(TICK)) == 0
