# SPDX-License-Identifier: Apache-2.0
"""Problem: errors as they travel over HTTP (RFC 9457), and back into the same errors.

The one table of HTTP statuses. Light to import: the client needs it too.
"""

from typing import Any

from limpet.core.errors import (
    ConfigError,
    Conflict,
    DatapathError,
    LimpetError,
    NotFound,
    Problem,
    Unreachable,
    Unsupported,
)

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:limpet:error:"
STATUSES: dict[type[LimpetError], int] = {
    ConfigError: 422,
    NotFound: 404,
    Conflict: 409,
    Unsupported: 501,
    DatapathError: 500,
    Unreachable: 503,
    LimpetError: 500,
}
TITLES: dict[type[LimpetError], str] = {
    ConfigError: "the configuration is wrong",
    NotFound: "no such thing",
    Conflict: "the request contradicts what is there",
    Unsupported: "the kernel lacks a feature",
    DatapathError: "a step against the kernel failed",
    Unreachable: "the daemon does not answer",
    LimpetError: "the request failed",
}
NAMES: dict[type[LimpetError], str] = {
    ConfigError: "config",
    NotFound: "not-found",
    Conflict: "conflict",
    Unsupported: "unsupported",
    DatapathError: "datapath",
    Unreachable: "unreachable",
    LimpetError: "other",
}


def encode(error: LimpetError) -> dict[str, Any]:
    """The problem details of an error."""
    kind = type(error) if type(error) in STATUSES else LimpetError
    problem: dict[str, Any] = {
        "type": PREFIX + NAMES[kind],
        "title": TITLES[kind],
        "status": STATUSES[kind],
        "detail": str(error),
    }
    if isinstance(error, ConfigError):
        problem["problems"] = [
            {"where": p.where, "why": p.why, "mend": p.mend} for p in error.problems
        ]
    if isinstance(error, DatapathError):
        problem |= {"step": error.step, "errno": error.errno}
    return problem


def decode(problem: dict[str, Any]) -> LimpetError:
    """The error of problem details, so that commands end as if they had met it themselves."""
    name = str(problem.get("type", "")).removeprefix(PREFIX)
    detail = str(problem.get("detail") or problem.get("title") or "no reason given")
    if name == "config":
        return ConfigError([Problem(**found) for found in problem.get("problems", [])])
    if name == "datapath":
        return DatapathError(problem.get("step", ""), problem.get("errno", 0), detail)
    kinds = {text: kind for kind, text in NAMES.items()}
    return kinds.get(name, LimpetError)(detail)
