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
    Unavailable,
    Unreachable,
    Unsupported,
)


class Stale(Conflict):
    """The intents have moved on from the revision that a change was to build on."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(
            f"the change builds on revision {expected}, but the intents are at revision {actual}; "
            "look at them again (limpet history), then repeat it"
        )
        self.expected, self.actual = expected, actual


class Unauthorized(LimpetError):
    """Nobody knows who asks."""


class Forbidden(LimpetError):
    """It is known who asks, and they may not."""


class Malformed(LimpetError):
    """The request cannot be understood."""


class Busy(LimpetError):
    """A limit of the API is reached for now."""


MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:limpet:error:"
STATUSES: dict[type[LimpetError], int] = {
    ConfigError: 422,
    NotFound: 404,
    Conflict: 409,
    Stale: 412,
    Unauthorized: 401,
    Forbidden: 403,
    Malformed: 400,
    Busy: 503,
    Unsupported: 501,
    DatapathError: 500,
    Unreachable: 503,
    Unavailable: 503,
    LimpetError: 500,
}
TITLES: dict[type[LimpetError], str] = {
    ConfigError: "the configuration is wrong",
    NotFound: "no such thing",
    Conflict: "the request contradicts what is there",
    Stale: "the intents have moved on",
    Unauthorized: "nobody is named who asks",
    Forbidden: "the one who asks may not",
    Malformed: "the request is malformed",
    Busy: "a limit is reached",
    Unsupported: "the kernel lacks a feature",
    DatapathError: "a step against the kernel failed",
    Unreachable: "the daemon does not answer",
    Unavailable: "the store of the cluster cannot be reached",
    LimpetError: "the request failed",
}
NAMES: dict[type[LimpetError], str] = {
    ConfigError: "config",
    NotFound: "not-found",
    Conflict: "conflict",
    Stale: "stale",
    Unauthorized: "unauthorized",
    Forbidden: "forbidden",
    Malformed: "malformed",
    Busy: "busy",
    Unsupported: "unsupported",
    DatapathError: "datapath",
    Unreachable: "unreachable",
    Unavailable: "unavailable",
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
    if isinstance(error, Stale):
        problem |= {"expected": error.expected, "actual": error.actual}
    return problem


def decode(problem: dict[str, Any]) -> LimpetError:
    """The error of problem details, so that commands end as if they had met it themselves."""
    name = str(problem.get("type", "")).removeprefix(PREFIX)
    detail = str(problem.get("detail") or problem.get("title") or "no reason given")
    if name == "config":
        return ConfigError([Problem(**found) for found in problem.get("problems", [])])
    if name == "datapath":
        return DatapathError(problem.get("step", ""), problem.get("errno", 0), detail)
    if name == "stale":
        return Stale(problem.get("expected", 0), problem.get("actual", 0))
    kinds = {text: kind for kind, text in NAMES.items()}
    return kinds.get(name, LimpetError)(detail)
