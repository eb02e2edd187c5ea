# SPDX-License-Identifier: Apache-2.0
"""`limpet show`: the director as tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from limpet.api.client import Client
from limpet.api.interface import Json

PARTS = ("vips", "pools", "backends", "counters")
STYLES = {"normal": "", "watch": "yellow", "alarm": "bold red"}


def show(what: str, socket: Path | None, *, as_json: bool) -> None:
    if what not in ("", *PARTS):
        raise typer.BadParameter(f"{what!r} cannot be shown; use one of {', '.join(PARTS)}")
    found = read(Client(socket), (what,) if what else ("status", *PARTS))
    if as_json:
        typer.echo(json.dumps(found[what] if what else found, indent=2))
        return
    from rich.console import Console

    console = Console()
    for table in tables(found):
        console.print(table)


def read(client: Client, parts: tuple[str, ...]) -> dict[str, Any]:
    return {part: client.get(f"/v1/{part}") for part in parts}


def tables(found: dict[str, Any]) -> list[Any]:
    """What was read, as things that rich can print."""
    makers: dict[str, Callable[[Any], Any]] = {
        "status": _status,
        "vips": _vips,
        "pools": _pools,
        "backends": _backends,
        "counters": counters,
    }
    return [makers[part](content) for part, content in found.items()]


def number(value: float) -> str:
    """With a decimal prefix: 1234567 is 1.23 M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.2f} {unit}"
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...] = ()) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    return table


def _status(status: Json) -> Any:
    from rich.text import Text

    flows, reconcile = status["flows"], status["reconcile"]
    where = f"{status['director']}" + (f" in {status['pop']}" if status["pop"] else "")
    text = Text()
    text.append(f"director {where}", style="bold")
    text.append(f"  limpet {status['version']}, pid {status['pid']}, up {status['uptime_s']} s\n")
    for attachment in status["attachments"]:
        mode = attachment["mode"] or "not attached"
        is_good = attachment["mode"] and attachment["state"] == "up"
        line = f"  {attachment['interface']}: {mode}, {attachment['state']}\n"
        text.append(line, style="" if is_good else STYLES["alarm"])
    text.append(
        f"  {flows['live']} flows in {flows['entries']} entries ({flows['used_percent']} %)\n"
    )
    if reconcile["error"]:
        text.append(f"  reconcile failed: {reconcile['error']}\n", style=STYLES["alarm"])
    if status["file_error"]:
        text.append(f"  last reload: {status['file_error']}\n", style=STYLES["alarm"])
    return text


def _rates(row: Json) -> tuple[str, str]:
    return number(row["packets_per_s"]), number(row["bits_per_s"])


def _vips(rows: list[Json]) -> Any:
    table = _table(
        "VIPs",
        ("name", "address", "protocol", "port", "pool", "affinity"),
        ("flows", "packets/s", "bit/s", "packets", "dropped"),
    )
    for vip in rows:
        port = "all" if vip["port"] is None else str(vip["port"])
        cells = [vip["name"], vip["address"], vip["protocol"], port, vip["pool"], vip["affinity"]]
        cells += [str(vip["flows"]), *_rates(vip), number(vip["packets"]), number(vip["dropped"])]
        table.add_row(*cells)
    return table


def _pools(rows: list[Json]) -> Any:
    table = _table("pools", ("pool", "backend"), ("weight", "slots", "share", "generation"))
    for pool in rows:
        name, generation = pool["name"], str(pool["generation"])
        for member in pool["backends"]:
            share = f"{member['share_percent']:.2f} %"
            cells = [name, member["name"], str(member["weight"]), str(member["slots"]), share]
            table.add_row(*cells, generation)
            name = generation = ""
        if not pool["backends"]:
            table.add_row(name, "no backends", "", "", "", generation, style=STYLES["alarm"])
    return table


def _backends(rows: list[Json]) -> Any:
    table = _table(
        "backends",
        ("name", "address", "state", "next hop"),
        ("weight", "slots", "share", "flows", "packets/s", "bit/s", "packets"),
    )
    for backend in rows:
        pools = backend["pools"]
        cells = [backend["name"], backend["address"], backend["state"], _hop(backend)]
        cells += ["\n".join(str(pool[key]) for pool in pools) for key in ("weight", "slots")]
        cells.append("\n".join(f"{pool['share_percent']:.2f} %" for pool in pools))
        cells += [str(backend["flows"]), *_rates(backend), number(backend["packets"])]
        is_good = backend["state"] == "active" and backend["next_hop"]["state"] == "resolved"
        table.add_row(*cells, style="" if is_good else STYLES["watch"])
    return table


def _hop(backend: Json) -> str:
    hop = backend["next_hop"]
    if hop["state"] != "resolved":
        return str(hop["state"])
    by = f" by {hop['gateway']}" if hop["gateway"] else ""
    return f"{hop['interface']}{by}"


def counters(found: Json) -> Any:
    """Counters that are not zero."""
    from rich.text import Text

    table = _table("counters", ("", "counter"), ("value",))
    table.add_column("meaning")
    for kind, rows in found.items():
        title = kind
        for row in rows:
            if row["value"]:
                cells = [title, row["name"], number(row["value"]), Text(row["meaning"])]
                table.add_row(*cells, style=STYLES[row["severity"]])
                title = ""
    return table
