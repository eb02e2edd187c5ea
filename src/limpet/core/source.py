# SPDX-License-Identifier: Apache-2.0
"""Source: on which line of a TOML text a table or key stands.

`tomllib` reads the text and forgets the lines, and an error message without one makes people
search. This is a second, shallow reading that only finds headers and the starts of keys; it trusts
that `tomllib` has accepted the text. It knows strings over several lines, arrays over several
lines, comments, dotted and quoted keys.

Not here: places inside inline tables and arrays. They are reported at the line of their key.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

Path = tuple[str | int, ...]  # ("pool", 0, "backends", "b1"), as pydantic gives it

_HEADER = re.compile(r"\s*(\[\[?)(.+?)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'|\s*\.\s*)+?)\s*=""")
_TOKEN = re.compile(
    r"""\"{3}(?:[^"\\]|\\.|"(?!""))*"{3,5}|'{3}(?:[^']|'(?!''))*'{3,5}"""
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[\]{}]|\n""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Source:
    """A TOML text and its name."""

    text: str
    name: str
    _lines: dict[Path, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lines", _places(self.text))

    def line(self, path: Path) -> int:
        """The line of the path, or of the nearest thing around it; 1 if there is nothing."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def where(self, path: Path, what: str) -> str:
        """A place that a person finds: "limpet.toml:12: [[pool]] 'web'"."""
        return f"{self.name}:{self.line(path)}: {what}"


def _places(text: str) -> dict[Path, int]:
    """Line of every table header and key, the first one if it occurs more than once."""
    places: dict[Path, int] = {}
    arrays: dict[Path, int] = {}  # path of an array of tables -> index of its last table
    table: Path = ()
    for number, line in _statements(text):
        header = _HEADER.match(line)
        if header:
            table = _resolve(_split(header[2]), arrays, is_array=header[1] == "[[")
            places.setdefault(_split(header[2]), number)
            places.setdefault(table, number)
            continue
        key = _KEY.match(line)
        if key:
            path = table
            for part in _split(key[1]):
                path = (*path, part)
                places.setdefault(path, number)
    return places


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that starts outside of any string, array or inline table."""
    depth = 0
    number, start_number, start = 1, 1, 0
    for token in _TOKEN.finditer(text + "\n"):
        if token[0] == "\n":
            if depth == 0:
                yield start_number, text[start : token.start()].split("\n", 1)[0].rstrip("\r")
                start, start_number = token.end(), number + 1
            number += 1
        elif token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        else:
            number += token[0].count("\n")


def _split(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key, read by tomllib itself: `a."b.c"` -> ("a", "b.c")."""
    try:
        value: object = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts = []
    while isinstance(value, dict):
        part, value = next(iter(value.items()))
        parts.append(part)
    return tuple(parts)


def _resolve(parts: tuple[str, ...], arrays: dict[Path, int], is_array: bool) -> Path:
    """The path of a header, with the index of each array of tables on the way."""
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if is_array and position == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = (*path, arrays[path])
    return path
