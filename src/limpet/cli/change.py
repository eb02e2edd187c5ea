# SPDX-License-Identifier: Apache-2.0
"""Commands about a configuration: check, plan, reload; and down, the end of it all."""

import contextlib
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from limpet.api.client import Client
from limpet.api.interface import Json
from limpet.core.errors import ConfigError, Unreachable, unreadable

if TYPE_CHECKING:
    from limpet.core.model import Desired


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error


def _print(answer: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(answer["summary"])


def check(file: Path, *, as_json: bool) -> None:
    """Every problem in the file, then what of this machine does not fit it."""
    from limpet.daemon.machine import warnings

    try:
        desired = _desired(_read(file), str(file))
    except ConfigError as error:
        if as_json:
            problems = [{"where": p.where, "why": p.why, "mend": p.mend} for p in error.problems]
            typer.echo(json.dumps({"ok": False, "problems": problems, "warnings": []}, indent=2))
            sys.exit(error.exit_status)
        raise
    found = warnings(desired) if desired.director.interfaces else []
    if as_json:
        typer.echo(json.dumps({"ok": True, "problems": [], "warnings": found}, indent=2))
        return
    for warning in found:
        typer.echo(f"warning: {warning}", err=True)
    kinds = (("VIP", desired.vips), ("pool", desired.pools), ("backend", desired.backends))
    counts = (f"{len(each)} {kind}" + ("" if len(each) == 1 else "s") for kind, each in kinds)
    typer.echo(f"{file}: good. {', '.join(counts)}")


def _desired(text: str, source: str) -> "Desired":
    """Of the shared document of a cluster, without a director: it has no interfaces."""
    from limpet.core.config import is_shared, parse, parse_shared
    from limpet.core.model import Cluster, Desired, Director

    if not is_shared(text):
        return parse(text, source)
    pops = tomllib.loads(text).get("pop", [])
    is_named = isinstance(pops, list) and pops and isinstance(pops[0], dict)
    pop = pops[0].get("name", "") if is_named else "any"
    own = Cluster("any", listen="192.0.2.1:1", key_file="any")
    nobody = Desired(Director("any", ("any",), pop=str(pop)), cluster=own)
    found = parse_shared(text, nobody, source)
    return replace(found, director=replace(found.director, interfaces=()))


def plan(file: Path, socket: Path | None, state: Path | None, *, as_json: bool) -> None:
    """By the daemon; without one, by what it left in the kernel and in its state file.

    Of a member of a cluster: its own file, or the document that all of them serve.
    """
    from limpet.core.config import is_shared, parse

    text = _read(file)
    if is_shared(text):
        apply_dry(file, socket, as_json=as_json)
        return
    parse(text, str(file))  # problems name the file as it is called here
    with contextlib.suppress(Unreachable):
        _print(Client(socket).post("/v1/plan", text), as_json=as_json)
        return
    from limpet.daemon.offline import plan as plan_offline

    typer.echo("no daemon answers; planned from the kernel and the state file", err=True)
    _print(plan_offline(text, str(file), state), as_json=as_json)


def apply(file: Path, socket: Path | None, if_revision: int | None, *, as_json: bool) -> None:
    """By any director of the cluster, for all of them."""
    answer = Client(socket).post("/v1/apply", _read(file), if_revision=if_revision)
    _print(answer, as_json=as_json)
    if as_json:
        return
    if answer["is_new"]:
        where = "in effect here" if answer["in_effect"] else "kept; not in effect here yet"
        typer.echo(f"revision {answer['revision']}, {where} (limpet pop list shows all directors)")
    else:
        typer.echo(f"nothing was changed: revision {answer['revision']} says the same")


def apply_dry(file: Path, socket: Path | None, *, as_json: bool) -> None:
    """What it would change at the director that is asked."""
    answer = Client(socket).post("/v1/plan", _read(file))
    if as_json or answer["changes"]:
        _print(answer, as_json=as_json)
    else:
        typer.echo("nothing would change but the text of the document")


def reload(socket: Path | None, *, as_json: bool) -> None:
    answer = Client(socket).post("/v1/reload")
    if not as_json and answer["program_replaced"]:
        typer.echo("the program was replaced, with new settings")
    _print(answer, as_json=as_json)


def down(name: str, socket: Path | None, *, as_json: bool) -> None:
    from limpet.api.places import director, directors, find_name, places
    from limpet.daemon.down import down as take_down

    where = places(director(name) if name else find_name(), socket)
    done = take_down(where)
    answer: Json = {"director": where.name, "removed": done, "state": str(where.state_file)}
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif done:
        typer.echo(f"director {where.name} is out of the kernel")
    else:
        others = ", ".join(directors())
        typer.echo(
            f"director {where.name} had nothing in the kernel"
            + (f"; these have: {others}" if others else "")
        )
