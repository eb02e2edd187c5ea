# SPDX-License-Identifier: Apache-2.0
"""`limpet pop`: see the PoPs, take one out of service for its routers, and put it back."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from limpet.api.client import Client, place
from limpet.cli.options import AsJson, Revision, Socket

if TYPE_CHECKING:
    from limpet.api.interface import Json

POLL_S = 0.25
TAKEN_BACK = 8  # as of a backend's drain
app = typer.Typer(
    help="See PoPs; drain them: routers send their clients elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the PoP.")]


@app.command("list")
def list_(socket: Socket = None, as_json: AsJson = False) -> None:
    """List the directors of the cluster by PoP: what each runs, and where it differs."""
    from limpet.cli import pops

    pops.show(socket, as_json=as_json)


@app.command()
def drain(
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="End when this director announces nothing any more.")
    ] = False,
    if_revision: Revision = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Ask routers to move traffic (graceful shutdown), then withdraw the VIPs of a PoP.

    A VIP is withdrawn when no packets come any more, at the latest after drain_s of [bgp]. Sessions
    stay where they are: other PoPs forward their packets to the same backends.

    With --wait: status 0 when all are withdrawn, 8 if the drain was taken back meanwhile. Ctrl-C
    ends the waiting, not the drain.
    """
    client = Client(socket)
    answer = client.put(place("pops", name, "drain"), {}, if_revision=if_revision)
    if not as_json:
        typer.echo(
            f"PoP {name} drains (revision {answer['revision']}; `limpet pop undrain {name}` takes "
            "it back)"
        )
    if wait:
        _wait(client, name, as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(answer, indent=2))


@app.command()
def undrain(
    name: Name, if_revision: Revision = None, socket: Socket = None, as_json: AsJson = False
) -> None:
    """Announce the VIPs of a PoP again."""
    answer = Client(socket).delete(place("pops", name, "drain"), if_revision=if_revision)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"PoP {name} announces its VIPs again (revision {answer['revision']})")


def _wait(client: Client, name: str, *, as_json: bool) -> None:
    before: list[str] = []
    time.sleep(POLL_S)
    while True:
        found = client.get("/v1/routes")
        if found["pop"] == name and found["drained_by"] is None:
            typer.echo("the drain was taken back", err=True)
            sys.exit(TAKEN_BACK)
        left = _left(found)
        if not left:
            break
        if left != before and not as_json:
            typer.echo(f"still announced: {', '.join(left)}")
        before = left
        time.sleep(POLL_S)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found["pop"] == name:
        typer.echo(f"PoP {name} is drained: this director announces nothing")
    else:
        typer.echo(f"this director stands in PoP {found['pop']!r}: ask one of {name} how it does")


def _left(found: "Json") -> list[str]:
    """Addresses that are announced, or that routers are still told of."""
    if found["drained_by"] is None:
        return []
    return [row["address"] for row in found["routes"] if row["state"] != "withdrawn" or row["told"]]
