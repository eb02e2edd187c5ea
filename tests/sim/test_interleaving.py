# SPDX-License-Identifier: Apache-2.0
"""All orders of a few steps, of which each counts; `make soak` goes one further."""

from limpet.sim.exhaustive import replay
from limpet.sim.interleaving import explore
from limpet.sim.member import Broken


def test_every_promise_is_kept_in_every_order_of_five_steps() -> None:
    found = explore(5)
    assert not found.why, found.steps
    assert found.states > 15_000


def test_a_table_that_is_used_too_early_breaks_a_promise_in_five() -> None:
    found = explore(5, Broken.FLIP)
    assert "misdelivered" in found.why
    assert len(found.steps) == 5
    assert replay(found.steps, Broken.FLIP) == found.why
    assert not explore(4, Broken.FLIP).why
