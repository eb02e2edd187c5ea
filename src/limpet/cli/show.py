# SPDX-License-Identifier: Apache-2.0
"""`limpet show`: the director as tables."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from limpet.api.client import Client
from limpet.api.interface import Json

WIDTH = 160  # where there is no terminal
PARTS = ("vips", "pools", "backends", "counters")
STYLES = {"normal": "", "watch": "yellow", "alarm": "bold red"}


def show(what: str, socket: Path | None, *, as_json: bool) -> None:
    if what not in ("", *PARTS):
        raise typer.BadParameter(f"{what!r} cannot be shown; use one of {', '.join(PARTS)}")
    found = read(Client(socket), (what,) if what else ("status", *PARTS))
    if as_json:
        typer.echo(json.dumps(found[what] if what else found, indent=2))
        return
    console = paper()
    for table in tables(found):
        console.print(table)


def status(socket: Path | None, *, as_json: bool) -> None:
    """The director alone, and what is wrong with it."""
    found = Client(socket).get("/v1/status")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = paper()
    console.print(_status(found), end="")
    cluster = found.get("cluster")
    if cluster is not None:
        leads = ", leads" if cluster["leads"] else ""
        console.print(
            f"  cluster: revision {cluster['revision']}, generation {cluster['generation']}, "
            f"{cluster['reachable']} of {cluster['directors']} directors reachable{leads}",
            highlight=False,
        )
    if not found["degraded"]:
        console.print("  nothing is wrong")


def paper() -> Any:
    """Where tables are printed: as wide as the terminal, or as wide as they like."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


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


def population(row: Json) -> str:
    """Who is there, as in "1 session and 3 flows"."""
    found = []
    for noun in ("session", "flow"):
        count = row[f"{noun}s"]
        found.append(f"{count} {noun}" + ("" if count == 1 else "s"))
    return " and ".join(found)


def plain_table(title: str = "") -> Any:
    """A table without columns yet, with a line under its headings."""
    from rich import box
    from rich.table import Table

    return Table(
        title=f"\n{title}" if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...] = ()) -> Any:
    table = plain_table(title)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _status(status: Json) -> Any:
    from rich.text import Text

    where = f"{status['director']}" + (f" in {status['pop']}" if status["pop"] else "")
    text = Text()
    text.append(f"director {where}", style="bold")
    text.append(f"  limpet {status['version']}, pid {status['pid']}, up {status['uptime_s']} s\n")
    for attachment in status["attachments"]:
        mode = attachment["mode"] or "not attached"
        is_good = attachment["mode"] and attachment["state"] == "up"
        line = f"  {attachment['interface']}: {mode}, {attachment['state']}\n"
        text.append(line, style="" if is_good else STYLES["alarm"])
    for kind in ("sessions", "flows"):
        table = status[kind]
        used = f"in {table['entries']} entries ({table['used_percent']} %)"
        text.append(f"  {table['live']} {kind} {used}\n")
    for each in status.get("degraded", ()):
        text.append(f"! {each}\n", style=STYLES["alarm"])
    return text


def _rates(row: Json) -> tuple[str, str]:
    return number(row["packets_per_s"]), number(row["bits_per_s"])


def _vips(rows: list[Json]) -> Any:
    table = _table(
        "VIPs",
        ("name", "serves", "pool", "affinity"),
        ("sessions", "flows", "pkt/s", "bit/s", "dropped"),
    )
    for vip in rows:
        cells = [vip["name"], _service(vip), vip["pool"], vip["affinity"]]
        cells += [str(vip["sessions"]), str(vip["flows"])]
        table.add_row(*cells, *_rates(vip), number(vip["dropped"]))
    return table


def _service(vip: Json) -> str:
    """As in "tcp 192.0.2.10:443" or "udp [2001:db8::1]:all"."""
    address = f"[{vip['address']}]" if ":" in vip["address"] else vip["address"]
    return f"{vip['protocol']} {address}:{vip['port'] or 'all'}"


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
    """The table, and below it in words what is not as it should be."""
    from rich.console import Group
    from rich.text import Text

    table = _table(
        "backends",
        ("name", "address", "intent", "health"),
        ("weight", "share", "sessions", "flows", "pkt/s", "bit/s"),
    )
    notes = []
    for backend in rows:
        pools = backend["pools"]
        cells = [backend[key] for key in ("name", "address", "intent", "health")]
        cells.append("\n".join(weight(pool) for pool in pools))
        cells.append("\n".join(f"{pool['share_percent']:.2f} %" for pool in pools))
        cells += [str(backend["sessions"]), str(backend["flows"])]
        found = list(_notes(backend))
        table.add_row(*cells, *_rates(backend), style=STYLES["watch"] if found else "")
        notes += found
    return Group(table, *(Text(f"  {note}", style=STYLES["watch"]) for note in notes))


def weight(pool: Json) -> str:
    """As in "2", or "0 of 2" while it counts less."""
    full, effective = pool["weight"], pool["effective_weight"]
    return str(full) if full == effective else f"{effective} of {full}"


def _notes(backend: Json) -> Iterator[str]:
    name, hop = backend["name"], backend["next_hop"]["state"]
    if backend["why_no_new_sessions"]:
        yield f"{name} gets no new sessions: {'; '.join(backend['why_no_new_sessions'])}"
    if hop != "resolved":
        yield f"{name}: next hop {hop}"


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
