# SPDX-License-Identifier: Apache-2.0
"""The compiled headers, built once per run."""

from pathlib import Path

import pytest

from host.library import Library, build


@pytest.fixture(scope="session")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers of bpf/ as a shared object."""
    path = tmp_path_factory.mktemp("host") / "headers.so"
    build(path)
    return path


@pytest.fixture(scope="session")
def library(library_path: Path) -> Library:
    """The headers of bpf/, to be called."""
    return Library(library_path)
