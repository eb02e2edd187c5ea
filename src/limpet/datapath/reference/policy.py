# SPDX-License-Identifier: Apache-2.0
"""The policies: which backend a new session gets.

`hash` is the home of the slot. `round-robin` takes the next turn of a table in which every backend
stands as often as its weight says. `least-sessions` takes the freest: the lowest number of live
sessions, one more included, per weight, among a window of the pool's members that moves on with
every choice.

One counter per pool counts turns and moves the window. Not here: whether the backend has a row.
"""

from collections import Counter

from limpet.core.model import SLOTS, Policy
from limpet.datapath.abi import Limit, Rung, Slot
from limpet.datapath.reference.rows import Pool

TURNS = 1 << 32  # turns wrap round where the window begins


class Chooser:
    """Chooses backends for new sessions; 0 where no backend is eligible."""

    def __init__(self, loads: Counter[int]) -> None:
        self._loads = loads
        self.turns: Counter[int] = Counter()  # choices by pool

    def choose(self, number: int, pool: Pool, slot: int, is_returning: bool) -> tuple[int, Rung]:
        """Backend for a new session of a pool, and by which rung.

        `is_returning`: the client had a session that expired.
        """
        policy = pool.reassign if is_returning else pool.policy
        if policy is Policy.HASH:
            return pool.slots[slot] & Slot.BACKEND, Rung.HOME_NEW
        turn = self.turns[number]
        self.turns[number] += 1
        if policy is Policy.ROUND_ROBIN:
            return pool.turns[turn % SLOTS], Rung.ROUND_ROBIN
        return self._freest(pool, turn % TURNS), Rung.FREEST

    def _freest(self, pool: Pool, turn: int) -> int:
        count = len(pool.members)
        window = ((turn + i) % count for i in range(min(count, Limit.CANDIDATES)))
        candidates = (pool.members[place] for place in window)
        best = min(candidates, key=lambda m: (self._loads[m[0]] + 1) * m[1], default=(0, 0))
        return best[0]
