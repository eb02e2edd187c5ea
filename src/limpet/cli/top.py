# SPDX-License-Identifier: Apache-2.0
"""`limpet top`: the director, live."""

import json
import time
from pathlib import Path
from typing import Any

import typer

from limpet.api.client import Client
from limpet.cli.show import paper, read, tables

PERIOD_S = 1.0
PARTS = ("status", "vips", "backends", "counters")


def top(socket: Path | None, *, once: bool, as_json: bool) -> None:
    client = Client(socket)
    if as_json:
        _print_json(client, once=once)
        return
    from rich.live import Live

    console = paper()
    if once:
        console.print(_screen(client))
        return
    with Live(_screen(client), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(PERIOD_S)
            live.update(_screen(client), refresh=True)


def _screen(client: Client) -> Any:
    from rich.console import Group

    return Group(*tables(read(client, PARTS)))


def _print_json(client: Client, *, once: bool) -> None:
    """One object a line and second."""
    while True:
        typer.echo(json.dumps(read(client, PARTS)))
        if once:
            return
        time.sleep(PERIOD_S)
