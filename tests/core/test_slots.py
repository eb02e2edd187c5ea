# SPDX-License-Identifier: Apache-2.0
"""The laws of slot tables, checked against arithmetic of their own in exact integers."""

import hashlib
import struct
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.model import BACKENDS_MAX, SLOTS, WEIGHT_MAX, BackendId
from limpet.core.slots import (
    HISTORY_DEPTH,
    SlotTable,
    build,
    digest,
    forget,
    moved,
    shares,
)

KEY = 0x0F0E_0D0C_0B0A_0908_0706_0504_0302_0100
Weights = dict[BackendId, int]
Tables = list[SlotTable]

FEW = settings(max_examples=30)


def of(*weights: int) -> Weights:
    """Weights of the backends 1, 2, 3 ..."""
    return {BackendId(i): weight for i, weight in enumerate(weights, start=1)}


def without(weights: Weights, *gone: int) -> Weights:
    return {backend: weight for backend, weight in weights.items() if backend not in gone}


def drawn(count: int, seed: int) -> Weights:
    """Random weights: uniform, or of very different sizes."""
    chance = np.random.default_rng(seed)
    if seed % 2:
        values = chance.integers(0, WEIGHT_MAX + 1, count)
    else:
        values = np.exp(chance.uniform(0, np.log(WEIGHT_MAX), count)).astype(int)
    ids = chance.choice(np.arange(1, BACKENDS_MAX), count, replace=False)
    return {BackendId(int(i)): int(v) for i, v in zip(ids, values, strict=True)}


small = st.lists(st.integers(0, WEIGHT_MAX), min_size=1, max_size=8).map(lambda w: of(*w))
large = st.builds(drawn, st.integers(1, 1_000), st.integers(0, 2**32))
any_weights = st.one_of(small, large)


def owned(table: SlotTable | None) -> Counter[int]:
    return Counter({0: SLOTS} if table is None else dict(shares(table.slots)))


def assert_exact(table: SlotTable, weights: Weights) -> None:
    """Every backend owns its share of the slots, rounded down or up; nobody else owns any."""
    total = sum(weights.values())
    counts = owned(table)
    if total == 0:
        assert counts == {0: SLOTS}
        return
    for backend, weight in weights.items():
        share, rest = divmod(weight * SLOTS, total)
        assert counts.pop(backend, 0) in {share, share + (rest > 0)}
    assert not counts


def fewest_moves(before: SlotTable | None, weights: Weights) -> int:
    """A lower bound over all exact tables: what must be given up, or what must be taken."""
    total = sum(weights.values())
    counts = owned(before)
    if total == 0:
        return SLOTS - counts[0]
    give_up = take = 0
    for backend in counts.keys() | weights.keys():
        share, rest = divmod(weights.get(BackendId(backend), 0) * SLOTS, total)
        give_up += max(0, counts[backend] - share - (rest > 0))
        take += max(0, share - counts[backend])
    return max(give_up, take)


def returning(before: SlotTable | None, weights: Weights) -> set[int]:
    """Backends that own nothing now and have a place in the history."""
    if before is None:
        return set()
    known = {int(i) for i in np.unique(before.former)}
    return {b for b, w in weights.items() if w and b in known and b not in owned(before)}


def assert_minimal(before: SlotTable | None, after: SlotTable, weights: Weights) -> None:
    old = np.zeros(SLOTS, np.uint16) if before is None else before.slots
    least, done = fewest_moves(before, weights), moved(old, after.slots)
    # Undoing a removal may round others as they were, and so move a slot more of each.
    slack = len(weights) if returning(before, weights) else 0
    assert least <= done <= least + slack


def assert_history(before: SlotTable | None, after: SlotTable) -> None:
    """Nobody is named twice for a slot, and who lost it last stands first."""
    stack = np.vstack([after.slots[None], after.former]).astype(np.int32)
    for a in range(len(stack)):
        for b in range(a):
            assert not ((stack[a] == stack[b]) & (stack[a] != 0)).any()
    assert ((after.former == 0) <= (after.left == 0)).all()
    assert after.left.max() <= after.generation
    if before is not None and before is not after:
        change = (before.slots != after.slots) & (before.slots != 0)
        assert (after.former[0][change] == before.slots[change]).all()
        assert (after.left[0][change] == after.generation).all()


@FEW
@given(any_weights)
def test_first_table_is_exact(weights: Weights) -> None:
    table = build(None, weights, KEY)
    assert_exact(table, weights)
    assert table.generation == 1
    assert_history(None, table)


@FEW
@given(any_weights, st.data())
def test_any_chain_of_changes_stays_exact_and_minimal(
    weights: Weights, data: st.DataObject
) -> None:
    table: SlotTable | None = None
    for _ in range(6):
        following = build(table, weights, KEY)
        assert_exact(following, weights)
        assert_minimal(table, following, weights)
        assert_history(table, following)
        table = following
        weights = data.draw(changed(weights))


@st.composite
def changed(draw: st.DrawFn, weights: Weights) -> Weights:
    """The weights after one change, or after a whole new configuration."""
    kind = draw(st.sampled_from(["remove", "add", "weigh", "replace"]))
    chosen = draw(st.sampled_from(sorted(weights)))
    if kind == "remove" and len(weights) > 1:
        return without(weights, chosen)
    if kind == "add":
        return weights | {BackendId(draw(st.integers(1, 12))): draw(st.integers(0, WEIGHT_MAX))}
    if kind == "replace":
        return draw(any_weights)
    return weights | {chosen: draw(st.integers(0, WEIGHT_MAX))}


@FEW
@given(any_weights, st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(weights: Weights, chance: Random) -> None:
    items = list(weights.items())
    chance.shuffle(items)
    shuffled = dict(items)
    assert build(None, weights, KEY) == build(None, shuffled, KEY)


@FEW
@given(any_weights, st.data())
def test_removal_and_return_restore_the_table(weights: Weights, data: st.DataObject) -> None:
    first = build(None, weights, KEY)
    gone = data.draw(st.sets(st.sampled_from(sorted(weights)), min_size=1, max_size=3))
    second = build(first, without(weights, *gone), KEY)
    assert_restored(first, second, weights)


def assert_restored(first: SlotTable, second: SlotTable, weights: Weights) -> None:
    """`weights` lead back from `second` to `first`, unless `second` is exact for them already.

    It can be if those who return have a share below one slot. Then nothing needs to move.
    """
    third = build(second, weights, KEY)
    if fewest_moves(second, weights):
        assert np.array_equal(third.slots, first.slots)
    else:
        assert third is second


def removed_one_by_one(weights: Weights, order: list[BackendId]) -> tuple[list[Weights], Tables]:
    steps, tables = [weights], [build(None, weights, KEY)]
    for backend in order:
        steps.append(without(steps[-1], backend))
        tables.append(build(tables[-1], steps[-1], KEY))
    return steps, tables


def assert_nested_return(steps: list[Weights], tables: Tables) -> None:
    """Each return undoes the last removal that is not undone yet."""
    table = tables[-1]
    for step, before in reversed(list(zip(steps, tables, strict=True))):
        table = build(table, step, KEY)
        assert np.array_equal(table.slots, before.slots)


@FEW
@given(st.integers(4, 400), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_nested_removals_and_returns_restore_every_table(
    count: int, seed: int, chance: Random
) -> None:
    """As deep as the history reaches, where nobody's share is below one slot."""
    values = np.random.default_rng(seed).integers(1_000, WEIGHT_MAX, count, endpoint=True)
    weights = of(*map(int, values))
    order = chance.sample(sorted(weights), HISTORY_DEPTH - 1)
    steps, tables = removed_one_by_one(weights, order)
    pairs = zip(tables, tables[1:], order, strict=False)
    if all(moved(a.slots, b.slots) == owned(a)[gone] for a, b, gone in pairs):
        assert_nested_return(steps, tables)


@pytest.mark.parametrize("seed", [4, 12, 52, 92, 190, 274])
def test_neighbours_with_tiny_shares_do_not_disturb_a_return(seed: int) -> None:
    """They own no slot while exactness allows it, and are not taken for returning ones."""
    chance = np.random.default_rng(seed)
    weights = drawn(int(chance.integers(3, 300)), seed)
    order = [BackendId(int(i)) for i in chance.permutation(sorted(weights))[:3]]
    assert_nested_return(*removed_one_by_one(weights, order))


@pytest.mark.parametrize("count", [2, 3, 7, 10, 99, 100, 333, 1_000])
def test_removal_moves_only_the_slots_of_the_removed(count: int) -> None:
    weights = of(*[1] * count)
    before = build(None, weights, KEY)
    after = build(before, without(weights, 2), KEY)
    change = before.slots != after.slots
    assert (before.slots[change] == 2).all()
    assert change.sum() == shares(before.slots)[BackendId(2)]


@FEW
@given(large, st.data())
def test_removal_moves_no_other_slot_unless_exactness_needs_it(
    weights: Weights, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    before = build(None, weights, KEY)
    after = build(before, without(weights, gone), KEY)
    if fewest_moves(before, without(weights, gone)) == owned(before)[gone]:
        assert (before.slots[before.slots != after.slots] == gone).all()


def test_random_weights_hardly_ever_need_another_slot_to_move() -> None:
    """Of 100 removals of one in 2 to 500 with random weights, 95 move nothing else."""
    clean = 0
    for seed in range(100):
        weights = drawn(2 + 5 * seed, seed)
        gone = max(weights, key=lambda b: (weights[b], b))
        before = build(None, weights, KEY)
        after = build(before, without(weights, gone), KEY)
        clean += bool((before.slots[before.slots != after.slots] == gone).all())
    assert clean >= 95


def test_return_with_other_weights_moves_the_least() -> None:
    """With new weights for all, undoing the removal is no exact table, and minimal is the law."""
    for seed in range(100):
        chance = np.random.default_rng(seed)
        count = int(chance.integers(3, 120))
        table = build(None, of(1), KEY)
        for gone in ((), (), (1, 2), ()):
            weights = of(*map(int, chance.integers(1, WEIGHT_MAX, count, endpoint=True)))
            weights = without(weights, *gone)
            before, table = table, build(table, weights, KEY)
            assert moved(before.slots, table.slots) == fewest_moves(before, weights)


@FEW
@given(any_weights, st.data())
def test_new_backend_takes_slots_and_nobody_else_gains(
    weights: Weights, data: st.DataObject
) -> None:
    new = BackendId(BACKENDS_MAX - 1)
    before = build(None, without(weights, new), KEY)
    grown = weights | {new: data.draw(st.integers(1, WEIGHT_MAX))}
    after = build(before, grown, KEY)
    if fewest_moves(before, grown) == owned(after)[new]:
        assert (after.slots[before.slots != after.slots] == new).all()


@FEW
@given(any_weights)
def test_same_weights_are_the_same_table(weights: Weights) -> None:
    table = build(None, weights, KEY)
    assert build(table, dict(weights), KEY) is table
    assert build(table, weights | {BackendId(4_000): 0}, KEY) is table or 4_000 in weights


@FEW
@given(st.lists(st.integers(0, 6_000), min_size=1, max_size=20), st.integers(2, 10))
def test_only_the_ratio_of_weights_matters(values: list[int], factor: int) -> None:
    table = build(None, of(*values), KEY)
    assert build(table, of(*(value * factor for value in values)), KEY) is table


def test_no_weight_leaves_every_slot_without_a_home_and_a_return_restores_them() -> None:
    first = build(None, of(5, 3), KEY)
    for none in ({}, of(0, 0)):
        nobody = build(first, none, KEY)
        assert shares(nobody.slots) == {0: SLOTS}
        assert nobody.generation == 2
        assert np.array_equal(build(nobody, of(5, 3), KEY).slots, first.slots)


def test_slots_without_a_home_are_filled_first() -> None:
    slots = build(None, of(1, 1), KEY).slots.copy()
    slots[:1_000] = 0
    hole = SlotTable(
        1,
        slots,
        np.zeros((HISTORY_DEPTH, SLOTS), np.uint16),
        np.zeros((HISTORY_DEPTH, SLOTS), np.uint32),
    )
    after = build(hole, of(1, 1), KEY)
    assert (np.flatnonzero(after.slots != slots) < 1_000).all()
    assert_exact(after, of(1, 1))


def test_weight_back_and_forth_returns_the_same_slots() -> None:
    first = build(None, of(4, 4, 4), KEY)
    second = build(first, of(1, 4, 4), KEY)
    third = build(second, of(4, 4, 4), KEY)
    assert moved(first.slots, third.slots) <= 3  # of 15,000: rounding


def test_returning_backend_gets_what_it_lost_last() -> None:
    """Backend 1 lost slots twice; after its removal it takes back what it held at the end."""
    table = build(None, of(8, 1, 1), KEY)
    table = build(table, of(2, 4, 4), KEY)
    held = table.slots == 1
    table = build(build(table, of(0, 4, 4), KEY), of(2, 4, 4), KEY)
    assert np.array_equal(table.slots == 1, held)


def test_reused_id_inherits_nothing() -> None:
    first = build(None, of(1, 1, 1), KEY)
    second = build(first, of(1, 1), KEY)
    clean = forget(second, BackendId(3))
    assert not (clean.former == 3).any()
    assert clean.generation == second.generation
    assert np.array_equal(clean.slots, second.slots)
    third = build(clean, of(1, 1, 1), KEY)
    assert not np.array_equal(third.slots == 3, first.slots == 3)
    assert forget(clean, BackendId(3)) is clean


def test_owner_of_slots_cannot_be_forgotten() -> None:
    with pytest.raises(AssertionError, match="still owns"):
        forget(build(None, of(1, 1), KEY), BackendId(1))


def test_history_is_bounded_and_forgets_the_oldest() -> None:
    table = build(None, of(1), KEY)
    for backend in range(2, HISTORY_DEPTH + 3):
        table = build(table, {BackendId(backend): 1}, KEY)
    newest_first = list(range(HISTORY_DEPTH + 1, 1, -1))
    assert table.former[:, 0].tolist() == newest_first
    assert table.left[:, 0].tolist() == [backend + 1 for backend in newest_first]


def test_key_decides_which_slots_move() -> None:
    a, b = build(None, of(1, 1), 1), build(None, of(1, 1), 2)
    assert 30_000 < moved(a.slots, b.slots) < 36_000
    assert moved(a.slots, build(None, of(1, 1), 1 << 64).slots) > 30_000


def test_slots_of_a_backend_lie_scattered() -> None:
    """Runs of neighbouring slots with one home are no longer than chance makes them."""
    slots = build(None, of(1, 1), KEY).slots
    runs = np.diff(np.flatnonzero(np.diff(slots.astype(int))))
    assert runs.max() < 40


def test_digest_is_sha256_of_little_endian_slots() -> None:
    table = build(None, of(3, 2, 1), KEY)
    packed = struct.pack("<65536H", *table.slots.tolist())
    assert digest(table.slots) == hashlib.sha256(packed).hexdigest()[:16] == table.digest


def test_table_of_today_is_the_table_of_tomorrow() -> None:
    """Pinned: directors of different versions must build the same bytes."""
    first = build(None, of(1, 2, 3), KEY)
    second = build(first, of(1, 0, 3, 4), KEY)
    assert (first.digest, second.digest) == ("46ad5f9f831e246b", "4ae7c0873a6017c7")


def test_tables_cannot_be_changed_in_place() -> None:
    table = build(None, of(1), KEY)
    for array in (table.slots, table.former, table.left):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize(
    "weights", [{0: 1}, {BACKENDS_MAX: 1}, {1: -1}, {1: WEIGHT_MAX + 1}], ids=str
)
def test_impossible_input_is_a_bug(weights: dict[int, int]) -> None:
    with pytest.raises(AssertionError):
        build(None, {BackendId(i): w for i, w in weights.items()}, KEY)
