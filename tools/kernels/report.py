# SPDX-License-Identifier: Apache-2.0
"""Tells what ran in which kernel, and whether that is good.

A kernel is good when pytest ended with success in a guest that runs the release asked for, at least
one test passed, and none was skipped: a test that skips does so because the kernel lacks something,
which is what the matrix is there to find. `allow_skips` accepts that.
"""

from collections import Counter
from dataclasses import dataclass, field
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from .guest import Outcome

VERDICTS = ("passed", "failed", "skipped")


@dataclass
class Tests:
    """Results by test module: module -> verdict -> count, and the reasons of what did not pass."""

    modules: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def total(self, verdict: str) -> int:
        return sum(counts[verdict] for counts in self.modules.values())


def verdict_of(case: ElementTree.Element) -> tuple[str, str]:
    """Verdict of one junit test case, and the first line of its reason."""
    for tag, verdict in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return verdict, (found.get("message") or "no reason given").splitlines()[0]
    return "passed", ""


def read(outcome: Outcome) -> Tests:
    """What the guest's junit.xml tells; empty when pytest did not come to its end."""
    tests = Tests()
    path = outcome.results / "junit.xml"
    if not path.exists():
        return tests
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        module = case.get("classname") or case.get("name") or "?"
        verdict, reason = verdict_of(case)
        tests.modules.setdefault(module, Counter())[verdict] += 1
        if reason:
            tests.reasons.append(f"{verdict} {module}::{case.get('name')}: {reason}")
    return tests


def complaint(outcome: Outcome, tests: Tests, allow_skips: bool) -> str:
    """Why this kernel is not good; empty when it is."""
    if outcome.timed_out:
        return f"out of time after {outcome.seconds:.0f} s"
    if outcome.status is None:
        return "the guest died, see boot.log"
    if outcome.release != outcome.kernel.release:
        return f"booted {outcome.release!r} instead of {outcome.kernel.release}"
    if outcome.status:
        return f"pytest ended with {outcome.status}"
    if not tests.total("passed"):
        return "no test passed"
    if tests.total("skipped") and not allow_skips:
        return "tests were skipped"
    return ""


def show(outcomes: list[Outcome], allow_skips: bool) -> bool:
    """Print what ran where; True when every kernel is good."""
    console = Console()
    runs = [(outcome, read(outcome)) for outcome in outcomes]
    modules = Table("tests", *(outcome.kernel.series for outcome in outcomes), title="What ran")
    for module in sorted({module for _, tests in runs for module in tests.modules}):
        modules.add_row(module, *(cell(tests.modules.get(module)) for _, tests in runs))
    console.print(modules)
    for outcome, tests in runs:
        for reason in tests.reasons:
            line = f"{outcome.kernel.series}: {reason}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    summary = Table("uname -r", *VERDICTS, "boot s", "in all s", "verdict", title="Kernel matrix")
    complaints = [complaint(outcome, tests, allow_skips) for outcome, tests in runs]
    for (outcome, tests), why in zip(runs, complaints, strict=True):
        summary.add_row(
            outcome.release or f"no {outcome.kernel.release}",
            *(str(tests.total(verdict)) for verdict in VERDICTS),
            "-" if outcome.ready_s is None else f"{outcome.ready_s:.0f}",
            f"{outcome.seconds:.0f}",
            "bad" if why else "good",
        )
    console.print(summary)
    for outcome, why in zip(outcomes, complaints, strict=True):
        if why:
            place = f"logs in {outcome.results}"
            console.print(f"{outcome.kernel.release}: {why}; {place}", markup=False, soft_wrap=True)
    return not any(complaints)


def cell(counts: Counter[str] | None) -> str:
    """What became of one module in one kernel, like "12 passed, 1 skipped"."""
    if counts is None:
        return "did not run"
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
