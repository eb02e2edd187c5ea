# SPDX-License-Identifier: Apache-2.0
"""Labs for tests: each with a name of its own, always removed, so that runs do not meet."""

import contextlib
import os
from collections.abc import Iterator
from itertools import count

import pytest

from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

NUMBERS = count(1)


@contextlib.contextmanager
def fresh_name() -> Iterator[str]:
    """A name that no other lab has; whatever is made under it is removed."""
    name = f"t{os.getpid()}-{next(NUMBERS)}"
    try:
        yield name
    finally:
        operations.down(name)


@pytest.fixture
def lab() -> Iterator[str]:
    with fresh_name() as name:
        yield name


@pytest.fixture(scope="session")
def one_pop() -> Topology:
    return source.load("one-pop")


@pytest.fixture(scope="module")
def network(one_pop: Topology) -> Iterator[State]:
    """The hosts of one-pop and their links, without any limpet process."""
    with fresh_name() as name:
        with state.locked(name, create=True):
            now = State(lab=name, phase="up", topology=one_pop, numbers_used={"fra": 13})
            state.save(now)
            Network(name, one_pop).build()
        yield now
