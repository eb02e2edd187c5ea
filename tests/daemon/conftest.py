# SPDX-License-Identifier: Apache-2.0
"""Sites for tests of the daemon: one network per module, one director per test."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from daemon.site import Site
from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

NUMBERS = count(1)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, Topology]]:
    """The hosts and links of one-pop, without any limpet process."""
    name, topology = f"d{os.getpid()}-{next(NUMBERS)}", source.load("one-pop")
    try:
        with state.locked(name, create=True):
            state.save(State(lab=name, phase="up", topology=topology, numbers_used={"fra": 13}))
            Network(name, topology).build()
        yield name, topology
    finally:
        operations.down(name)


@pytest.fixture(scope="module")
def running(
    hosts: tuple[str, Topology], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A director that runs, for tests that only ask it, or put back what they change."""
    made = Site(*hosts, tmp_path_factory.mktemp("site"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def site(hosts: tuple[str, Topology], tmp_path: Path) -> Iterator[Site]:
    """A director that is not running yet."""
    made = Site(*hosts, tmp_path)
    try:
        yield made
    finally:
        made.stop()
