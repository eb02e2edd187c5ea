# SPDX-License-Identifier: Apache-2.0
"""Names: what an operator types, against what there is; and what a shell may complete.

An unknown name is answered with the known ones, the most similar first. Completion must never be
felt: it waits `PATIENCE_S` for the daemon at most, and a daemon that does not answer completes to
nothing, without a word.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from limpet.core.errors import NotFound

if TYPE_CHECKING:
    from limpet.api.client import Client

SHOWN_MAX = 12
ALIKE = 0.6  # of difflib's ratio: b1 and b2 are not meant, web and wep are
PATIENCE_S = 0.5


def require(kind: str, name: str, known: Iterable[str], inside: str = "") -> None:
    """Raises NotFound, with the nearest names first, unless the name is known."""
    have = sorted(set(known))
    if name not in have:
        raise NotFound(f"there is no {kind} {name!r}{inside}{_instead(kind, name, have)}")


@contextmanager
def explained(client: "Client", vip: object = "", backend: object = "") -> Iterator[None]:
    """A name that the daemon does not know is answered with those that it does, nearest first.

    Asked only then: it also knows what was removed and still has flows.
    """
    try:
        yield
    except NotFound:
        for kind, path, given in (("VIP", "/v1/vips", vip), ("backend", "/v1/backends", backend)):
            rows: list[Any] = client.get(path) if given else []
            if given and given not in {row["address"] for row in rows}:
                require(kind, str(given), [row["name"] for row in rows])
        raise


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Known names, the most similar first."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name, other).ratio()

    return sorted(known, key=lambda other: (-likeness(other), other))


def _instead(kind: str, name: str, known: list[str]) -> str:
    if not known:
        return f"; there are no {kind}s"
    ordered = nearest(name, known)
    is_alike = difflib.SequenceMatcher(None, name, ordered[0]).ratio() >= ALIKE
    guess = f"; did you mean {ordered[0]!r}?" if is_alike else ";"
    more = f" and {len(known) - SHOWN_MAX} more" if len(known) > SHOWN_MAX else ""
    return f"{guess} {kind}s: {', '.join(ordered[:SHOWN_MAX])}{more}"


# --- Completion ------------------------------------------------------------------------------


def backends(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "/v1/backends", incomplete)


def pools(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "/v1/pools", incomplete)


def vips(ctx: typer.Context, incomplete: str) -> list[str]:
    return _complete(ctx, "/v1/vips", incomplete)


def drains(ctx: typer.Context, incomplete: str) -> list[str]:
    """Backends that are being drained."""
    return _complete(ctx, "/v1/drains", incomplete, "backend")


def _complete(ctx: typer.Context, path: str, begin: str, key: str = "name") -> list[str]:
    from limpet.api.client import Client

    try:
        rows: list[Any] = Client(ctx.params.get("socket"), timeout_s=PATIENCE_S).get(path)
    except Exception:  # whatever it is, nobody wants to read it behind a half-typed command
        return []
    return [row[key] for row in rows if row[key].startswith(begin)]
