# SPDX-License-Identifier: Apache-2.0
"""The sites of the daemon's tests, and a director in memory that commands are run against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.memory import MemoryDirector, served
from cli.operator import Operator
from daemon.conftest import hosts, running, site

__all__ = ["hosts", "operator", "running", "site"]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """Somebody at a shell, with a director that answers."""
    director = MemoryDirector()
    socket = tmp_path / "d.sock"
    with served(director, socket):
        yield Operator(director, socket)
