# SPDX-License-Identifier: Apache-2.0
"""`limpet pop list`: the directors of a cluster by PoP, and who is not like the rest."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client

if TYPE_CHECKING:
    from limpet.api.interface import Json

MARK = "!"  # before a director that differs, or finds something wrong
HEADINGS = ("director", "revision", "generation", "digest", "lag", "reported")


def show(socket: Path | None, *, as_json: bool) -> None:
    found = Client(socket).get("/v1/pops")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif not found["cluster"]:
        typer.echo("this director stands alone: its file has no [cluster]")
    else:
        typer.echo("\n".join(lines(found)))


def lines(found: "Json") -> list[str]:
    """What the command prints."""
    preparing = found["preparing"]
    under_way = "" if preparing is None else f", {preparing} is being prepared"
    said = [
        f"cluster {found['cluster']}: revision {found['revision']}, generation "
        f"{found['generation']} ({found['digest']}){under_way}"
    ]
    said += [f"{MARK} {each}" for each in found["degraded"]]
    rows: list[tuple[str, ...]] = [("", *HEADINGS)]
    notes: dict[int, list[str]] = {}
    for pop in found["pops"]:
        drained = f" (drained by {pop['drained_by']})" if pop["drained_by"] else ""
        rows.append(("", f"PoP {pop['pop']}{drained}", *[""] * (len(HEADINGS) - 1)))
        for each in pop["directors"]:
            notes[len(rows)] = [*each["differences"], *each["condition"], *_bypassed(each)]
            is_bad = bool(each["differences"] or each["condition"])
            rows.append((MARK if is_bad else "", *_row(each)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        said.append(" ".join(cells).rstrip())
        said += [f"      {note}" for note in notes.get(number, ())]
    return said


def _row(each: "Json") -> tuple[str, ...]:
    leads = " (leads)" if each["is_leader"] else ""
    return (
        f"  {each['name']}{leads}",
        str(each["revision"]),
        str(each["generation"]),
        each["digest"],
        str(each["lag"]),
        f"{each['reported_s_ago']:g} s ago",
    )


def _bypassed(each: "Json") -> list[str]:
    return [f"pool {pool}: its own table, not the agreed one" for pool in each["bypassed"]]
