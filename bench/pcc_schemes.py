# SPDX-License-Identifier: Apache-2.0
"""Ways to choose a backend without a directory of exceptions, over arrays of packets.

Each is given the benefit of the doubt: tables are as large as they need be, changes reach all PoPs
in the same instant, and a second chance always finds whoever is asked.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.pcc_trace import POPS, Ids, Trace
from limpet.core.model import SLOTS, BackendId
from limpet.core.slots import SlotTable, build

KEY = 0x0123456789ABCDEF
NONE = 0


class Scheme(Protocol):
    """Backends of packets; told of every change of the pool."""

    def change(self, members: tuple[int, ...]) -> None: ...

    def send(self, ids: Ids, pops: Ids, is_first: NDArray[np.bool_], own: Ids) -> Ids:
        """Where packets of sessions `ids` go. `own`: the backend each session began at."""
        ...


class Modulo:
    """The hash modulo the number of backends."""

    def __init__(self, trace: Trace) -> None:
        self._hashes = trace.hashes
        self._members = np.zeros(0, np.int64)

    def change(self, members: tuple[int, ...]) -> None:
        self._members = np.array(members)

    def send(self, ids: Ids, pops: Ids, is_first: NDArray[np.bool_], own: Ids) -> Ids:
        return self._members[(self._hashes[ids] % np.uint64(len(self._members))).astype(np.int64)]


class Consistent:
    """The slot tables of limpet, and nothing else: no table moves fewer slots."""

    def __init__(self, trace: Trace) -> None:
        self._slots = (trace.hashes % np.uint64(SLOTS)).astype(np.int64)
        self.table: SlotTable | None = None

    def change(self, members: tuple[int, ...]) -> None:
        self.table = build(self.table, {BackendId(i): 1 for i in members}, KEY)

    def home(self, ids: Ids) -> Ids:
        assert self.table is not None
        found: Ids = self.table.slots[self._slots[ids]].astype(np.int64)
        return found

    def former(self, ids: Ids) -> Ids:
        assert self.table is not None
        found: Ids = self.table.former[0][self._slots[ids]].astype(np.int64)
        return found

    def send(self, ids: Ids, pops: Ids, is_first: NDArray[np.bool_], own: Ids) -> Ids:
        return self.home(ids)


class LocalTable(Consistent):
    """The same with a connection table in every PoP, which the others do not see."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self._entries = np.zeros((POPS, trace.begin.size), np.int64)

    def send(self, ids: Ids, pops: Ids, is_first: NDArray[np.bool_], own: Ids) -> Ids:
        known = self._entries[pops, ids]
        found = np.where((known != NONE) & ~is_first, known, self.home(ids))
        self._entries[pops, ids] = found
        return found


class SecondChance(Consistent):
    """Consistent, and a backend that does not know a flow hands it to its slot's owner before."""

    def send(self, ids: Ids, pops: Ids, is_first: NDArray[np.bool_], own: Ids) -> Ids:
        former, home = self.former(ids), self.home(ids)
        return np.where((own == former) & ~is_first, former, home)


def broken(trace: Trace, scheme: Scheme) -> tuple[Ids, int]:
    """Step in which each session broke, -1 for those that did not; and how many sessions were."""
    own = np.zeros(trace.begin.size, np.int64)
    at = np.full(trace.begin.size, -1, np.int64)
    pools = dict(trace.pools)
    for step, ids, pops in trace.packets():
        if step in pools:
            scheme.change(pools[step])
        is_first = own[ids] == NONE
        found = scheme.send(ids, pops, is_first, own[ids])
        own[ids[is_first]] = found[is_first]
        at[ids[(found != own[ids]) & (at[ids] < 0)]] = step
    return at, int((own != NONE).sum())
