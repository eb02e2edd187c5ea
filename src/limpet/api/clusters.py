# SPDX-License-Identifier: Apache-2.0
"""Routes of a cluster: the document that all its directors serve, and how far each of them is."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from limpet.api import models_change
from limpet.api.changes import Expected, noted
from limpet.api.interface import Director
from limpet.api.models import Model
from limpet.api.reads import tagged, text_of


class Applied(models_change.Changed):
    """The shared document was changed, or was so already."""

    in_effect: bool = Field(
        description="it is in the kernel of the director that was asked; else it will be"
    )
    is_new: bool = Field(description="else the document was the same already, to the letter")


class Removed(Model):
    """A director that the cluster knows no more."""

    director: str
    removed: bool


class Member(Model):
    """A director, as it reported last."""

    name: str
    pop: str
    listen: str = Field(description="where other directors ask it whose a flow is")
    software: str = Field(description="version of limpet")
    revision: int = Field(description="of what people want, in effect there")
    generation: int = Field(description="of the tables that it runs")
    digest: str = Field(description="of all ids and tables of that generation")
    preparing: int | None = Field(description="generation that it has told its exceptions for")
    reachable: bool = Field(description="it reported within the last 5 seconds")
    reported_s_ago: float
    lag: int = Field(description="batches of others' logs that it has not loaded yet")
    differences: list[str] = Field(description="in what it is not where the cluster is")
    condition: list[str] = Field(description="what it finds wrong with itself")
    is_leader: bool
    bypassed: list[str] = Field(description="pools whose table there is not the agreed one")


class PopOf(Model):
    """The directors of one PoP."""

    pop: str
    drained_by: str | None = Field(description="who drains the PoP; null: nobody")
    directors: list[Member]


class Pops(Model):
    """The cluster."""

    cluster: str = Field(description="empty: this director stands alone")
    revision: int
    generation: int
    digest: str
    preparing: int | None = Field(description="generation that is being prepared")
    changed_by: str
    changed: str
    what: str
    degraded: list[str] = Field(description="what is wrong, as the director that was asked sees it")
    pops: list[PopOf]


def add_reads(router: APIRouter, director: Director) -> None:
    """How far everybody is."""

    @router.get("/v1/pops", response_model=Pops)
    async def pops() -> JSONResponse:
        """PoPs, their directors, and what each of them runs."""
        return JSONResponse(await director.pops())


def add_changes(router: APIRouter, director: Director) -> None:
    """The shared document."""

    @router.post(
        "/v1/apply",
        response_model=Applied,
        openapi_extra={"requestBody": {"required": True, "content": {"application/toml": {}}}},
    )
    async def apply(request: Request, expected: Expected) -> JSONResponse:
        """Have all directors of the cluster serve this. The body is the text of the document."""
        text = text_of(await request.body())
        by = noted(request, {"bytes": len(text)})
        return tagged(await director.apply(text, by, expected))

    @router.delete("/v1/directors/{name}", response_model=Removed)
    async def remove(request: Request, name: str) -> JSONResponse:
        """Forget a director that is gone for good, and let go of the ids that are kept for it."""
        return JSONResponse(await director.remove_director(name, noted(request)))
