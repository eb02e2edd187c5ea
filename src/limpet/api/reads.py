# SPDX-License-Identifier: Apache-2.0
"""Routes of reads: they turn HTTP into calls of `Director` that change nothing, and back.

What the director answers is sent as it is (api/models.py says why). Lists that may be long are
streamed, one JSON object a line.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from limpet.api import gate, models, models_change, models_intent
from limpet.api.audit import ENTRIES_MAX, Audit
from limpet.api.interface import Director, FlowPage, FlowQuery, Question, SessionQuery
from limpet.core.errors import ConfigError, Problem

Limit = Annotated[int, Query(ge=0)]
Port = Annotated[int | None, Query(ge=0, le=65_535)]


class Lines(StreamingResponse):
    """One JSON object a line: first {"total"}, then what the schema says."""

    media_type = "application/x-ndjson"


def add_state(router: APIRouter, director: Director) -> None:
    """What the director is and does."""

    @router.get("/v1/status", response_model=models.Status)
    async def status() -> JSONResponse:
        return JSONResponse(await director.status())

    @router.get("/v1/vips", response_model=list[models.Vip])
    async def vips() -> JSONResponse:
        return JSONResponse(await director.vips())

    @router.get("/v1/pools", response_model=list[models.Pool])
    async def pools() -> JSONResponse:
        return JSONResponse(await director.pools())

    @router.get("/v1/backends", response_model=list[models.Backend])
    async def backends() -> JSONResponse:
        return JSONResponse(await director.backends())

    @router.get("/v1/counters", response_model=models.Counters)
    async def counters() -> JSONResponse:
        return JSONResponse(await director.counters())

    @router.get("/v1/health", response_model=list[models.Health])
    async def health() -> JSONResponse:
        """What the health checks say; backends without a check are not in it."""
        return JSONResponse(await director.health())


def add_clients(router: APIRouter, director: Director) -> None:
    """Flows and sessions."""

    @router.get("/v1/flows", response_class=Lines, responses={200: {"model": models.Flow}})
    async def flows(
        vip: str = "", backend: str = "", client: str = "", limit: Limit = 100, count: bool = False
    ) -> Lines:
        """One JSON object a line: first {"total"}, then the flows. `limit` 0 is all."""
        return _lines(await director.flows(FlowQuery(vip, backend, client, limit)), count)

    @router.get("/v1/sessions", response_class=Lines, responses={200: {"model": models.Session}})
    async def sessions(
        vip: str = "", backend: str = "", client: str = "", limit: Limit = 100, count: bool = False
    ) -> Lines:
        """One JSON object a line: first {"total"}, then the sessions. `limit` 0 is all."""
        return _lines(await director.sessions(SessionQuery(vip, backend, client, limit)), count)

    @router.get("/v1/sources", response_model=list[models.Source])
    async def sources(vip: str = "", limit: Limit = 20) -> JSONResponse:
        """The clients with the most flows. `limit` 0 is all that are known."""
        return JSONResponse(await director.sources(vip, limit))

    @router.get("/v1/where", response_model=models.Where)
    async def where(
        client: str,
        vip: str,
        client_port: Port = None,
        vip_port: Port = None,
        protocol: str | None = None,
    ) -> JSONResponse:
        """To which backend packets of a client go, and why."""
        question = Question(client, vip, client_port, vip_port, protocol)
        return JSONResponse(await director.where(question))


def add_intents(router: APIRouter, director: Director) -> None:
    """What people want, and wanted."""

    @router.get("/v1/drains", response_model=list[models_intent.Drain])
    async def drains() -> JSONResponse:
        return JSONResponse(await director.drains())

    @router.get("/v1/intents", response_model=models_intent.Intents)
    async def intents() -> JSONResponse:
        """Its ETag is what If-Match of a change compares with."""
        return tagged(await director.intents())

    @router.get("/v1/history", response_model=list[models_intent.Revision])
    async def history(limit: Limit = 20) -> JSONResponse:
        """Revisions of the intents, the newest first. `limit` 0 is all."""
        return JSONResponse(await director.history(limit))

    @router.get("/v1/diff", response_model=models_intent.Diff)
    async def diff() -> JSONResponse:
        """What the file says, what intents change of it, and what comes out."""
        return JSONResponse(await director.diff())

    @router.post(
        "/v1/plan",
        response_model=models_change.Plan,
        openapi_extra={"requestBody": {"required": True, "content": {"application/toml": {}}}},
    )
    async def plan(request: Request) -> JSONResponse:
        """What a configuration would change. The body is the text of the file."""
        return JSONResponse(await director.plan(text_of(await request.body())))


def add_audit(router: APIRouter, audit: Audit) -> None:
    """Who changed what. Not for every viewer: it says who else there is."""

    @router.get(
        "/v1/audit",
        response_model=list[models_intent.AuditEntry],
        dependencies=[Depends(gate.operator)],
    )
    async def entries(
        limit: Annotated[int, Query(ge=1, le=ENTRIES_MAX)] = 100,
    ) -> JSONResponse:
        """Changes and refusals, the newest first."""
        return JSONResponse(await asyncio.to_thread(audit.read, limit))


def tagged(answer: dict[str, Any], status: int = 200) -> JSONResponse:
    """An answer whose revision is also its ETag."""
    return JSONResponse(answer, status, {"ETag": f'"{answer["revision"]}"'})


def _lines(page: FlowPage, only_count: bool) -> Lines:
    return Lines(iterate_in_threadpool(_texts(page, only_count)))


def _texts(page: FlowPage, only_count: bool) -> Iterator[str]:
    yield json.dumps(models.Total(total=page.total).model_dump()) + "\n"
    if not only_count:
        yield from page.batches


def text_of(body: bytes) -> str:
    """A configuration that came as bytes. Raises ConfigError if it is no text."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start}"
        raise ConfigError([Problem("the configuration", why, "save it as UTF-8")]) from error
