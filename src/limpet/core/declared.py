# SPDX-License-Identifier: Apache-2.0
"""Declared: what a new file says otherwise, of which no table of the kernel knows.

Checks, hooks, the API, PoPs, routes, routers and what becomes of flows of a backend that is down
are the daemon's business: a plan that compares kernel tables alone would call their change none.
Hooks and keys are only named: what they are is for those who may read the file. Of most of
[cluster] the daemon takes no notice until it is started again, and the line says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from limpet.core.model import Desired

Rows = Sequence[Any]  # each with a name
IN_TABLES = ("name", "weights", "policy", "reassign")  # of a pool; its summary has these
OF_ROUTES = ("route",)  # of a VIP; the others are in its summary
OF_PLACES = ("pop", "sessions_max")  # of a backend, the same
SECRET = ("slot_key", "hooks")
LIVE = ("queries_per_s", "client_queries")  # of [cluster]; the others count from the next start
LATER = " (when the daemon is started again)"


def declared(before: Desired, after: Desired) -> tuple[str, ...]:
    """One line a difference, as in "pool web: on_down reset -> rehash"."""
    return tuple(_differences(before, after))


def _differences(before: Desired, after: Desired) -> Iterator[str]:
    for where, was, will in _pairs("pool", before.pools, after.pools):
        yield from _fields(where, was, will, IN_TABLES)
    for where, was, will in _pairs("VIP", before.vips, after.vips):
        yield from _fields(where, was, will, _but(was, OF_ROUTES))
    for where, was, will in _pairs("backend", before.backends, after.backends):
        yield from _fields(where, was, will, _but(was, OF_PLACES))
    yield from _rows("PoP", before.pops, after.pops)
    is_made_up = ("slot_key",) if not after.director.slot_key else ()
    yield from _fields("director:", before.director, after.director, is_made_up)
    for name in ("metrics_listen", "log_level", "hooks", "api"):
        yield from _field("", name, getattr(before, name), getattr(after, name))
    yield from _field("mega_proxy:", "share", before.mega_proxy.share, after.mega_proxy.share)
    yield from _fields("bgp:", before.bgp, after.bgp, ("peers",))
    yield from _rows("peer", before.bgp.peers, after.bgp.peers)
    yield from _fields("cluster:", before.cluster, after.cluster, _but(before.cluster, LIVE))
    for line in _fields("cluster:", before.cluster, after.cluster, LIVE):
        yield line + LATER


def _pairs(kind: str, before: Rows, after: Rows) -> Iterator[tuple[str, Any, Any]]:
    """Those of a name that both have."""
    known = {each.name: each for each in before}
    for each in after:
        if each.name in known:
            yield f"{kind} {each.name}:", known[each.name], each


def _rows(kind: str, before: Rows, after: Rows) -> Iterator[str]:
    """Those that come, go or change, of a kind of which the summary knows nothing."""
    was, will = {each.name for each in before}, {each.name for each in after}
    yield from (f"{kind} {name} comes" for name in sorted(will - was))
    yield from (f"{kind} {name} goes" for name in sorted(was - will))
    for where, old, new in _pairs(kind, before, after):
        yield from _fields(where, old, new)


def _but(row: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """All fields but these."""
    return tuple(each.name for each in fields(row) if each.name not in names)


def _fields(where: str, was: Any, will: Any, known: tuple[str, ...] = ()) -> Iterator[str]:
    for each in fields(was):
        if each.name not in known:
            yield from _field(where, each.name, getattr(was, each.name), getattr(will, each.name))


def _field(where: str, name: str, was: Any, will: Any) -> Iterator[str]:
    if was == will:
        return
    place = f"{where} {name}".strip()
    if name in SECRET:
        yield f"{place} changes"
    elif is_dataclass(was) and is_dataclass(will):
        yield from _fields(f"{place}:" if not where else place, was, will)
    else:
        yield f"{place} {_said(was)} -> {_said(will)}"


def _said(value: Any) -> str:
    """A table that is there or not, else the value as it is."""
    if is_dataclass(value):
        return "as in the file"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
