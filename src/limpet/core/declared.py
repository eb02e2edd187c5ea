# SPDX-License-Identifier: Apache-2.0
"""Declared: what a new file says otherwise, of which no table of the kernel knows.

Checks, hooks, the API and what becomes of flows of a backend that is down are the daemon's
business: a plan that compares kernel tables alone would call their change none. Hooks and keys are
only named: what they are is for those who may read the file.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from limpet.core.model import Desired

IN_TABLES = ("name", "weights", "policy", "reassign")  # of a pool; its summary has these
SECRET = ("slot_key", "hooks")


def declared(before: Desired, after: Desired) -> tuple[str, ...]:
    """One line a difference, as in "pool web: on_down reset -> rehash"."""
    return tuple(_differences(before, after))


def _differences(before: Desired, after: Desired) -> Iterator[str]:
    pools = {pool.name: pool for pool in before.pools}
    for pool in after.pools:
        if pool.name in pools:
            yield from _fields(f"pool {pool.name}:", pools[pool.name], pool, IN_TABLES)
    is_made_up = ("slot_key",) if not after.director.slot_key else ()
    yield from _fields("director:", before.director, after.director, is_made_up)
    for name in ("metrics_listen", "log_level", "hooks", "api"):
        yield from _field("", name, getattr(before, name), getattr(after, name))


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
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
