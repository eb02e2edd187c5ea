# SPDX-License-Identifier: Apache-2.0
"""`limpet routes`: what routers are told of the VIPs, why or why not, and how the peers do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client
from limpet.cli.lists import Column, List, table

if TYPE_CHECKING:
    from limpet.api.interface import Json

SHOWN_PIDS = (("speaker_pid", "speaker"), ("bird_pid", "BIRD"))


def _attributes(row: "Json") -> str:
    """As wanted: "64500:100 med 50 prepend 2"."""
    words = list(row["communities"])
    words += [] if row["med"] is None else [f"med {row['med']}"]
    words += [f"prepend {row['prepend']}"] if row["prepend"] else []
    return " ".join(words)


ROUTES = List(
    "/v1/routes",
    (
        Column("address", lambda row: row["address"]),
        Column("state", lambda row: row["state"]),
        Column("VIPs", lambda row: " ".join(row["vips"])),
        Column("told to", lambda row: " ".join(each["to"] for each in row["told"]) or "nobody"),
        Column("attributes", _attributes),
    ),
    "there is no VIP",
    is_bad=lambda row: row["state"] != "announced" or not row["told"],
)
PEERS = List(
    "/v1/routes",
    (
        Column("peer", lambda row: row["name"]),
        Column("address", lambda row: row["address"]),
        Column("AS", lambda row: row["asn"], is_number=True),
        Column("state", lambda row: row["state"]),
        Column("routes", lambda row: row["routes"], is_number=True),
        Column("why", lambda row: row["error"]),
    ),
    "no peer",
    is_bad=lambda row: not row["is_up"],
)


def show(socket: Path | None, *, as_json: bool) -> None:
    found = Client(socket).get("/v1/routes")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if found["speaker"] is None:
        typer.echo("routers are told nothing: [bgp] of the configuration names no speaker")
        return
    from limpet.cli.show import paper

    typer.echo(_head(found))
    if found["routes"]:
        paper().print(table(ROUTES, found["routes"]))
        for row in found["routes"]:
            typer.echo(f"  {row['address']}: {row['why']}")
    if found["peers"]:
        paper().print(table(PEERS, found["peers"]))
    if found["error"]:
        typer.echo(f"error: {found['error']}", err=True)


def _head(found: "Json") -> str:
    pids = [f"{name} {found[key]}" for key, name in SHOWN_PIDS if found[key]]
    words = [f"speaker {found['speaker']}", *([f"pid of {', '.join(pids)}"] if pids else [])]
    if found["bird_restarts"]:
        words.append(f"BIRD was restarted {found['bird_restarts']} times")
    if found["drained_by"] is not None:
        words.append(f"PoP {found['pop']} is drained by {found['drained_by']}")
    return "; ".join(words)
