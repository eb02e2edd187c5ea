# SPDX-License-Identifier: Apache-2.0
"""What holds for a whole run: the order of files, and the figures that tests report.

Tests run in several processes, a file in one of them (`make test`; plain pytest uses one). Most
of the time of the suite is waiting in labs, so the files that wait longest come first: else the
last of them would run alone. Figures travel with a test's result, since a process that is not the
first has no terminal to print them on.

Laws are tested by generated examples, and no example has a time limit: a machine that stands still
for a moment is no fault of the code. What may cost only so much says so in a test of its own.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

import leftovers

SLOWEST_FIRST = ("lab", "daemon", "cluster", "announce", "cli", "store", "package")
FIGURE = "figure"

settings.register_profile("limpet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("limpet")


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A figure that is worth reading also when the test passes: printed when all have ended."""
    return lambda line: record_property(FIGURE, line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Of several processes the first, when the others have ended."""
    if not hasattr(config, "workerinput"):
        for name in leftovers.remove():
            print(f"removed what a test that was killed had left: {name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    figures = [
        (each.nodeid, text)
        for each in reports
        if each.when == "call"
        for name, text in each.user_properties
        if name == FIGURE
    ]
    if not figures:
        return
    terminalreporter.section("figures")
    for nodeid, text in figures:
        terminalreporter.write_line(f"{nodeid}: {text}")
