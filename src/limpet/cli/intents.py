# SPDX-License-Identifier: Apache-2.0
"""`limpet rollback` and `limpet diff`: intents as a whole, over what the file says."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client

if TYPE_CHECKING:
    from limpet.api.interface import Json


def rollback(revision: int, socket: Path | None, if_revision: int | None, *, as_json: bool) -> None:
    client = Client(socket)
    answer: Json = client.post_json("/v1/rollback", {"revision": revision}, if_revision=if_revision)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(
        f"the intents are those of revision {revision} again, as revision {answer['revision']}"
    )


def diff(socket: Path | None, *, as_json: bool) -> None:
    answer: Json = Client(socket).get("/v1/diff")
    typer.echo(json.dumps(answer, indent=2) if as_json else answer["summary"])
