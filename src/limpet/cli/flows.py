# SPDX-License-Identifier: Apache-2.0
"""`limpet flows` and `limpet where`: single clients."""

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import typer

from limpet.api.client import Client
from limpet.api.interface import Json

COLUMNS = ("client", "client_port", "vip", "vip_port", "backend", "life", "idle_s")
ROW = (
    "{client:<39}  {client_port:<11}  {vip:<16}  {vip_port:<8}  {backend:<16}  {life:<11}  "
    "{idle_s}\n"
)
RUNGS = {
    "table": "its live flows are in the connection table",
    "home": "a new flow goes to the home of its slot",
}


def flows(query: Mapping[str, object], socket: Path | None, *, as_json: bool) -> None:
    """Printed as they come, so that a million need no memory here."""
    if query["client"]:
        _check_address("--client", query["client"])
    lines = Client(socket).lines("/v1/flows", **query)
    total = json.loads(next(lines))["total"]
    if query["count"]:
        typer.echo(json.dumps({"total": total}) if as_json else total)
    elif as_json:
        _print_json(total, lines)
    else:
        _print_rows(total, lines)


def _print_json(total: int, lines: Iterator[bytes]) -> None:
    write = typer.get_text_stream("stdout").write
    write(f'{{"total": {total}, "flows": [')
    for place, flow in enumerate(lines):
        write((",\n" if place else "\n") + flow.decode())
    write("\n]}\n")


def _print_rows(total: int, lines: Iterator[bytes]) -> None:
    write = typer.get_text_stream("stdout").write
    write(_row(dict(zip(COLUMNS, COLUMNS, strict=True))))
    shown = 0
    for flow in lines:
        write(_row(json.loads(flow)))
        shown += 1
    if shown < total:
        typer.echo(f"{shown} of {total} flows; --limit 0 shows all", err=True)


def _row(flow: Mapping[str, Any]) -> str:
    return ROW.format_map(flow)


def where(question: Mapping[str, object], socket: Path | None, *, as_json: bool) -> None:
    _check_address("CLIENT", question["client"])
    answer = Client(socket).get("/v1/where", **question)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    if answer["backend"]:
        typer.echo(f"{answer['client']} -> {answer['vip']}: {_backend(answer)}")
        typer.echo(f"  rung {answer['rung']}: {RUNGS[answer['rung']]}")
    else:
        typer.echo(f"{answer['client']} -> {answer['vip']}: {_undecided(answer)}")
    if answer["slot"] is not None:
        typer.echo(f"  slot {answer['slot']}, home {answer['home'] or 'nobody'}")
    for flow in answer["flows"]:
        typer.echo(
            f"  port {flow['client_port']} -> {flow['vip_port']}: {flow['backend']}, "
            f"{flow['life']}, idle {flow['idle_s']} s"
        )


def _check_address(where: str, text: object) -> None:
    try:
        ip_address(str(text))
    except ValueError:
        raise typer.BadParameter(
            f"{where}: {text!r} is not an IP address; write one, as in 10.0.0.7 or 2001:db8::7"
        ) from None


def _backend(answer: Json) -> str:
    return f"{answer['backend']} ({answer['address']})" if answer["address"] else answer["backend"]


def _undecided(answer: Json) -> str:
    if answer["flows"]:
        return "its flows are at several backends"
    if answer["slot"] is None:
        return "depends on the ports: say --port and --client-port"
    return "nobody: no backend is eligible"
