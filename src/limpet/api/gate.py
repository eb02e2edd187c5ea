# SPDX-License-Identifier: Apache-2.0
"""Gate: what every request passes, whatever its route: who asks, how much they send, the audit.

Nothing behind the gate is reached by somebody unknown. Every request that is not a read is written
to the audit log with its outcome, and so is every refusal; a route cannot forget it. Routes say
which role they need (`viewer`, `operator` below): all but reads need an operator.

Pure ASGI, because streams pass it too.
"""

import time
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limpet.api import problem
from limpet.api.access import Access, Caller, source
from limpet.api.audit import Audit
from limpet.api.interface import Json
from limpet.api.problem import Forbidden, Malformed, Unauthorized
from limpet.api.tokens import Role
from limpet.core.errors import LimpetError

BODY_MAX = 16 << 20  # bytes; a configuration of 4,095 backends has less than 1 MiB
OUTCOMES = {401: "refused", 403: "refused"}


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, access: Access, audit: Audit) -> None:
        self._app, self._access, self._audit = app, access, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        state: dict[str, Any] = scope["state"]
        state["access"] = self._access
        try:
            state["caller"] = self._access.caller(dict(scope))
        except LimpetError as error:
            await self._refuse(error, scope, receive, send)
            return
        if scope["method"] in ("GET", "HEAD"):
            state["is_read"] = True
        answer = _Answer(scope, send, self._note)
        try:
            await self._app(scope, _limited(receive), answer)
        finally:
            answer.note(0, None)  # if it has none: cut off, before anything was said

    async def _refuse(self, error: LimpetError, scope: Scope, receive: Receive, send: Send) -> None:
        details = problem.encode(error)
        entry = {"by": source(dict(scope)), "role": None, "from": source(dict(scope))}
        self._audit.write(
            {**entry, **_request(scope), "outcome": "refused", "status": details["status"]},
            is_stranger=True,
        )
        answer = problem_response(error)
        answer.headers["Connection"] = "close"
        await answer(scope, receive, send)

    def _note(self, scope: Scope, entry: Json) -> None:
        state, caller, status = scope["state"], scope["state"]["caller"], entry["status"]
        outcome = OUTCOMES.get(status, "done" if 0 < status < 400 else "failed")
        if state.get("is_read") and outcome != "refused":
            return
        who = {"by": caller.by, "role": str(caller.role), "from": caller.source}
        why = {"outcome": outcome, "why": state.get("why", "")}
        self._audit.write({**who, **_request(scope), **why, **entry})


class _Answer:
    """Passes an answer on, after the audit has what it wants of it: nobody hears of a change that
    is not written down."""

    def __init__(self, scope: Scope, send: Send, note: Callable[[Scope, Json], None]) -> None:
        self._scope, self._send, self._note = scope, send, note
        self._began, self._is_noted = time.monotonic(), False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            tag = dict(message["headers"]).get(b"etag", b"").strip(b'"')
            self.note(message["status"], int(tag) if tag.isdigit() else None)
        await self._send(message)

    def note(self, status: int, revision: int | None) -> None:
        """Once."""
        duration_ms = round((time.monotonic() - self._began) * 1e3, 1)
        if not self._is_noted:
            self._is_noted = True
            entry = {"status": status, "revision": revision, "duration_ms": duration_ms}
            self._note(self._scope, entry)


def _request(scope: Scope) -> Json:
    """What was asked for. `details` are what a route says of the body."""
    query = scope["query_string"].decode("latin-1")
    path = scope["path"] + (f"?{query}" if query else "")
    return {
        "method": scope["method"],
        "path": path[:1_000],
        "details": scope["state"].get("details", {}),
    }


def _limited(receive: Receive) -> Receive:
    """Counted as it comes: one that is sent in chunks has no length at first."""
    total = 0

    async def read() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > BODY_MAX:
            raise Malformed(f"a body of more than {BODY_MAX} bytes is not read")
        return message

    return read


def problem_response(error: LimpetError) -> JSONResponse:
    details = problem.encode(error)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    return JSONResponse(details, details["status"], headers, problem.MEDIA_TYPE)


def caller(request: Request) -> Caller:
    """Who asks."""
    found: Caller = request.state.caller
    return found


async def viewer(request: Request) -> None:
    """Dependency of routes that change nothing. The gate let nobody in with less."""
    request.state.is_read = True


async def operator(request: Request) -> None:
    """Dependency of routes that change something, and of what not everybody shall read."""
    asks = caller(request)
    if asks.role is not Role.OPERATOR:
        raise Forbidden(
            f"{asks.by} is a {asks.role}: that needs an operator, by a token of that role, the "
            'group "limpet", or sudo'
        )
