# SPDX-License-Identifier: Apache-2.0
"""Routes of what routers are told of the VIPs, and of drains of PoPs."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from limpet.api import models_change
from limpet.api.changes import Expected, noted
from limpet.api.interface import Director
from limpet.api.models import Model
from limpet.api.reads import tagged


class Told(Model):
    """A route as one receiver is told of it, read back from the speaker."""

    to: str = Field(description="a peer, or a table of the kernel")
    communities: list[str]
    med: int | None
    path: list[int] = Field(description="before the own AS number is put there at the border")


class Route(Model):
    """A VIP's address."""

    address: str
    vips: list[str]
    state: Literal["announced", "leaving", "withdrawn"]
    why: str
    communities: list[str] = Field(description="wanted")
    med: int | None
    prepend: int
    told: list[Told]


class Peer(Model):
    """A router."""

    name: str
    address: str
    asn: int
    is_up: bool
    state: str = Field(description="of the session, in the speaker's words")
    error: str
    routes: int = Field(description="that it is told of")


class Routes(Model):
    """What is announced, to whom, and why or why not."""

    speaker: Literal["bird", "kernel"] | None = Field(description="null: nobody is told")
    error: str = Field(description="of the last step; empty: it was good")
    speaker_pid: int | None
    bird_pid: int | None
    bird_restarts: int
    hold_s: int = Field(description="that routes stay without a daemon")
    pop: str
    drained_by: str | None = Field(description="who drains the PoP; null: nobody")
    routes: list[Route]
    peers: list[Peer]


def add_reads(router: APIRouter, director: Director) -> None:
    """What is announced."""

    @router.get("/v1/routes", response_model=Routes)
    async def routes() -> JSONResponse:
        """What routers are told of the VIPs of this director."""
        return JSONResponse(await director.routes())


def add_changes(router: APIRouter, director: Director) -> None:
    """Drain and undrain a PoP."""
    path = "/v1/pops/{pop}/drain"

    @router.put(path, response_model=models_change.Changed)
    async def drain_pop(request: Request, pop: str, expected: Expected) -> JSONResponse:
        """Its directors ask routers to move traffic, and then withdraw the VIPs."""
        return tagged(await director.drain_pop(pop, noted(request), expected))

    @router.delete(path, response_model=models_change.Changed)
    async def undrain_pop(request: Request, pop: str, expected: Expected) -> JSONResponse:
        """Its directors announce what they can serve again."""
        return tagged(await director.undrain_pop(pop, noted(request), expected))
