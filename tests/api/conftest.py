# SPDX-License-Identifier: Apache-2.0
"""The sites of the daemon's tests, and the API of a director in memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.served import Served
from daemon.conftest import hosts, running, site

__all__ = ["folder", "hosts", "running", "secure", "served", "site"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="limpet-api-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    """On a unix socket."""
    with Served(folder) as made:
        yield made


@pytest.fixture
def secure(folder: Path) -> Iterator[Served]:
    """On a unix socket and over TLS."""
    with Served(folder).with_tls() as made:
        yield made
