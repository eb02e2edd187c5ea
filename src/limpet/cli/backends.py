# SPDX-License-Identifier: Apache-2.0
"""`limpet backend list`: what people want of each backend, how it does, and what it gets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client
from limpet.cli.lists import Column, List, table

if TYPE_CHECKING:
    from limpet.api.interface import Json

COLUMNS = (
    Column("backend", lambda row: row["name"]),
    Column("pool", lambda row: row["pool"]),
    Column("intent", lambda row: row["intent"]),
    Column("health", lambda row: row["health"]),
    Column("weight", lambda row: row["weight"], is_number=True),
    Column("effective", lambda row: row["effective_weight"], is_number=True),
    Column("sessions", lambda row: row["sessions"], is_number=True),
    Column("flows", lambda row: row["flows"], is_number=True),
    Column("why", lambda row: "\n".join(row["why"])),
)
BACKENDS = List("/v1/backends", COLUMNS, "there are no backends", lambda row: is_out(row))


def show(socket: Path | None, *, as_json: bool) -> None:
    found: list[Json] = Client(socket).get("/v1/backends")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    rows = [row for backend in found for row in _rows(backend)]
    if not rows:
        typer.echo(BACKENDS.empty)
        return
    from limpet.cli.show import paper

    paper().print(table(BACKENDS, rows))


def is_out(row: "Json") -> bool:
    """Whether it deserves a second look: it gets nothing there, or is down."""
    return not row["effective_weight"] or row["health"] == "down"


def _rows(backend: "Json") -> "list[Json]":
    """One for each pool; what belongs to the backend as a whole stands in the first."""
    if not backend["pools"]:
        why = backend["why_no_new_sessions"] or ["in no pool"]
        return [{**backend, "pool": "", "weight": "", "effective_weight": "", "why": why}]
    first, *more = [{**backend, **pool} for pool in backend["pools"]]
    return [first, *({**row, "name": "", "sessions": "", "flows": ""} for row in more)]
