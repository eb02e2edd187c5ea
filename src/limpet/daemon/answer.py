# SPDX-License-Identifier: Apache-2.0
"""Answer: what a change does or did, as the JSON of plan and reload."""

from limpet.api.interface import Json
from limpet.core.summary import Names, Summary


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


def _names(names: Names) -> Json:
    return {
        "added": list(names.added),
        "removed": list(names.removed),
        "changed": list(names.changed),
    }
