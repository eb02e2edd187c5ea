# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document: valid, complete, current, and true of what every route answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI
from tools import gen_openapi

from api.answers import WHOLE, mismatch, mismatches, references, template_of
from api.memory import CONFIG
from api.served import Served
from limpet import __version__
from limpet.api import models, models_change

# What to ask of each operation -> so that it answers with a full example.
DRAIN, WEIGHT = "/v1/backends/b1/drain", "/v1/pools/web/backends/b1/weight"
POP_DRAIN = "/v1/pops/fra/drain"
ASKED: list[tuple[str, str, Any]] = [
    ("PUT", DRAIN, {"rule": "flows"}),
    ("PUT", f"{DRAIN}?dry_run=true", {}),
    ("PUT", WEIGHT, {"weight": 3}),
    ("PUT", POP_DRAIN, {}),
    ("GET", "/v1/routes", None),
    ("GET", "/v1/status", None),
    ("GET", "/v1/vips", None),
    ("GET", "/v1/pools", None),
    ("GET", "/v1/backends", None),
    ("GET", "/v1/counters", None),
    ("GET", "/v1/health", None),
    ("GET", "/v1/flows", None),
    ("GET", "/v1/sessions", None),
    ("GET", "/v1/sources", None),
    ("GET", "/v1/where?client=10.1.0.2&vip=web4", None),
    ("GET", "/v1/drains", None),
    ("GET", "/v1/intents", None),
    ("GET", "/v1/history", None),
    ("GET", "/v1/diff", None),
    ("GET", "/v1/events?since=0&follow=false", None),
    ("GET", "/v1/audit", None),
    ("POST", "/v1/plan", CONFIG),
    ("POST", "/v1/apply", CONFIG),
    ("GET", "/v1/pops", None),
    ("DELETE", DRAIN, None),
    ("DELETE", WEIGHT, None),
    ("DELETE", POP_DRAIN, None),
    ("DELETE", "/v1/directors/d", None),
    ("POST", "/v1/rollback", {"revision": 1}),
    ("POST", "/v1/reload", None),
    ("POST", "/v1/shutdown", None),
]


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in WHOLE["paths"].items()
        for method, operation in methods.items()
    ]


def test_document_is_valid_and_its_references_resolve() -> None:
    OpenAPI.model_validate(WHOLE)
    found = set(references(WHOLE))
    assert len(found) > 20
    for reference in found:
        place: Any = WHOLE
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_document_says_version_security_and_problems() -> None:
    assert WHOLE["info"]["version"] == __version__
    assert WHOLE["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert WHOLE["security"] == [{"token": []}, {}]
    for method, path, operation in operations():
        where = f"{method} {path}"
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}, (
            where
        )
        assert "422" not in operation["responses"], where
        assert operation["x-limpet-role"].split(",")[0] in ("viewer", "operator"), where
    assert "HTTPValidationError" not in json.dumps(WHOLE)


def test_every_operation_has_a_schema_and_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names) >= 20
    for _, path, operation in operations():
        (success,) = (r for s, r in operation["responses"].items() if s.startswith("2"))
        (content,) = success["content"].values()
        assert list(references(content)), path


def test_every_operation_is_shown_with_curl_in_the_manual() -> None:
    text = (gen_openapi.FILE.parent.parent / "operate" / "api.md").read_text()
    for method, path, _ in operations():
        example = path.replace("{backend}", "b1").replace("{pool}", "web").replace("{pop}", "fra")
        example = example.replace("{name}", "par-d1")
        lines = re.findall(r"\$ curl (?:[^\n]|\\\n)*", text)
        assert [
            line
            for line in lines
            if re.search(rf"limpet{example}(?=[?'\s]|$)", line) and method == method_of(line)
        ], f"{method} {path}"


def method_of(line: str) -> str:
    """What a line of curl asks with."""
    said = re.search(r"-X (\w+)", line)
    return said[1] if said else "POST" if re.search(r"--json|--data", line) else "GET"


def test_committed_document_is_current() -> None:
    assert gen_openapi.FILE.read_text() == gen_openapi.text()


def test_every_operation_is_asked_below() -> None:
    asked = {(method, template_of(path)) for method, path, _ in ASKED}
    assert asked == {(method, path) for method, path, _ in operations()}


def test_every_route_answers_as_the_document_says(served: Served) -> None:
    """Status, media type and every key. The drain and the weight come first, so that lists have
    rows, and the event that the drain publishes is there."""
    for method, path, body in ASKED:
        answer = served.ask(method, path, body)
        media_type = answer.headers["content-type"]
        found = mismatches(method, path, (answer.status, media_type, answer.body))
        assert not found, f"{method} {path}: {found}"


def test_the_check_of_answers_finds_what_is_wrong() -> None:
    good = {"total": 5}
    assert mismatch(models.Total, good) == ""
    assert mismatches("GET", "/v1/vips", (200, "application/json", [])) == ["an empty list"]
    assert mismatches("GET", "/v1/vips", (201, "text/plain", "")) == [
        "201 text/plain is not described"
    ]
    assert (
        "field required"
        in mismatches("GET", "/v1/vips", (200, "application/json", [{}]))[0].lower()
    )
    assert "total" in mismatch(models.Total, {})
    assert "Total.more" in mismatch(models.Total, {**good, "more": 1})
    assert "valid integer" in mismatch(models.Total, {"total": "many"})


def test_problems_are_as_the_document_says(served: Served) -> None:
    asks: list[tuple[str, str, Any, dict[str, str]]] = [
        ("GET", "/v1/nothing", None, {}),
        ("GET", "/v1/flows?limit=x", None, {}),
        ("POST", "/v1/plan", "[director", {}),
        ("PUT", DRAIN, {}, {"If_Match": '"9"'}),
    ]
    for method, path, body, headers in asks:
        answer = served.ask(method, path, body, **headers)
        assert answer.status >= 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert mismatch(models_change.Problem, answer.body) == ""


def test_served_document_is_the_committed_one(served: Served) -> None:
    assert served.ask("GET", "/v1/openapi.json").body == json.loads(gen_openapi.FILE.read_text())


@pytest.mark.parametrize("name", ["openapi.json"])
def test_check_fails_on_a_document_that_is_not_current(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gen_openapi, "FILE", tmp_path / name)
    assert gen_openapi.main(["--check"]) == 1
    assert gen_openapi.main([]) == 0
    assert gen_openapi.main(["--check"]) == 0
