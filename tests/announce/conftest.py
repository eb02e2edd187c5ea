# SPDX-License-Identifier: Apache-2.0
"""A director with [bgp], and a real router that it tells."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from announce.router import Router
from daemon.site import Site
from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Role, Topology

NUMBERS = count(1)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, Topology]]:
    """The hosts and links of one-pop, without any limpet process."""
    name, topology = f"r{os.getpid()}-{next(NUMBERS)}", source.load("one-pop")
    try:
        with state.locked(name, create=True):
            state.save(State(lab=name, phase="up", topology=topology, numbers_used={"fra": 13}))
            Network(name, topology).build()
        yield name, topology
    finally:
        operations.down(name)


@pytest.fixture
def site(hosts: tuple[str, Topology], tmp_path: Path) -> Iterator[Site]:
    """A director that is not running yet, and says nothing of BGP."""
    made = Site(*hosts, tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def router(site: Site, tmp_path: Path) -> Iterator[Router]:
    """A router that has not started yet."""
    topology = site.topology
    director = topology.hosts(Role.DIRECTOR)[0]
    netns = f"{site.lab}-{topology.hosts(Role.ROUTER)[0].name}"
    folder = tmp_path / "router"
    folder.mkdir()
    made = Router(
        netns,
        folder,
        str(topology.interface4(director).ip),
        str(topology.interface6(director).ip),
    )
    try:
        yield made
    finally:
        made.stop()
