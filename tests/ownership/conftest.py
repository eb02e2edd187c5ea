# SPDX-License-Identifier: Apache-2.0
"""Three directors, loaded once for a file of tests, with empty tables for each."""

from collections.abc import Iterator

import pytest

from ownership.directors import Director, directors


@pytest.fixture(scope="module")
def loaded() -> Iterator[list[Director]]:
    with directors("a", "b", "c") as made:
        yield made


@pytest.fixture
def three(loaded: list[Director]) -> list[Director]:
    """With empty tables."""
    for each in loaded:
        each.reset()
    return loaded


@pytest.fixture
def two(three: list[Director]) -> list[Director]:
    return three[:2]
