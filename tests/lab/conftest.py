# SPDX-License-Identifier: Apache-2.0
"""Labs for tests: each with a name of its own, always removed, so that runs do not meet."""

import os
from collections.abc import Iterator
from itertools import count

import pytest

from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

NUMBERS = count(1)


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """A name that no other lab has; whatever is made under it is removed."""
    name = f"t{os.getpid()}-{next(NUMBERS)}"
    try:
        yield name
    finally:
        operations.down(name)


@pytest.fixture(scope="session")
def one_pop() -> Topology:
    return source.load("one-pop")


@pytest.fixture(scope="module")
def network(lab: str, one_pop: Topology) -> State:
    """The hosts of one-pop and their links, without any limpet process."""
    with state.locked(lab, create=True):
        now = State(lab=lab, phase="up", topology=one_pop, numbers_used={"fra": 13})
        state.save(now)
        Network(lab, one_pop).build()
    return now
