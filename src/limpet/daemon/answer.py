# SPDX-License-Identifier: Apache-2.0
"""Answer: what a change does or did, as the JSON of plan, reload and events."""

from datetime import UTC, datetime

from limpet.api.interface import Json
from limpet.core.summary import Names, Summary

MOMENTS = {"at", "began", "deadline", "drained", "since"}  # keys of events that are times


def said(summary: Summary) -> Json:
    """The summary, as text and in parts."""
    return {
        "changes": bool(summary),
        "summary": str(summary),
        "vips": _names(summary.vips),
        "pools": _names(summary.pools),
        "backends": _names(summary.backends),
        "moves": [
            {
                "pool": pool.pool,
                "slots_moved": pool.moved,
                "moves": [{"from": m.source, "to": m.target, "slots": m.slots} for m in pool.moves],
            }
            for pool in summary.moves
        ],
    }


def iso(moment: float | None) -> str | None:
    """A Unix time as the API says it: ISO 8601, in UTC."""
    return None if moment is None else _iso(moment)


def told(event: Json) -> Json:
    """An event with its times as the API says them."""
    return {
        key: _iso(value) if key in MOMENTS and isinstance(value, float) else value
        for key, value in event.items()
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _names(names: Names) -> Json:
    return {
        "added": list(names.added),
        "removed": list(names.removed),
        "changed": list(names.changed),
    }
