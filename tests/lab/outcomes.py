# SPDX-License-Identifier: Apache-2.0
"""What became of the sessions of each scenario, as a table at the end of the run.

A gap is how long an answer took at worst: from the question for sessions of the lab, and for
programs what it came later than at their own pace. A scenario that fails has its line, too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from limpet.lab.apps.application import Account

COLUMNS = ("scenario", "sessions", "broken", "p50", "p99", "most", "programs", "p50", "p99", "most")
RESULTS: list["Outcome"] = []


@dataclass
class Outcome:
    """Of one scenario."""

    scenario: str
    held: list[int] = field(default_factory=list)  # gap of each of the lab's sessions, in ms
    programs: list[Account] = field(default_factory=list)
    broken: int = 0

    def line(self) -> str:
        """In one sentence."""
        number = len(self.held) + len(self.programs)
        said = f"{self.scenario}: {self.broken} of {number} broken; longest wait {_said(self.held)}"
        if self.programs:
            said += f"; of {len(self.programs)} programs {_said(self._late())}"
        return said

    def cells(self) -> list[str]:
        return [
            self.scenario,
            str(len(self.held)),
            f"{self.broken} of {len(self.held) + len(self.programs)}",
            *_cells(self.held),
            ", ".join(f"{number} {name}" for name, number in self._kinds().items()) or "-",
            *_cells(self._late()),
        ]

    def _late(self) -> list[int]:
        return [each.late_ms for each in self.programs]

    def _kinds(self) -> Counter[str]:
        return Counter(each.application for each in self.programs)


def table() -> Iterator[str]:
    """Lines; none if nothing was to be seen. Gaps are in ms."""
    if not RESULTS:
        return
    rows = [list(COLUMNS), *(each.cells() for each in RESULTS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def percentile(values: Sequence[int], share: float) -> int:
    return sorted(values)[int(len(values) * share)]


def _said(values: list[int]) -> str:
    if not values:
        return "unknown"
    return f"p50 {percentile(values, 0.5)} ms, p99 {percentile(values, 0.99)} ms"


def _cells(values: list[int]) -> list[str]:
    if not values:
        return ["-"] * 3
    return [str(percentile(values, 0.5)), str(percentile(values, 0.99)), str(max(values))]
