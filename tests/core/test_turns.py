# SPDX-License-Identifier: Apache-2.0
"""The laws of round robin's order, and of what a session weighs."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.model import SLOTS, WEIGHT_MAX, BackendId
from limpet.core.slots import inverses, turns

Members = list[tuple[BackendId, int]]

weights = st.one_of(st.integers(1, 10), st.integers(1, WEIGHT_MAX))
some = st.dictionaries(st.integers(1, 4_095).map(BackendId), weights, min_size=1, max_size=12).map(
    lambda found: sorted(found.items())
)
LAW = settings(max_examples=40)


def of(*each: int) -> Members:
    return [(BackendId(i), weight) for i, weight in enumerate(each, start=1)]


@LAW
@given(some)
def test_everyone_has_the_turns_of_its_weight(members: Members) -> None:
    counts = Counter(turns(members).tolist())
    total = sum(weight for _, weight in members)
    assert sum(counts.values()) == SLOTS
    for backend, weight in members:
        assert abs(counts[backend] - Fraction(SLOTS * weight, total)) < 1


def test_largest_remainder_has_the_turn_that_is_left() -> None:
    assert Counter(turns(of(1, 2)).tolist()) == {1: 21_845, 2: 43_691}
    assert Counter(turns(of(1, 1, 1)).tolist()) == {1: 21_846, 2: 21_845, 3: 21_845}


@LAW
@given(some, st.data())
def test_any_window_has_each_backend_by_its_share(members: Members, data: st.DataObject) -> None:
    order = turns(members)
    counts = Counter(order.tolist())
    length = data.draw(st.integers(1, SLOTS))
    for backend, count in counts.items():
        share = count / SLOTS
        before = np.concatenate([[0], np.cumsum(np.tile(order, 2) == backend)])
        found = before[length : SLOTS + length] - before[:SLOTS]  # every window, also over the end
        assert np.abs(found - length * share).max() <= 1 + len(set(counts.values())) * share


@pytest.mark.parametrize("each", [(1, 1, 2, 4), (1, 1, 1, 1), (3, 1), (8, 4, 2, 2), (5, 2, 1)])
def test_window_as_long_as_the_weights_is_within_one(each: tuple[int, ...]) -> None:
    order = turns(of(*each))
    length = sum(each)
    for backend, weight in of(*each):
        found = np.convolve(order == backend, np.ones(length, int), "valid")
        assert np.abs(found - weight).max() <= 1


def test_many_light_ones_do_not_come_in_a_row() -> None:
    """Each alone would be spread evenly if all of them came at once."""
    order = turns(of(100, *[1] * 100))
    lights = order != 1
    for start in range(0, SLOTS - 200, 17):
        assert abs(int(lights[start : start + 20].sum()) - 10) <= 3


@LAW
@given(some, st.randoms(use_true_random=False))
def test_order_of_the_members_does_not_matter(members: Members, chance: object) -> None:
    turned = list(members)
    chance.shuffle(turned)  # type: ignore[attr-defined]
    assert np.array_equal(turns(turned), turns(members))


def test_nobody_has_no_turns() -> None:
    assert not turns([]).any()
    assert inverses([]) == []


@LAW
@given(some)
def test_inverse_is_the_share_of_the_heaviest(members: Members) -> None:
    largest = max(weight for _, weight in members)
    for (_, weight), inverse in zip(members, inverses(members), strict=True):
        assert abs(inverse - Fraction(2**16 * largest, weight)) <= Fraction(1, 2)
        assert 2**16 <= inverse < 2**32
