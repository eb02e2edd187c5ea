# SPDX-License-Identifier: Apache-2.0
"""Loaded programs of the agent, and two namespaces joined by a veth pair."""

import os
from collections.abc import Iterator
from itertools import count

import pytest

from agent.namespaces import Pair
from limpet.agent import config, mss
from limpet.agent.programs import Programs

NUMBERS = count(1)

GOLDEN = """
name = "golden"
interface = "none"
directors = ["100.64.0.0/16", "fd00:11be:7::/96"]
vips = ["192.0.2.10", "2001:db8::10"]
"""


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """The programs as for an interface with an MTU of 1500, attached to nothing."""
    wanted = config.parse(GOLDEN)
    loaded = Programs(wanted, mss.limits(1500, wanted.sources()))
    yield loaded
    loaded.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Namespaces "client" and "backend" of this test alone."""
    made = Pair(f"ta{os.getpid()}-{next(NUMBERS)}")
    try:
        made.build()
        yield made
    finally:
        made.remove()
