# SPDX-License-Identifier: Apache-2.0
"""`limpet director`: take a director that is gone for good out of its cluster."""

import json
from typing import Annotated

import typer

from limpet.api.client import Client, place
from limpet.cli.options import AsJson, Socket

app = typer.Typer(
    help="Directors of the cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def directors() -> None:
    """Directors of the cluster."""


@app.command()
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The director, by `limpet pop list`.")
    ],
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Forget a director that will not come back, so that nothing is kept for it any more.

    Stop it first: one that reports is there. Not needed for one that is replaced under its name.
    """
    answer = Client(socket).delete(place("directors", name))
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"director {name} is out of the cluster (limpet pop list shows who is in it)")
