# SPDX-License-Identifier: Apache-2.0
"""`limpet events`: what happens, as it happens.

One line an event, or one JSON object a line. A daemon that is restarted meanwhile is followed
again, from the last event that was seen on; what it cannot tell any more it calls lost.
"""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client
from limpet.cli.duration import moment
from limpet.core.errors import Unreachable

if TYPE_CHECKING:
    from limpet.api.interface import Json

RETRY_S = 1.0
HEAD = ("id", "at", "kind")
TERMS = ("began", "by", "rule", "deadline", "at_deadline", "sessions_at_start")  # said at its start
ENDED = (Unreachable, OSError, http.client.HTTPException)


def show(socket: Path | None, since: int | None, *, follows: bool, as_json: bool) -> None:
    client = Client(socket)
    source = _followed(client, since) if follows else client.events(since or 0, follow=False)
    is_empty = True
    for event in source:
        typer.echo(json.dumps(event) if as_json else _line(event))
        is_empty = False
    if is_empty and since is None and not as_json:
        typer.echo("nothing has happened since the daemon started; --follow waits for what does")


def _followed(client: Client, since: int | None) -> "Iterator[Json]":
    """Never ends. A daemon that does not answer at first is an error, later on it is waited for."""
    has_met = False
    while True:
        try:
            for event in client.events(since, follow=True):
                has_met = True
                since = event["id"]
                yield event
        except ENDED:
            if not has_met:
                raise
        time.sleep(RETRY_S)


def _line(event: "Json") -> str:
    hidden = HEAD + (TERMS if event["kind"] == "drain_progress" else ())
    known = {key: value for key, value in event.items() if key not in hidden and value is not None}
    rest = " ".join(f"{key}={_word(value)}" for key, value in known.items())
    return f"{moment(event['at'])}  {event['kind']:<14}  {rest}".rstrip()


def _word(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    first, *more = value.splitlines() or [""]
    text = f"{first} ..." if more else first
    return text if text and " " not in text else json.dumps(text)
