# SPDX-License-Identifier: Apache-2.0
"""`limpet token`: secrets for the API over TCP. Needs no daemon, and stores nothing."""

import json
import sys
from typing import Annotated, Literal

import typer

from limpet.cli.options import AsJson

app = typer.Typer(
    help="Tokens for the API over TCP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def tokens() -> None:
    """Tokens for the API over TCP."""


@app.command()
def new(
    role: Annotated[
        Literal["viewer", "operator"], typer.Argument(metavar="ROLE", help="viewer or operator.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets it; the audit names it.")],
    as_json: AsJson = False,
) -> None:
    """Make a secret, shown this once, and the line for the tokens file, which is no secret.

    Only the line goes to standard output, so that it can be appended to the file.
    """
    from limpet.api.tokens import NAME, new_token

    if not NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is not a name: write up to 64 of A-Z a-z 0-9 . _ @ -, beginning with a "
            "letter or digit"
        )
    secret, line = new_token(role, name)
    if as_json:
        typer.echo(json.dumps({"role": role, "name": name, "secret": secret, "line": line}))
        return
    typer.echo(f"secret of {name}, shown only now:\n\n    {secret}\n", err=True)
    if sys.stdout.isatty():
        typer.echo("append this line to the file that [api] tokens names, then reload:\n", err=True)
    typer.echo(line)
