# SPDX-License-Identifier: Apache-2.0
"""Labs for tests: each with a name of its own, always removed, so that runs do not meet."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from limpet.lab import operations, source, state
from limpet.lab.network import Network
from limpet.lab.sessions import Server
from limpet.lab.state import State
from limpet.lab.topology import Topology

from . import outcomes
from .hosts import UdpEcho
from .observe import BACKENDS, PORT, UDP_PORT

Report = Callable[[str], None]
NUMBERS = count(1)
SLOT_KEY = "6c696d7065747320636f6d6520686f6d"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in outcomes.table():
        terminalreporter.write_line(line)


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


def varied(topology: Topology, **director: object) -> Topology:
    """one-pop with weights 1, 2, 3, and for each VIP another one with affinity "flow".

    The slot key is fixed, so that who goes where is the same in every run.
    """
    plain = topology.model_dump()
    flow = [{"address": str(vip.address + 1), "affinity": "flow"} for vip in topology.vip]
    weights = {"b1": 1, "b2": 2, "b3": 3}
    hosts = [host | {"weight": weights.get(host["name"], 1)} for host in plain["host"]]
    changed = {"vip": [*plain["vip"], *flow], "host": hosts}
    settings = {**topology.director, "slot_key": SLOT_KEY, **director}
    return Topology.model_validate({**plain, **changed, "director": settings})


@pytest.fixture(scope="session")
def served(one_pop: Topology) -> Iterator[State]:
    """A whole lab with servers, for tests that send through it and leave it as it was."""
    with serving(varied(one_pop)) as now:
        yield now


@contextlib.contextmanager
def serving(topology: Topology) -> Iterator[State]:
    """A lab of this topology, a session server and an echo server on every backend."""
    with fresh_name() as name, ExitStack() as running:
        now = operations.up(name, topology)
        for backend in BACKENDS:
            running.callback(Server(name, backend, PORT).close)
        vips = [vip.address for vip in now.topology.vip]
        running.enter_context(UdpEcho(name, BACKENDS, vips, UDP_PORT))
        yield now
