# SPDX-License-Identifier: Apache-2.0
"""Duration: how long, as an operator writes and reads it: 90s, 10m, 2h, 1d, 1h30m.

A number without a unit is refused: at night, 120 is minutes to one and seconds to another. So is
what lies in the past. Moments are shown in the machine's own time zone, to the second.
"""

import re
from datetime import datetime

import typer

from limpet.api.interface import DEADLINE_MAX_S

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
WHOLE = re.compile(rf"(?:{PART.pattern})+")
EXAMPLES = "as in 90s, 10m, 2h, 1d or 1h30m"


def parse(text: str | float) -> float:
    """Seconds. Raises BadParameter, which says what to write instead."""
    if not isinstance(text, str):
        return float(text)  # parsed before: typer asks twice for a default
    given = text.strip().lower()
    if given.startswith("-"):
        raise typer.BadParameter(f"{text!r} is in the past; say how long from now, {EXAMPLES}")
    if re.fullmatch(r"\d+(\.\d+)?", given):
        raise typer.BadParameter(
            f"{text!r} lacks a unit: {given}s, {given}m and {given}h are not the same; "
            f"write it, {EXAMPLES}"
        )
    if not WHOLE.fullmatch(given):
        raise typer.BadParameter(f"{text!r} is not a duration; write one, {EXAMPLES}")
    seconds = sum(float(number) * UNITS[unit] for number, unit in PART.findall(given))
    if seconds > DEADLINE_MAX_S:
        raise typer.BadParameter(f"{text!r} is beyond {DEADLINE_MAX_S // UNITS['d']} days")
    return seconds


def said(seconds: float | None) -> str:
    """The two largest units: 3725 is "1 h 2 min". None is empty."""
    if seconds is None:
        return ""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def moment(at: float | str | None) -> str:
    """Unix seconds, or ISO 8601 as the daemon writes it, as local time. None is empty."""
    if at is None or at == "":
        return ""
    found = datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at)
    return f"{found.astimezone():%Y-%m-%d %H:%M:%S}"


def unix(at: float | str) -> float:
    """A moment of the API as Unix seconds."""
    return datetime.fromisoformat(at).timestamp() if isinstance(at, str) else float(at)
