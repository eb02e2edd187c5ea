# SPDX-License-Identifier: Apache-2.0
"""The model check: the protocol keeps every promise in the small world, and each part is needed."""

import pytest

from limpet.sim.exhaustive import EACH_ALONE, TOGETHER, explore, explore_at_once, replay
from limpet.sim.member import Broken


@pytest.mark.parametrize("senders", [EACH_ALONE, TOGETHER])
def test_every_promise_is_kept_in_all_interleavings(senders: tuple[tuple[int, ...], ...]) -> None:
    found = explore(3, senders=senders)
    assert not found.why, found.steps
    assert found.is_whole
    assert found.states > 2_000


def test_clients_at_once_are_the_same_search() -> None:
    assert explore_at_once(2) == explore(2)
    at_once, one_by_one = (search(3, Broken.QUERY) for search in (explore_at_once, explore))
    assert at_once.why == one_by_one.why


@pytest.mark.parametrize("part", [each for each in Broken if each is not Broken.NOTHING])
def test_without_any_part_of_the_protocol_a_promise_is_broken(part: Broken) -> None:
    """And the way there breaks it again; with the part in place it does not."""
    found = explore(4, part, states_max=40_000)
    assert found.why
    assert replay(found.steps, part) == found.why
