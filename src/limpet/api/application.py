# SPDX-License-Identifier: Apache-2.0
"""Application: the routes of the API. Thin: they turn HTTP into calls of `Director`, and back."""

import json
from collections.abc import Iterator
from typing import Annotated

import structlog
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from limpet import __version__
from limpet.api import problem
from limpet.api.interface import Director, FlowPage, FlowQuery, Json, Question
from limpet.core.errors import LimpetError

TEXT_MAX = 16 << 20  # bytes of a configuration
NDJSON = "application/x-ndjson"
log = structlog.get_logger()


def application(director: Director) -> FastAPI:
    """The API of one director."""
    app = FastAPI(title="limpet director", version=__version__, openapi_url="/v1/openapi.json")
    app.add_exception_handler(LimpetError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(Exception, _on_bug)
    _add_reads(app, director)
    _add_flows(app, director)
    _add_writes(app, director)
    return app


def _add_reads(app: FastAPI, director: Director) -> None:
    @app.get("/v1/status")
    async def status() -> Json:
        return await director.status()

    @app.get("/v1/vips")
    async def vips() -> list[Json]:
        return await director.vips()

    @app.get("/v1/pools")
    async def pools() -> list[Json]:
        return await director.pools()

    @app.get("/v1/backends")
    async def backends() -> list[Json]:
        return await director.backends()

    @app.get("/v1/counters")
    async def counters() -> Json:
        return await director.counters()


def _add_flows(app: FastAPI, director: Director) -> None:
    port = Query(ge=0, le=65_535)

    @app.get("/v1/flows")
    async def flows(
        vip: str = "",
        backend: str = "",
        client: str = "",
        limit: Annotated[int, Query(ge=0)] = 100,
        count: bool = False,
    ) -> StreamingResponse:
        """One JSON object a line: first {"total"}, then the flows. `limit` 0 is all."""
        page = await director.flows(FlowQuery(vip, backend, client, limit))
        lines = _lines(page, only_count=count)
        return StreamingResponse(iterate_in_threadpool(lines), media_type=NDJSON)

    @app.get("/v1/where")
    async def where(
        client: str,
        vip: str,
        client_port: Annotated[int | None, port] = None,
        vip_port: Annotated[int | None, port] = None,
        protocol: str | None = None,
    ) -> Json:
        return await director.where(Question(client, vip, client_port, vip_port, protocol))


def _add_writes(app: FastAPI, director: Director) -> None:
    @app.post("/v1/reload")
    async def reload() -> Json:
        return await director.reload()

    @app.post("/v1/plan")
    async def plan(request: Request) -> Json:
        """The body is the text of a configuration file."""
        body = await request.body()
        if len(body) > TEXT_MAX:
            raise LimpetError(f"a configuration of {len(body)} bytes is over {TEXT_MAX}")
        return await director.plan(body.decode("utf-8", errors="replace"))

    @app.post("/v1/shutdown", status_code=202)
    async def shutdown() -> Json:
        director.shutdown()
        return {"stopping": True}


def _lines(page: FlowPage, *, only_count: bool) -> Iterator[str]:
    yield json.dumps({"total": page.total}) + "\n"
    if not only_count:
        yield from page.batches


async def _on_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LimpetError)
    details = problem.encode(error)
    return JSONResponse(details, details["status"], media_type=problem.MEDIA_TYPE)


async def _on_bad_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    reasons = (f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    details = {
        "type": problem.PREFIX + "other",
        "title": "the request is malformed",
        "status": 400,
        "detail": f"{request.url.path}: " + "; ".join(reasons),
    }
    return JSONResponse(details, 400, media_type=problem.MEDIA_TYPE)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("bug in a request", path=request.url.path, exc_info=error)
    details = {
        "type": problem.PREFIX + "other",
        "title": "a bug in limpet",
        "status": 500,
        "detail": f"{type(error).__name__}: {error}; the daemon's log says more",
    }
    return JSONResponse(details, 500, media_type=problem.MEDIA_TYPE)
