# SPDX-License-Identifier: Apache-2.0
"""Slot tables of the model check: where its two clients' homes are after changes of the pool.

Tables are those of core/slots.py, looked at where the two clients' slots are: the first moves when
the third backend comes, the second when its backend goes.
"""

from functools import lru_cache

import numpy as np

from limpet.core.model import BackendId
from limpet.core.slots import SlotTable, build
from limpet.sim.member import Homes

FIRST_POOL = frozenset({1, 2})
BACKENDS = frozenset({1, 2, 3})
KEY = 0x11BE7


@lru_cache(maxsize=4096)
def table(pools: tuple[frozenset[int], ...]) -> SlotTable:
    """The slot table after the pool was each of these in turn."""
    before = table(pools[:-1]) if len(pools) > 1 else None
    return build(before, {BackendId(i): 1 for i in pools[-1]}, KEY)


@lru_cache(maxsize=1)
def client_slots() -> tuple[int, int]:
    """Slots of both clients: homes of both are 1 at first; 3 takes only the first one's."""
    first, grown = table((FIRST_POOL,)).slots, table((FIRST_POOL, BACKENDS)).slots
    moves = np.flatnonzero((first == 1) & (grown == 3))
    stays = np.flatnonzero((first == 1) & (grown == 1))
    return int(moves[0]), int(stays[0])


def homes(pools: tuple[frozenset[int], ...]) -> Homes:
    """Backends of the clients' slots."""
    slots = table(pools).slots
    return tuple(int(slots[at]) for at in client_slots())
