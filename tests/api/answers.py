# SPDX-License-Identifier: Apache-2.0
"""Answers against the models that describe them, strictly: no key may be missing, of another type,
or unknown. The document's readers must accept more keys; whoever adds one writes it down."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from tools import gen_openapi

from limpet.api import announcements, clusters, models, models_change, models_intent

MODELS = {
    name: kind
    for module in (models, models_change, models_intent, announcements, clusters)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, BaseModel)
}
WHOLE = gen_openapi.document()
EMPTY: dict[str, Any] = {}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def template_of(path: str) -> str:
    """The path of the document that a real one fits."""
    real = path.partition("?")[0]
    found = [
        template
        for template in WHOLE["paths"]
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), real)
    ]
    assert len(found) == 1, path
    return str(found[0])


def mismatches(method: str, path: str, answer: tuple[int, str, Any]) -> list[str]:
    """What an answer (status, media type, body) has otherwise than the document says."""
    status, media_type, body = answer
    responses = WHOLE["paths"][template_of(path)][method.lower()]["responses"]
    described = responses.get(str(status), EMPTY).get("content", EMPTY)
    kind = media_type.partition(";")[0]
    if status >= 400 and kind == "application/problem+json" and "default" in responses:
        return []
    if described.keys() != {kind}:
        return [f"{status} {kind} is not described"]
    schema = described[kind]["schema"]
    found = [_mismatch(schema, value) for value in values(kind, body)]
    return sorted({each for each in found if each}) if found else ["nothing to be checked"]


def values(kind: str, body: Any) -> list[Any]:
    """What the schema speaks of: the answer, or each line or event of it."""
    if kind == "application/json":
        return [body]
    if kind == "text/event-stream":
        found = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    else:
        found = body.splitlines()[1:]
    return [json.loads(line) for line in found]


def _mismatch(schema: dict[str, Any], value: Any) -> str:
    if schema.get("type") == "array":
        rows = [_mismatch(schema["items"], each) for each in value]
        return "; ".join(sorted({row for row in rows if row})) if rows else "an empty list"
    names = [reference.rpartition("/")[2] for reference in references(schema)]
    found = [mismatch(MODELS[name], value) for name in names]
    return "" if "" in found else "; or ".join(found)


def mismatch(model: type[BaseModel], value: Any) -> str:
    """Empty if a value is just what a model says."""
    try:
        parsed = TypeAdapter(model).validate_python(value)
    except ValueError as error:
        return str(error)
    unknown = sorted(set(_unknown(parsed)))
    return f"not described: {', '.join(unknown)}" if unknown else ""


def _unknown(parsed: Any) -> Iterator[str]:
    if isinstance(parsed, BaseModel):
        if not isinstance(parsed, models_intent.Event):  # which has other keys for each kind
            yield from (f"{type(parsed).__name__}.{key}" for key in parsed.model_extra or {})
        for name in type(parsed).model_fields:
            yield from _unknown(getattr(parsed, name))
    if isinstance(parsed, list):
        for each in parsed:
            yield from _unknown(each)
