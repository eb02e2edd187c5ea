# SPDX-License-Identifier: Apache-2.0
"""`limpet flows`, `sessions` and `where`: single clients. Rows are printed as they come, so that a
million need no memory here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import typer

from limpet.api.client import Client
from limpet.api.interface import Json
from limpet.cli import names
from limpet.cli.duration import said


@dataclass(frozen=True, slots=True)
class Kind:
    """What is listed, and how a row of it looks."""

    name: str  # also of the route and of the key of the JSON
    columns: tuple[str, ...]
    row: str


FLOWS = Kind(
    "flows",
    ("client", "client_port", "vip", "vip_port", "backend", "life", "idle_s"),
    "{client:<39}  {client_port:<11}  {vip:<16}  {vip_port:<8}  {backend:<16}  {life:<11}  "
    "{idle_s}\n",
)
SESSIONS = Kind(
    "sessions",
    ("client", "ports", "vip", "backend", "life", "flows", "idle_s", "since_s"),
    "{client:<39}  {ports:<11}  {vip:<16}  {backend:<16}  {life:<8}  {flows:>6}  {idle_s:>8}  "
    "{since_s:>9}\n",
)


def listed(kind: Kind, query: Mapping[str, object], socket: Path | None, *, as_json: bool) -> None:
    if query["client"]:
        _check_address("--client", query["client"])
    client = Client(socket)
    lines = client.lines(f"/v1/{kind.name}", **query)
    with names.explained(client, query["vip"], query["backend"]):
        total = json.loads(next(lines))["total"]
    if query["count"]:
        typer.echo(json.dumps({"total": total}) if as_json else total)
    elif as_json:
        _print_json(kind, total, lines)
    else:
        _print_rows(kind, total, lines)


def _print_json(kind: Kind, total: int, lines: Iterator[bytes]) -> None:
    write = typer.get_text_stream("stdout").write
    write(f'{{"total": {total}, "{kind.name}": [')
    for place, flow in enumerate(lines):
        write((",\n" if place else "\n") + flow.decode())
    write("\n]}\n")


def _print_rows(kind: Kind, total: int, lines: Iterator[bytes]) -> None:
    write = typer.get_text_stream("stdout").write
    write(kind.row.format_map(dict(zip(kind.columns, kind.columns, strict=True))))
    shown = 0
    for line in lines:
        write(kind.row.format_map(json.loads(line)))
        shown += 1
    if shown < total:
        typer.echo(f"{shown} of {total} {kind.name}; --limit 0 shows all", err=True)


def where(question: Mapping[str, object], socket: Path | None, *, as_json: bool) -> None:
    _check_address("CLIENT", question["client"])
    client = Client(socket)
    with names.explained(client, question["vip"]):
        answer = client.get("/v1/where", **question)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    for line in _where(answer):
        typer.echo(line)


def _where(answer: Json) -> Iterator[str]:
    yield f"{answer['client']} -> {answer['vip']}: {_backend(answer)}"
    yield f"  rung {answer['rung']}: {answer['why']}"
    if answer["slot"] is not None:
        yield f"  slot {answer['slot']}, home {answer['home'] or 'nobody'}"
    for session in _sessions(answer):
        yield f"  {session}"
    for flow in answer["flows"]:
        yield (
            f"  port {flow['client_port']} -> {flow['vip_port']}: {flow['backend']}, "
            f"{flow['life']}, idle {flow['idle_s']} s"
        )


def _sessions(answer: Json) -> Iterator[str]:
    """The sessions that the client has there; those of a mega-proxy are of ranges of its ports."""
    for row in answer["sessions"]:
        ports = f" ports {row['ports']}" if row["ports"] else ""
        flows = f"{row['flows']} flow" + ("" if row["flows"] == 1 else "s")
        yield (
            f"session of {row['client']}{ports}: {row['backend']}, {row['life']}, "
            f"{flows}, idle {row['idle_s']} s, since {said(row['since_s'])}"
        )


def _check_address(where: str, text: object) -> None:
    try:
        ip_address(str(text))
    except ValueError:
        raise typer.BadParameter(
            f"{where}: {text!r} is not an IP address; write one, as in 10.0.0.7 or 2001:db8::7"
        ) from None


def _backend(answer: Json) -> str:
    if answer["backend"]:
        name: str = answer["backend"]
        return f"{name} ({answer['address']})" if answer["address"] else name
    if answer["flows"]:
        return "its flows are at several backends"
    if answer["rung"] == "home_new" and answer["slot"] is not None:
        return "nobody: no backend is eligible"
    if answer["rung"] == "home_new":
        return "depends on the ports: say --port and --client-port"
    return "cannot be told beforehand"
