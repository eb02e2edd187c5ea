# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps what it remembers: /run/limpet/lab/<lab>/, gone after a reboot as it is itself.

Light to import, because `limpet lab exec` needs nothing else.
"""

import contextlib
import re
from pathlib import Path

from limpet.core.errors import Conflict, NotFound

FOLDER = Path("/run/limpet/lab")
NETNS_FOLDER = Path("/run/netns")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


def of(lab: str) -> Path:
    return FOLDER / lab


def check_name(lab: str) -> None:
    if not NAME.fullmatch(lab):
        raise Conflict(
            f"lab name '{lab}' does not work: use up to 31 lower-case letters, digits and hyphens"
        )


def labs() -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in FOLDER.iterdir())
    return []


def read_state(lab: str) -> str:
    """The text of the lab's state. Raises NotFound if there is no such lab."""
    check_name(lab)
    try:
        return (of(lab) / "state.json").read_text()
    except FileNotFoundError as error:
        known = f" (up: {', '.join(labs())})" if labs() else ""
        raise NotFound(f"lab '{lab}' is not up{known}; `limpet lab up --name {lab}`") from error


def netns_of(lab: str, host: str) -> str:
    """Name of the host's network namespace, also of its director or agent."""
    return f"{lab}-{host}"
