# SPDX-License-Identifier: Apache-2.0
"""Lists: what the API answers with one list, as one table: drains, sources, health, history, audit.

A list is data: where it is asked for, what its columns are, and what to say when it is empty.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from limpet.api.client import Client
from limpet.cli import names
from limpet.cli.duration import moment, said

if TYPE_CHECKING:
    from limpet.api.interface import Json


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and how a row fills it."""

    heading: str
    cell: "Callable[[Json], object]"
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class List:
    """What is asked for, and how it looks."""

    path: str
    columns: tuple[Column, ...]
    empty: str  # what to say when there is nothing
    is_bad: "Callable[[Json], bool]" = lambda row: False
    note: "Callable[[Json], str]" = lambda row: ""  # in a line below, where a column is too narrow


def _key(name: str) -> "Callable[[Json], object]":
    return lambda row: "" if row[name] is None else row[name]


def _time(name: str) -> "Callable[[Json], object]":
    return lambda row: moment(row[name])


def _terms(row: "Json") -> str:
    """Who wants a drain, and how."""
    text = f"{row['backend']}: since {moment(row['began'])} by {row['by']}"
    text += f", rule {row['rule']}" if row["rule"] else ", by the rule of each pool"
    if row["deadline"] is not None:
        text += f", {row['at_deadline']} at {moment(row['deadline'])}"
    return text


def _health(row: "Json") -> str:
    """One that changes too often counts as down, whatever the last answers were."""
    if row["is_suppressed"]:
        return "suppressed"
    return "up" if row["is_up"] else "down"


def _request(row: "Json") -> str:
    """As in "PUT /v1/backends/b1/drain {'deadline_s': 60}", and why it failed."""
    text = f"{row['method']} {row['path']}" + (f" {row['details']}" if row["details"] else "")
    return f"{text}\n{row['why']}" if row.get("why") else text


def _changes(row: "Json") -> str:
    found = row["changes"]
    return "\n".join(map(str, found)) if isinstance(found, list) else str(found)


DRAINS = List(
    "/v1/drains",
    (
        Column("backend", _key("backend")),
        Column("state", _key("state")),
        Column("sessions", _key("sessions"), is_number=True),
        Column("flows", _key("flows"), is_number=True),
        Column("oldest", lambda row: said(row["oldest_s"]), is_number=True),
        Column("leaving/s", lambda row: f"{row['leaving_per_s'] or 0:.1f}", is_number=True),
        Column("ends in", lambda row: said(row["estimated_end_s"]), is_number=True),
    ),
    "no backend is being drained",
    note=_terms,
)
SOURCES = List(
    "/v1/sources",
    (
        Column("client", _key("client")),
        Column("VIP", _key("vip")),
        Column("flows", _key("flows"), is_number=True),
        Column("sessions", _key("sessions"), is_number=True),
        Column("share", lambda row: f"{row['share_percent']:.2f} %", is_number=True),
        Column("split", lambda row: "yes" if row["is_split"] else "no"),
        Column("why", _key("why")),
    ),
    "no client has a session",
)
HEALTH = List(
    "/v1/health",
    (
        Column("pool", _key("pool")),
        Column("backend", _key("backend")),
        Column("health", _health),
        Column("since", _time("since")),
        Column("check", _key("check")),
        Column("reason", _key("reason")),
    ),
    "no pool has a health check: every backend counts as up",
    is_bad=lambda row: not row["is_up"] or row["is_suppressed"],
)
HISTORY = List(
    "/v1/history",
    (
        Column("revision", _key("revision"), is_number=True),
        Column("when", _time("at")),
        Column("who", _key("by")),
        Column("what", _key("what")),
        Column("changes", _changes),
    ),
    "no intent was ever set: the file alone says how it is",
)

AUDIT = List(
    "/v1/audit",
    (
        Column("when", _time("at")),
        Column("who", _key("by")),
        Column("outcome", _key("outcome")),
        Column("revision", lambda row: row.get("revision") or "", is_number=True),
        Column("request", _request),
    ),
    "nobody has changed anything",
    is_bad=lambda row: row["outcome"] != "done",
)


def show(what: List, socket: Path | None, *, as_json: bool, **parameters: object) -> None:
    client = Client(socket)
    with names.explained(client, parameters.get("vip", "")):
        rows = client.get(what.path, **parameters)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        from limpet.cli.show import paper

        paper().print(table(what, rows))
        for note in filter(None, map(what.note, rows)):
            typer.echo(f"  {note}")
    else:
        typer.echo(what.empty)


def table(what: List, rows: "list[Json]") -> Any:
    """Rows as something that rich prints; the last column may wrap."""
    from rich.text import Text

    from limpet.cli.show import STYLES, plain_table

    made = plain_table()
    last = what.columns[-1]
    for column in what.columns:
        justify = "right" if column.is_number else "left"
        wraps = column is last and not column.is_number
        made.add_column(column.heading, justify=justify, no_wrap=not wraps)
    for row in rows:
        cells = [Text(str(column.cell(row))) for column in what.columns]
        made.add_row(*cells, style=STYLES["watch"] if what.is_bad(row) else "")
    return made
