# SPDX-License-Identifier: Apache-2.0
"""OpenAPI document: what FastAPI knows of the routes, and what it cannot know of this API.

Every operation may answer with a problem (RFC 9457); FastAPI's own shape of errors is not used.
Roles stand as `x-limpet-role`. On the unix socket no token is needed: hence the empty alternative
in `security`.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from limpet.api import gate
from limpet.api.changes import operator_unless_dry_run
from limpet.api.models_change import Problem
from limpet.api.problem import MEDIA_TYPE

DESCRIPTION = """\
Answers are JSON; errors are problem details (RFC 9457). Over the unix socket the kernel says who
asks; over TCP a bearer token does. See docs/operate/api.md."""
OWN_ERRORS = ("HTTPValidationError", "ValidationError")  # FastAPI's
REFERENCE = "#/components/{}/{}"


def document(app: FastAPI, routers: Iterable[APIRouter]) -> dict[str, Any]:
    """The document of the application."""
    whole = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = whole.setdefault("components", {})
    schemas = {
        name: schema
        for name, schema in components.get("schemas", {}).items()
        if name not in OWN_ERRORS
    }
    template = REFERENCE.format("schemas", "{model}")
    problem = Problem.model_json_schema(ref_template=template)
    schemas |= problem.pop("$defs", {})
    components["schemas"] = dict(sorted({**schemas, "Problem": problem}.items()))
    components["responses"] = {"Problem": _problem()}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    whole["security"] = [{"token": []}, {}]
    _mark(roles(routers), whole["paths"])
    return whole


def roles(routers: Iterable[APIRouter]) -> dict[tuple[str, str], str]:
    """Which role each operation needs, by method and path."""
    return {
        (method, route.path): _role(route)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    }


def _role(route: APIRoute) -> str:
    needs = {dependency.call for dependency in route.dependant.dependencies}
    if gate.operator in needs:
        return "operator"
    if operator_unless_dry_run in needs:
        return "operator, or viewer with dry_run"
    assert gate.viewer in needs, f"{route.path} says no role"
    return "viewer"


def _mark(needed: dict[tuple[str, str], str], paths: dict[str, Any]) -> None:
    assert {path for _, path in needed} == paths.keys()
    for (method, path), role in needed.items():
        operation = paths[path][method.lower()]
        operation["x-limpet-role"] = role
        operation["operationId"] = operation["operationId"].partition("_v1_")[0]
        operation["responses"].pop("422", None)
        operation["responses"]["default"] = {"$ref": REFERENCE.format("responses", "Problem")}


def _problem() -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format("schemas", "Problem")}
    return {"description": "An error", "content": {MEDIA_TYPE: {"schema": schema}}}
