# SPDX-License-Identifier: Apache-2.0
"""Errors of requests become problem details, whatever raised them.

What limpet raises on purpose keeps its words. A request that does not fit its route says which
parameter is wrong. A bug is logged with its traceback, and the caller is told that it is one.
"""

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from limpet.api.gate import problem_response
from limpet.api.problem import MEDIA_TYPE, Malformed, encode
from limpet.core.errors import LimpetError, NotFound

log = structlog.get_logger()


def handle(app: FastAPI) -> None:
    """Let every error of the application be answered here."""
    app.add_exception_handler(LimpetError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LimpetError)
    request.state.why = str(error)
    return problem_response(error)


async def _on_bad_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    reasons = (f"{_place(e['loc'])}: {e['msg']}" for e in error.errors())
    return await _on_error(request, Malformed(f"{request.url.path}: " + "; ".join(reasons)))


def _place(where: tuple[object, ...]) -> str:
    """Where in a request: the parameter, or the place in the body."""
    return ".".join(str(part) for part in where[1:]) or str(where[0])


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """No such route, or not with that method."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}: {error.detail}"
    known = "GET /v1/openapi.json lists what there is"
    if error.status_code == 404:
        return await _on_error(request, NotFound(f"{asked}; {known}"))
    request.state.why = asked
    details = encode(Malformed(f"{asked}; {known}")) | {"status": error.status_code}
    return JSONResponse(details, error.status_code, error.headers, MEDIA_TYPE)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("bug in a request", path=request.url.path, exc_info=error)
    told = f"a bug in limpet: {type(error).__name__}: {error}; the daemon's log says more"
    return await _on_error(request, LimpetError(told))
