# SPDX-License-Identifier: Apache-2.0
"""`limpet backend drain` and `undrain`.

Before it asks the daemon, a drain looks for what an operator may have overlooked: a name that does
not exist, a drain that is on already, a pool that would have nobody left for new sessions. The
last needs --force, because it is what a tired operator does not mean. Who drains a backend again
with other terms keeps those that he does not name.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client
from limpet.cli import duration, names
from limpet.cli.show import population
from limpet.core.errors import Conflict, NotFound

if TYPE_CHECKING:
    from limpet.api.interface import Json


@dataclass(frozen=True, slots=True)
class Terms:
    """How to drain. None: not said."""

    deadline_s: float | None = None
    at_deadline: str | None = None
    rule: str | None = None

    @property
    def are_said(self) -> bool:
        return (self.deadline_s, self.at_deadline, self.rule) != (None, None, None)

    def over(self, running: "Json | None") -> "Json":
        """As the API wants them; what is not said stays as in the drain that is on."""
        found: Json = {"rule": None, "deadline_s": None, "at_deadline": "keep"}
        if running:
            found |= {"rule": running["rule"], "at_deadline": running["at_deadline"]}
            if running["deadline"] is not None:
                left_s = duration.unix(running["deadline"]) - time.time()
                found["deadline_s"] = max(0.0, left_s)
        if self.at_deadline == "reset" and self.deadline_s is None and found["deadline_s"] is None:
            raise typer.BadParameter(
                "--at-deadline reset needs a --deadline: without one nobody is ever reset, and the "
                "drain lasts until the last one has gone"
            )
        said = {"rule": self.rule, "deadline_s": self.deadline_s, "at_deadline": self.at_deadline}
        return found | {key: value for key, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be drained, how, and under which conditions."""

    backend: str
    terms: Terms
    is_forced: bool = False
    if_revision: int | None = None


def preview(order: Order, socket: Path | None, *, as_json: bool) -> None:
    client = Client(socket)
    lonely = _lonely(client, order.backend)
    body = order.terms.over(find(client, order.backend))
    answer = client.put(_path(order.backend), body, dry_run="true")
    if as_json:
        typer.echo(json.dumps(answer | {"last_active_in": lonely}, indent=2))
        return
    typer.echo(answer["summary"])
    if lonely:
        typer.echo(f"warning: {_refusal(order.backend, lonely)}", err=True)


def drain(order: Order, socket: Path | None, *, is_waiting: bool, as_json: bool) -> None:
    client = Client(socket)
    lonely = _lonely(client, order.backend)
    running = find(client, order.backend)
    if running and not order.terms.are_said:
        _say(f"{_already(running)}; nothing was changed", as_json=as_json)
        answer: Json = {**running, "is_changed": False}
    else:
        if lonely and not order.is_forced:
            raise Conflict(f"{_refusal(order.backend, lonely)}; nothing was changed")
        body = order.terms.over(running)
        answer = client.put(_path(order.backend), body, if_revision=order.if_revision)
        if running:
            _say(f"{_already(running)}; its terms are changed", as_json=as_json)
        answer = {**answer, "backend": order.backend, "is_changed": True}
        _say(_begun(answer, find(client, order.backend)), as_json=as_json)
    if is_waiting:
        from limpet.cli import progress

        progress.wait(client, order.backend, as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(answer, indent=2))


def undrain(name: str, socket: Path | None, if_revision: int | None, *, as_json: bool) -> None:
    client = Client(socket)
    drains = {row["backend"]: row for row in client.get("/v1/drains")}
    if name not in drains:
        names.require("backend", name, [row["name"] for row in client.get("/v1/backends")])
        others = f"; these are: {', '.join(sorted(drains))}" if drains else "; no backend is"
        raise NotFound(f"{name} is not being drained{others}")
    answer = client.delete(_path(name), if_revision=if_revision)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(f"{name} is active again: the drain of {_origin(drains[name])} is taken back")
    _why_not_yet(client, name)


def find(client: Client, backend: str) -> "Json | None":
    """The drain of a backend."""
    rows: list[Json] = client.get("/v1/drains")
    return next((row for row in rows if row["backend"] == backend), None)


def _path(backend: str) -> str:
    return f"/v1/backends/{backend}/drain"


def _lonely(client: Client, name: str) -> list[str]:
    """Pools in which nobody but this backend gets new sessions. NotFound if it is unknown."""
    rows: list[Json] = client.get("/v1/backends")
    names.require("backend", name, [row["name"] for row in rows])
    active: dict[str, set[str]] = {}
    for row in rows:
        for pool in row["pools"]:
            if pool["effective_weight"]:
                active.setdefault(pool["pool"], set()).add(row["name"])
    return sorted(pool for pool, members in active.items() if members == {name})


def _refusal(name: str, pools: list[str]) -> str:
    of = f"pool {pools[0]}" if len(pools) == 1 else f"pools {', '.join(pools)}"
    return (
        f"{name} is the last active backend of {of}: while it drains, new sessions there are "
        "refused (live ones stay). Activate or add another one first, or use --force"
    )


def _origin(drain: "Json") -> str:
    return f"{duration.moment(drain['began'])} by {drain['by']}"


def _already(drain: "Json") -> str:
    what = "has been drained" if drain["state"] == "drained" else "is being drained already"
    return f"{drain['backend']} {what}, since {_origin(drain)}"


def _begun(answer: "Json", drain: "Json | None") -> str:
    name = answer["backend"]
    if drain is None:
        return f"{name} drains (revision {answer['revision']})"
    text = f"{name} drains: {population(drain)} are there"
    if drain["deadline"] is not None:
        then = "are reset" if drain["at_deadline"] == "reset" else "are kept"
        text += f"; those left at {duration.moment(drain['deadline'])} {then}"
    return f"{text} (revision {answer['revision']}; `limpet backend undrain {name}` takes it back)"


def _why_not_yet(client: Client, name: str) -> None:
    """An active backend may get nothing all the same: it is down, or weighs 0."""
    for row in client.get("/v1/backends"):
        if row["name"] == name and row["why_no_new_sessions"]:
            typer.echo(f"no new sessions yet: {'; '.join(row['why_no_new_sessions'])}")


def _say(text: str, *, as_json: bool) -> None:
    if not as_json:
        typer.echo(text)
