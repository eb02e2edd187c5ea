# SPDX-License-Identifier: Apache-2.0
"""`limpet backend weight`: a weight over that of the configuration file, until it is taken back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from limpet.api.client import Client
from limpet.cli import names
from limpet.core.errors import Conflict

if TYPE_CHECKING:
    from limpet.api.interface import Json

WEIGHT_MAX = 65_535  # as core.model has it, which costs the start of numpy


@dataclass(frozen=True, slots=True)
class Order:
    """Which weight is to be what."""

    backend: str
    pool: str  # empty: the only one it is in
    weight: int | None
    is_reset: bool = False
    if_revision: int | None = None


def weigh(order: Order, socket: Path | None, *, as_json: bool) -> None:
    _check(order)
    client = Client(socket)
    pool = _pool(client, order)
    path = f"/v1/pools/{pool}/backends/{order.backend}/weight"
    if order.is_reset:
        answer = client.delete(path, if_revision=order.if_revision)
    else:
        answer = client.put(path, {"weight": order.weight}, if_revision=order.if_revision)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    what = "that of the file" if order.is_reset else str(order.weight)
    typer.echo(f"weight of {order.backend} in pool {pool}: {what} (revision {answer['revision']})")


def _check(order: Order) -> None:
    if order.is_reset == (order.weight is not None):
        raise typer.BadParameter("say a WEIGHT, or --reset to go back to that of the file")
    if order.weight is not None and not 0 <= order.weight <= WEIGHT_MAX:
        raise typer.BadParameter(
            f"weight {order.weight} is beyond 0 to {WEIGHT_MAX}; weights count relative to "
            "those of the pool's other backends"
        )


def _pool(client: Client, order: Order) -> str:
    pools: list[Json] = client.get("/v1/pools")
    if order.pool:
        names.require("pool", order.pool, [pool["name"] for pool in pools])
        members = next(p["backends"] for p in pools if p["name"] == order.pool)
        inside = f" in pool {order.pool}"
        names.require("backend", order.backend, [member["name"] for member in members], inside)
        return order.pool
    everyone = {member["name"] for pool in pools for member in pool["backends"]}
    names.require("backend", order.backend, everyone)
    found = [p["name"] for p in pools if order.backend in {m["name"] for m in p["backends"]}]
    if len(found) > 1:
        raise Conflict(f"{order.backend} is in pools {', '.join(found)}: say --pool")
    name: str = found[0]
    return name
