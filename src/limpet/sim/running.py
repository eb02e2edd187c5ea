# SPDX-License-Identifier: Apache-2.0
"""Many seeds on all CPUs, and what to do about one that fails: shorten it, show it again.

A failing run is shortened by delta debugging over its events: ever smaller parts of them are left
out, as long as it still fails. Its clients are drawn from the seed, and stay.
"""

import gc
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from limpet import __version__
from limpet.core.errors import ConfigError, Problem
from limpet.sim.scenario import Event, Scenario, draw
from limpet.sim.verdict import Tally
from limpet.sim.world import World

GIT_S = 10.0  # that git may take to say what is checked out


@dataclass
class Outcome:
    """Of many seeds."""

    tally: Tally = field(default_factory=Tally)
    seeds: int = 0
    failed: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lives_a_minute(self) -> float:
        """Session-lives in a minute of the wall's clock."""
        return self.tally.lives / self.seconds * 60 if self.seconds else 0.0


def one(scenario: Scenario, seed: int, events: tuple[Event, ...] | None = None) -> Tally:
    """One run."""
    gc.disable()  # what a run makes is garbage all at once, and in no circle
    try:
        world = World(scenario, seed, draw(scenario, seed) if events is None else events)
        tally = world.run()
        world.end()
        return tally
    finally:
        gc.enable()


def many(scenario: Scenario, first: int, seeds: int, processes: int = 0) -> Outcome:
    """Seeds from `first` on; 0 processes: as many as there are CPUs."""
    began, outcome = time.monotonic(), Outcome()
    for seed, tally in _all(scenario, range(first, first + seeds), processes or _cpus()):
        outcome.seeds += 1
        outcome.tally.add(tally)
        if tally.failed:
            outcome.failed.append(seed)
    outcome.seconds = time.monotonic() - began
    outcome.failed.sort()
    return outcome


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _all(scenario: Scenario, seeds: range, processes: int) -> Iterator[tuple[int, Tally]]:
    gc.freeze()  # what is there before any run is no garbage
    if processes == 1 or len(seeds) == 1:
        yield from ((seed, one(scenario, seed)) for seed in seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        work = [(scenario, seed) for seed in seeds]
        yield from pool.imap_unordered(_numbered, work)


def _numbered(work: tuple[Scenario, int]) -> tuple[int, Tally]:
    return work[1], one(*work)


# --- One that fails ------------------------------------------------------------------------------


def shorten(scenario: Scenario, seed: int, events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Fewer events with which the run still fails: without any of them it does not."""
    size = max(1, len(events) // 2)
    while events:
        for start in range(0, len(events), size):
            fewer = events[:start] + events[start + size :]
            if one(scenario, seed, fewer).failed:
                events, size = fewer, min(size, max(1, len(fewer) // 2))
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
    return events


def write(path: Path, scenario: Scenario, seed: int, events: tuple[Event, ...]) -> None:
    """Everything that it takes to show a run again."""
    run = {
        "of": what_runs(),
        "seed": seed,
        "scenario": asdict(scenario),
        "events": [asdict(e) for e in events],
    }
    path.write_text(json.dumps(run, indent=1) + "\n")


def read(path: Path) -> tuple[Scenario, int, tuple[Event, ...]]:
    """The inverse. Raises ConfigError."""
    try:
        run = json.loads(path.read_text())
        events = tuple(Event(**event) for event in run["events"])
        return Scenario(**run["scenario"]), int(run["seed"]), events
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "give a file that `limpet sim run` saved"
        raise ConfigError([Problem(str(path), f"no run: {error}", mend)]) from None


def what_runs() -> str:
    """The commit in a checkout, with a + if something was changed since; else the version."""
    package = Path(__file__).resolve().parent.parent
    try:
        top = _git(package, "rev-parse", "--show-toplevel")
        if Path(top) / "src" / "limpet" == package:
            changed = "+" if _git(package, "status", "--porcelain", "-uno") else ""
            return f"commit {_git(package, 'rev-parse', 'HEAD')[:12]}{changed}"
    except (OSError, subprocess.SubprocessError):
        pass  # no checkout, or no git
    return f"version {__version__}"


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=GIT_S
    ).stdout.strip()
