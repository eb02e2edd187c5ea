# SPDX-License-Identifier: Apache-2.0
"""Application: gate, routes and errors of the API, put together."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from limpet import __version__
from limpet.api import announcements, changes, clusters, errors, events, gate, openapi, reads
from limpet.api.audit import Audit
from limpet.api.events import Streams
from limpet.api.interface import Director


class Application(FastAPI):
    """The routes, with a document that fits them."""

    routers: tuple[APIRouter, ...] = ()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.document(self, self.routers)
        return self.openapi_schema


def application(director: Director, audit: Audit, streams: Streams) -> Application:
    """The API of one director, without its gate."""
    app = Application(
        title="limpet director",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    errors.handle(app)
    app.routers = (_reads(director, streams), _mixed(director, audit), _changes(director))
    for router in app.routers:
        app.include_router(router)
    return app


def _reads(director: Director, streams: Streams) -> APIRouter:
    router = APIRouter(dependencies=[Depends(gate.viewer)])
    reads.add_state(router, director)
    reads.add_clients(router, director)
    reads.add_intents(router, director)
    announcements.add_reads(router, director)
    clusters.add_reads(router, director)
    events.add(router, director, streams)
    return router


def _mixed(director: Director, audit: Audit) -> APIRouter:
    """Routes that say themselves which role they need."""
    router = APIRouter()
    reads.add_audit(router, audit)
    changes.add_drains(router, director)
    return router


def _changes(director: Director) -> APIRouter:
    router = APIRouter(dependencies=[Depends(gate.operator)])
    changes.add_weights(router, director)
    announcements.add_changes(router, director)
    clusters.add_changes(router, director)
    changes.add_whole(router, director)
    return router
