# SPDX-License-Identifier: Apache-2.0
"""Progress: waits until a drain is over, and shows how far it is.

A bar on a terminal, else a line whenever something has changed, at most one in PLAIN_S; with
--json an object a line, the last of which has "outcome". The daemon may be restarted meanwhile:
its drains last, so the waiting does, too. Ctrl-C ends the waiting only.
"""

import http.client
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import typer

from limpet.api.client import Client
from limpet.cli import duration
from limpet.cli.drain import find
from limpet.cli.show import population
from limpet.core.errors import Unreachable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from limpet.api.interface import Json

PERIOD_S = 0.25  # with that of the daemon's scans, in time for a promise of two seconds
PLAIN_S = 5.0
BAR = 10  # characters; the rest of a narrow terminal is for words
STATUSES = {"drained": 0, "taken-back": 8, "kept": 9}
GONE = (Unreachable, OSError, http.client.HTTPException, json.JSONDecodeError)
SILENT = "the daemon does not answer; the drain stays in force, and this waits for it"


class Display(Protocol):
    """Where progress is shown."""

    def show(self, row: "Json") -> None: ...

    def silent(self) -> None:
        """The daemon does not answer."""
        ...

    def end(self, outcome: str, row: "Json | None", text: str) -> None: ...

    def stop(self) -> None:
        """Leave the terminal as it was."""
        ...


def wait(client: Client, backend: str, *, as_json: bool) -> None:
    """Returns when drained; else exits with the status of the outcome."""
    display: Display = Lines(as_json=as_json)
    if sys.stdout.isatty() and not as_json:
        display = Bar(backend)
    try:
        outcome = _watch(client, backend, display)
    except KeyboardInterrupt:
        display.stop()
        typer.echo(
            f"\n{backend} still drains; only the waiting has ended. To wait again: limpet backend "
            f"drain {backend} --wait; to take it back: limpet backend undrain {backend}",
            err=True,
        )
        raise
    if STATUSES[outcome]:
        raise typer.Exit(STATUSES[outcome])


def _watch(client: Client, backend: str, display: Display) -> str:
    """The outcome, when there is one."""
    last = None
    for row in _rows(client, backend, display):
        if row is None:
            display.end("taken-back", last, f"the drain of {backend} was taken back")
            return "taken-back"
        if row["state"] == "drained":
            outcome, text = _ending(row, _event(client, row))
            display.end(outcome, row, text)
            return outcome
        display.show(row)
        last = row
    raise AssertionError("rows never end")


def _rows(client: Client, backend: str, display: Display) -> Iterator["Json | None"]:
    """The drain, every PERIOD_S; None if there is none. Never ends."""
    while True:
        try:
            row = find(client, backend)
        except GONE:
            display.silent()
        else:
            yield row
        time.sleep(PERIOD_S)


def left(row: "Json") -> int:
    """What has to go before it is drained: with rule `flows`, sessions may stay."""
    return int(row["flows"] if row["rule"] == "flows" else max(row["sessions"], row["flows"]))


def _event(client: Client, row: "Json") -> "Json":
    """Why it ended, as far as the daemon still knows: it forgets events when it restarts."""
    deadline, drained = row["deadline"], row["drained"]
    is_late = deadline is not None and duration.unix(drained) >= duration.unix(deadline)
    found: Json = {
        "why": "deadline" if is_late and row["at_deadline"] == "keep" else "empty",
        "sessions_left": row["sessions"],
        "flows_left": row["flows"],
    }
    try:
        for event in client.events(0, follow=False):
            if event["kind"] == "drained" and event["backend"] == row["backend"]:
                found = event
    except GONE:
        return found
    return found


def _ending(row: "Json", event: "Json") -> tuple[str, str]:
    """Outcome, and what to say about it."""
    backend = row["backend"]
    last = {**row, "sessions": event["sessions_left"], "flows": event["flows_left"]}
    are_left = f"{population(last)} are still at {backend}"
    if event["why"] == "deadline" and left(last):
        look = f"`limpet sessions --backend {backend}` lists them"
        return "kept", f"the deadline has passed: {are_left}, and are kept; {look}"
    if event["why"] == "reset-timeout":
        return "kept", f"the deadline has passed: {are_left}, and did not answer the reset"
    if event["why"] == "reset":
        return "drained", f"{backend} is drained: who was left at the deadline was reset"
    what = "flow" if event["sessions_left"] else "session"  # which rule `flows` lets stay
    return "drained", f"{backend} is drained: no {what} is left, it may be switched off"


def _parts(row: "Json") -> dict[str, str]:
    """What there is to say, in the order in which it is said."""
    parts = {"left": f"{population(row)} left"}
    if row["leaving_per_s"]:
        parts["rate"] = f"{row['leaving_per_s']:.1f} leave per s"
    if row["estimated_end_s"] is not None:
        parts["end"] = f"about {duration.said(row['estimated_end_s'])} to go"
    if row["oldest_s"] is not None:
        parts["oldest"] = f"oldest {duration.said(row['oldest_s'])}"
    if row["deadline"] is not None:
        parts["deadline"] = f"{row['at_deadline']} at {duration.moment(row['deadline'])}"
    if row["state"] == "resetting":
        parts["reset"] = "being reset"
    return parts


def _line(row: "Json", room: int | None = None) -> str:
    """As much as there is room for: what is cut off in the middle says less than what is left."""
    parts = _parts(row)
    for least in ("oldest", "deadline", "rate", "end"):
        if room is None or len("; ".join(parts.values())) <= room:
            break
        parts.pop(least, None)
    return "; ".join(parts.values())


class Lines:
    """For logs and programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last = ""
        self._printed = float("-inf")
        self._is_silent = False

    def show(self, row: "Json") -> None:
        self._is_silent = False
        text = json.dumps(row) if self._as_json else f"{row['backend']}: {_line(row)}"
        now = time.monotonic()
        if text != self._last and now - self._printed >= (0 if self._as_json else PLAIN_S):
            typer.echo(text)
            self._last, self._printed = text, now

    def silent(self) -> None:
        if not self._is_silent:
            typer.echo(SILENT, err=True)
        self._is_silent = True

    def stop(self) -> None:
        """There is nothing to leave."""

    def end(self, outcome: str, row: "Json | None", text: str) -> None:
        typer.echo(json.dumps({**(row or {}), "outcome": outcome}) if self._as_json else text)


class Bar:
    """For people: how much of what was there at the start has gone."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._room = 0  # for words, beside the bar
        self._total = 1

    def _bar(self) -> tuple["Progress", "TaskID"]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        if self._progress is None or self._task is None:
            text: Any = TextColumn("{task.fields[text]}", markup=False)
            name: Any = TextColumn("{task.description}", markup=False)
            bar, title = BarColumn(BAR), f"draining {self._backend}"
            self._progress = Progress(name, bar, TaskProgressColumn(), text, auto_refresh=False)
            self._room = self._progress.console.width - len(title) - BAR - len(" 100%  ")
            self._task = self._progress.add_task(title, total=None, text="")
            self._progress.start()
        return self._progress, self._task

    def show(self, row: "Json") -> None:
        bar, task = self._bar()
        now = left(row)
        total = self._total = max(row["sessions_at_start"], now, self._total)
        text = _line(row, self._room)
        bar.update(task, total=total, completed=total - now, text=text, refresh=True)

    def silent(self) -> None:
        bar, task = self._bar()
        bar.update(task, text="the daemon does not answer", refresh=True)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def end(self, outcome: str, row: "Json | None", text: str) -> None:
        if outcome == "drained" and self._progress is not None:
            bar, task = self._bar()
            bar.update(task, total=1, completed=1, text="", refresh=True)
        self.stop()
        typer.echo(text)
