# SPDX-License-Identifier: Apache-2.0
"""Finding: what is wrong at a path of the configuration, before it has a file and a line.

Rules about values and rules across tables both end in findings; core/config.py knows the text and
makes problems of them. A finding always says how to mend it: for a misspelt name that is the
nearest known one, and all that there are.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from limpet.core.source import Path

NAMES_SHOWN = 8  # of known names in a message


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule at a path of the document."""

    path: Path
    why: str
    mend: str


def suggestion(wrong: str, known: Iterable[str], kind: str) -> str:
    """How to mend a misspelt name: the nearest one, and all that there are."""
    names = list(dict.fromkeys(known))
    if not names:
        return f"there are no {kind}s; add a [[{kind}]]"
    near = difflib.get_close_matches(wrong, names, n=1)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    listing = f"known {kind}s: {shown}"
    return f"did you mean {near[0]!r}? {listing}" if near else f"use one of the {listing}"
