# SPDX-License-Identifier: Apache-2.0
"""Slot tables: which backend is the home of each of the 65,536 slots of a pool.

A table is a pure function of the table before it, the weights and a key. It promises to be
  exact      every backend owns its weighted share, rounded down or up;
  minimal    among all exact tables, none is reached by moving fewer slots (the one exception is
             the next line);
  returning  a backend that comes back gets the slots it lost, the latest lost first; if undoing
             its removal gives an exact table, that is the table;
  agreed     input order, machine and run do not matter: ties are broken by the key.

Who is rounded up depends on the table before, not on the weights alone: rounding afresh each time
would move slots that need not move. docs/adr/0002-slot-table.md has the reasons and the figures.

Round robin has a table of its own, `turns`, which is a function of the weights alone.

Not here: which backends are eligible, and when a new table may be used.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from limpet.core.model import (
    BACKENDS_MAX,
    SLOT_BACKEND,
    SLOTS,
    WEIGHT_MAX,
    BackendId,
    Slots,
)

HISTORY_DEPTH = 4  # former owners remembered per slot; the oldest is forgotten first
MATCH_ROUNDS = 8  # greedy rounds that give slots back to former owners; the rest move as others do

Counts = NDArray[np.int64]  # shape (BACKENDS_MAX,): a number of slots per backend id
Index = NDArray[np.intp]  # slot numbers


@dataclass(frozen=True, eq=False)
class SlotTable:
    """One generation of a pool's table. All arrays are read-only.

    `former[0]` is the owner before the home, `former[1]` the one before that; 0 is nobody.
    `left[h]` is the generation in which `former[h]` lost the slot.
    """

    generation: int
    slots: Slots  # uint16[65536]
    former: NDArray[np.uint16]  # [HISTORY_DEPTH, 65536]
    left: NDArray[np.uint32]  # [HISTORY_DEPTH, 65536]

    def __post_init__(self) -> None:
        for array in (self.slots, self.former, self.left):
            array.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotTable) and (
            self.generation == other.generation
            and np.array_equal(self.slots, other.slots)
            and np.array_equal(self.former, other.former)
            and np.array_equal(self.left, other.left)
        )

    def __hash__(self) -> int:
        return hash((self.generation, self.digest))

    @cached_property
    def digest(self) -> str:
        return digest(self.slots)


def build(previous: SlotTable | None, weights: Mapping[BackendId, int], key: int) -> SlotTable:
    """The table that follows `previous` under `weights` (0 to 65535; 0 and absent are the same).

    Returns `previous` itself if no slot has to move. Without any weight all slots become 0.
    """
    before = previous or _empty()
    weight = _weight_array(weights)
    targets = _targets(before, weight, key)
    slots = _moved_to(before, targets, key)
    if previous is not None and np.array_equal(slots, before.slots):
        return previous
    return _remember(before, slots)


def forget(table: SlotTable, backend: BackendId) -> SlotTable:
    """The table without `backend` in its history, for when the id is given to somebody else."""
    assert not (table.slots == backend).any(), f"backend {backend} still owns slots"
    gone = table.former == backend
    if not gone.any():
        return table
    former, left = table.former.copy(), table.left.copy()
    former[gone] = 0
    left[gone] = 0
    return SlotTable(table.generation, table.slots, former, left)


def digest(slots: Slots) -> str:
    """The first 16 hex digits of SHA-256 over the slots as little-endian u16."""
    return hashlib.sha256(slots.astype("<u2", copy=False).tobytes()).hexdigest()[:16]


def homes(slots: Slots) -> Slots:
    """The slots without marks."""
    return slots & np.uint16(SLOT_BACKEND)


def moved(a: Slots, b: Slots) -> int:
    """How many slots have another home in `b` than in `a`."""
    return int(np.count_nonzero(a != b))


def shares(slots: Slots) -> dict[BackendId, int]:
    """Slots per backend id, without those that own none; 0 stands for slots without a home.

    Marks on the slots do not count.
    """
    counts = np.bincount(homes(slots))
    return {BackendId(int(i)): int(counts[i]) for i in np.flatnonzero(counts)}


# --- Turns -------------------------------------------------------------------------------------


def turns(members: Sequence[tuple[BackendId, int]]) -> Slots:
    """The order of round robin: every backend as often as its weight says, spread evenly.

    Counts are exact (largest remainder, then the lower id). Backends with the same count share one
    evenly spaced comb; the combs are merged. So in any window, the count of a backend differs from
    its share by at most 1, and by that share times the number of different counts.
    """
    ordered = sorted(members)
    ids = np.array([backend for backend, _ in ordered], np.uint16)
    weights = np.array([weight for _, weight in ordered], np.int64)
    if not weights.sum():
        return np.zeros(SLOTS, np.uint16)
    counts, remainder = np.divmod(weights * SLOTS, weights.sum())
    most = np.argsort(-remainder, kind="stable")
    counts[most[: SLOTS - int(counts.sum())]] += 1
    alike = np.bincount(counts)[counts]  # how many have the same count
    owner = np.repeat(np.arange(ids.size), counts)
    turn = np.arange(SLOTS) - np.repeat(np.cumsum(counts) - counts, counts)
    tooth = (turn * alike[owner] + _rank(counts)[owner] + 0.5) / (alike * counts)[owner]
    found = ids[owner[np.argsort(tooth, kind="stable")]]
    found.setflags(write=False)
    return found


def inverses(members: Sequence[tuple[BackendId, int]]) -> list[int]:
    """What one session more weighs on each member: 2^16 * largest weight / weight, rounded."""
    largest = max((weight for _, weight in members), default=0)
    return [((largest << 17) // weight + 1) >> 1 for _, weight in members]


# --- How many slots each backend gets ----------------------------------------------------------


def _targets(before: SlotTable, weight: Counts, key: int) -> Counts:
    """Slots per id: the share rounded down or up, so that the least moves and the sum is right.

    An exact table stays, and so does one that becomes exact by undoing a removal. Else everybody
    keeps what it owns, cut to [down, up]. Where the sum is then off, everybody with room is as good
    as another: no choice costs a further move. Largest remainder comes first, then keyed order.
    """
    total = int(weight.sum())
    if total == 0:
        nobody = np.zeros(BACKENDS_MAX, np.int64)
        nobody[0] = SLOTS
        return nobody
    down, remainder = np.divmod(weight * SLOTS, total)
    up = down + (remainder > 0)
    owned = np.bincount(before.slots, minlength=BACKENDS_MAX)
    for counts in (owned, _owned_if_returned(before, weight, down, owned)):
        if ((down <= counts) & (counts <= up)).all():
            return counts
    targets = np.clip(owned, down, up)
    missing = SLOTS - int(targets.sum())
    tie = _mix(np.arange(BACKENDS_MAX, dtype=np.uint64), key)
    if missing > 0:
        order = np.lexsort((tie, -remainder))
        targets[order[(targets < up)[order]][:missing]] += 1
    elif missing < 0:
        order = np.lexsort((tie, remainder))
        targets[order[(targets > down)[order]][:-missing]] -= 1
    return targets


def _owned_if_returned(before: SlotTable, weight: Counts, down: Counts, owned: Counts) -> Counts:
    """What everybody would own if the changes that took away a returning backend were undone."""
    is_returning = (weight > 0) & (owned == 0)
    is_returning &= np.bincount(before.former.ravel(), minlength=BACKENDS_MAX) > 0
    if not is_returning.any():
        return owned
    entries = np.flatnonzero(is_returning[before.former].ravel())
    last_left = np.zeros(BACKENDS_MAX, np.uint32)
    np.maximum.at(last_left, before.former.ravel()[entries], before.left.ravel()[entries])
    undone = last_left[is_returning & (down > 0)]
    if not undone.size:
        # Owning nothing is exact for a share below one slot, so most of these were here all along.
        undone = last_left.max(keepdims=True)
    slots = before.slots.copy()
    for level in reversed(range(HISTORY_DEPTH)):  # the latest owner is written last, and wins
        owner = before.former[level]
        back = np.flatnonzero((weight[owner] > 0) & np.isin(before.left[level], undone))
        slots[back] = owner[back]
    return np.bincount(slots, minlength=BACKENDS_MAX)


# --- Which slots move --------------------------------------------------------------------------


def _moved_to(before: SlotTable, targets: Counts, key: int) -> Slots:
    """The slots of `before`, changed in as few places as `targets` allow."""
    slots = before.slots.copy()
    change = targets - np.bincount(slots, minlength=BACKENDS_MAX)
    if not change.any():
        return slots
    surplus, deficit = np.maximum(-change, 0), np.maximum(change, 0)
    order = _slot_order(key)
    is_open = np.ones(SLOTS, bool)  # slots that have not moved yet
    for level in range(HISTORY_DEPTH):
        is_wanted = deficit[before.former[level]] > 0
        if is_wanted.any():
            candidates = order[is_wanted[order]]
            latest = np.argsort(~before.left[level][candidates], kind="stable")
            _give_back(before, level, candidates[latest], slots, is_open, surplus, deficit)
    released = order[((surplus[slots] > 0) & is_open)[order]]
    released = released[_rank(slots[released]) < surplus[slots[released]]]
    slots[released] = np.repeat(np.arange(BACKENDS_MAX), deficit)
    return slots


def _give_back(
    before: SlotTable,
    level: int,
    candidates: Index,
    slots: Slots,
    is_open: NDArray[np.bool_],
    surplus: Counts,
    deficit: Counts,
) -> None:
    """Move candidates to their owner of `level`, as far as it lacks and the home can spare them.

    Changes the last four arguments in place.
    """
    owner = before.former[level]
    for _ in range(MATCH_ROUNDS):
        can = is_open[candidates] & (surplus[slots[candidates]] > 0)
        candidates = candidates[can & (deficit[owner[candidates]] > 0)]
        if not candidates.size:
            return
        home, to = slots[candidates], owner[candidates]
        fits = _rank(home) < surplus[home]
        fits[fits] = _rank(to[fits]) < deficit[to[fits]]
        taken = candidates[fits]
        surplus -= np.bincount(home[fits], minlength=BACKENDS_MAX)
        deficit -= np.bincount(to[fits], minlength=BACKENDS_MAX)
        slots[taken] = owner[taken]
        is_open[taken] = False


def _rank(ids: NDArray[np.uint16] | Counts) -> Counts:
    """For each element, how many equal ones stand before it: [7, 7, 5, 7] -> [0, 1, 0, 2]."""
    order = np.argsort(ids, kind="stable")  # a radix sort for 16 bit numbers
    counts = np.bincount(ids)
    starts = np.cumsum(counts) - counts
    rank = np.empty(ids.size, np.int64)
    rank[order] = np.arange(ids.size) - starts[ids[order]]
    return rank


# --- History -----------------------------------------------------------------------------------


def _remember(before: SlotTable, slots: Slots) -> SlotTable:
    """The next generation: where a slot moved, its home goes to the front of its history.

    The new home is taken out of the history. The hole (0) it may leave is filled by the next move.
    """
    generation = before.generation + 1
    former, left = before.former.copy(), before.left.copy()
    has_past = (before.slots != 0) | before.former.any(axis=0)
    places = np.flatnonzero((slots != before.slots) & has_past)
    home = slots[places]
    owner = before.slots[places]
    since = np.full(places.size, generation, np.uint32)
    for level in range(HISTORY_DEPTH):
        old, old_left = former[level, places], left[level, places]
        old = np.where(old == home, 0, old)
        old_left = np.where(old == 0, 0, old_left)
        has_owner = owner != 0
        former[level, places] = np.where(has_owner, owner, old)
        left[level, places] = np.where(has_owner, since, old_left)
        owner, since = np.where(has_owner, old, 0), np.where(has_owner, old_left, 0)
    return SlotTable(generation, slots, former, left)


def _empty() -> SlotTable:
    return SlotTable(
        generation=0,
        slots=np.zeros(SLOTS, np.uint16),
        former=np.zeros((HISTORY_DEPTH, SLOTS), np.uint16),
        left=np.zeros((HISTORY_DEPTH, SLOTS), np.uint32),
    )


# --- Order and input ---------------------------------------------------------------------------


def _weight_array(weights: Mapping[BackendId, int]) -> Counts:
    array = np.zeros(BACKENDS_MAX, np.int64)
    for backend, weight in weights.items():
        assert 0 < backend < BACKENDS_MAX, f"backend id {backend}"
        assert 0 <= weight <= WEIGHT_MAX, f"weight {weight}"
        array[backend] = weight
    return array


@lru_cache(maxsize=4)  # one key per process, but for tests; 0.5 MB each
def _slot_order(key: int) -> Index:
    """The slots in the keyed order in which they are moved."""
    order = np.argsort(_mix(np.arange(SLOTS, dtype=np.uint64), key), kind="stable")
    order.setflags(write=False)
    return order


def _mix(numbers: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """A keyed bijection of 64 bit numbers: the finaliser of SplitMix64, once per key half."""
    for shift in (0, 64):
        x = numbers + np.uint64((key >> shift) & 0xFFFF_FFFF_FFFF_FFFF)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        numbers = x ^ (x >> np.uint64(31))
    return numbers
