# SPDX-License-Identifier: Apache-2.0
"""Routes of changes: drains, weights, rollback, reload, shutdown. For operators.

PUT and DELETE can be repeated: asking for what is so already changes nothing, and answers with
the revision that is; a drain that is not there cannot be ended (409). `If-Match` with a revision
makes a change a compare-and-set: if the intents have moved on, nothing is changed and the answer
(412) says both revisions.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse

from limpet.api import gate, models_change, models_intent
from limpet.api.interface import Director
from limpet.api.problem import Malformed
from limpet.api.reads import tagged

TAG = re.compile(r'"(\d{1,18})"')


def if_revision(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """The revision of the header If-Match; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = TAG.fullmatch(if_match.strip())
    if not found:
        raise Malformed(f'If-Match: {if_match[:40]!r} is not a revision; write it as "12"')
    return int(found[1])


Expected = Annotated[int | None, Depends(if_revision)]
DryRun = Annotated[bool, Query(description="only say what would happen")]


async def operator_unless_dry_run(request: Request, dry_run: DryRun = False) -> None:
    """Dependency: viewers may ask what a drain would do."""
    await (gate.viewer(request) if dry_run else gate.operator(request))


def add_drains(router: APIRouter, director: Director) -> None:
    """Drain and undrain."""

    @router.put(
        "/v1/backends/{backend}/drain",
        response_model=models_change.Changed | models_intent.DrainPreview,
        dependencies=[Depends(operator_unless_dry_run)],
    )
    async def drain(
        request: Request,
        backend: str,
        expected: Expected,
        body: models_change.DrainBody | None = None,
        dry_run: DryRun = False,
    ) -> JSONResponse:
        """No new sessions; live ones stay to their end or the deadline."""
        body = body or models_change.DrainBody.model_validate({})
        if dry_run:
            return JSONResponse(await director.drain_preview(backend, body.request()))
        by = noted(request, body.model_dump(mode="json", exclude_none=True))
        return tagged(await director.drain(backend, body.request(), by, expected))

    @router.delete(
        "/v1/backends/{backend}/drain",
        response_model=models_change.Changed,
        dependencies=[Depends(gate.operator)],
    )
    async def undrain(request: Request, backend: str, expected: Expected) -> JSONResponse:
        """The backend gets new sessions again."""
        return tagged(await director.undrain(backend, noted(request), expected))


def add_weights(router: APIRouter, director: Director) -> None:
    """Weights over those of the file."""
    path = "/v1/pools/{pool}/backends/{backend}/weight"

    @router.put(path, response_model=models_change.Changed)
    async def set_weight(
        request: Request,
        pool: str,
        backend: str,
        body: models_change.WeightBody,
        expected: Expected,
    ) -> JSONResponse:
        """A weight over that of the file. No live session moves."""
        by = noted(request, body.model_dump())
        return tagged(await director.set_weight(pool, backend, body.weight, by, expected))

    @router.delete(path, response_model=models_change.Changed)
    async def reset_weight(
        request: Request, pool: str, backend: str, expected: Expected
    ) -> JSONResponse:
        """The weight of the file again."""
        by = noted(request)
        return tagged(await director.set_weight(pool, backend, None, by, expected))


def add_whole(router: APIRouter, director: Director) -> None:
    """What concerns all of the director."""

    @router.post("/v1/rollback", response_model=models_change.Changed)
    async def rollback(
        request: Request, body: models_change.RollbackBody, expected: Expected
    ) -> JSONResponse:
        """The intents of a former revision again, as a new revision."""
        by = noted(request, body.model_dump())
        return tagged(await director.rollback(body.revision, by, expected))

    @router.post("/v1/reload", response_model=models_change.Reloaded)
    async def reload() -> JSONResponse:
        """The daemon reads its file again, and certificate and tokens of the API."""
        return JSONResponse(await director.reload())

    @router.post("/v1/shutdown", status_code=202, response_model=models_change.Stopping)
    async def shutdown() -> JSONResponse:
        """The daemon ends; forwarding goes on."""
        director.shutdown()
        return JSONResponse({"stopping": True}, 202)


def noted(request: Request, details: dict[str, Any] | None = None) -> str:
    """Who asks. The audit log gets the details of the body."""
    request.state.details = details or {}
    return gate.caller(request).by
