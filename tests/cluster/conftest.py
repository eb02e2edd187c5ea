# SPDX-License-Identifier: Apache-2.0
"""Two directors beside each other, and the hosts around them."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from cluster.member import Member
from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

NUMBERS = count(1)
Made = Callable[..., Member]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, Topology]]:
    """The hosts and links of one-pop with a second director, without any limpet process."""
    name, topology = f"c{os.getpid()}-{next(NUMBERS)}", source.load("one-pop")
    # To the lab it is a backend: of directors, it has one on a segment.
    second = topology.find("b1").model_copy(update={"name": "par-d1", "number": 3, "pooled": False})
    topology = topology.with_host(second)
    try:
        with state.locked(name, create=True):
            state.save(State(lab=name, phase="up", topology=topology, numbers_used={"fra": 13}))
            Network(name, topology).build()
        yield name, topology
    finally:
        operations.down(name)


@pytest.fixture
def make(hosts: tuple[str, Topology], tmp_path: Path) -> Iterator[Made]:
    """Makes members by the name of their host; stops what was started."""
    made: list[Member] = []

    def member(host: str, pop: str, more: str = "") -> Member:
        made.append(Member(*hosts, tmp_path, host, pop, more))
        return made[-1]

    try:
        yield member
    finally:
        for each in made:
            each.stop()


@pytest.fixture
def pair(make: Made) -> tuple[Member, Member]:
    """Two members that run, with an embedded store."""
    both = make("fra-d1", "fra"), make("par-d1", "par")
    for each in both:
        each.start()
    return both
