# SPDX-License-Identifier: Apache-2.0
"""Every table and key is found on its line, however it is written."""

import tomllib

import pytest

from limpet.core.source import Path, Source

TEXT = """\
# a = 1
title = "[x] = 1"          # not a header
"quoted key" = 1
list = [
    "[[no]]", # ]
    { inner = 1 },
]
text = \"\"\"
[no.header]
key = 1 \\\"\"\"
\"\"\"
raw = '''
[[no]]
''' # end
  [ spaced . "table" ]  # comment ]
  dotted.a . 'b.c' = { x = 1 }
[[row]]
name = 'first'
[row.sub]
key = 1
[[row.deep]]
key = 1
[[row]]
name = "second"
[row.sub]
key = 2
[[row.deep]]
key = 2
[[row.deep]]
key = 3
"""

LINES: dict[Path, int] = {
    ("title",): 2,
    ("quoted key",): 3,
    ("list",): 4,
    ("list", 1, "inner"): 4,
    ("text",): 8,
    ("raw",): 12,
    ("spaced", "table"): 15,
    ("spaced", "table", "dotted", "a", "b.c"): 16,
    ("spaced", "table", "dotted", "a", "b.c", "x"): 16,
    ("row", 0): 17,
    ("row", 0, "name"): 18,
    ("row", 0, "missing"): 17,
    ("row", 0, "sub", "key"): 20,
    ("row", 0, "deep", 0, "key"): 22,
    ("row", 1): 23,
    ("row", 1, "name"): 24,
    ("row", 1, "sub"): 25,
    ("row", 1, "sub", "key"): 26,
    ("row", 1, "deep", 0, "key"): 28,
    ("row", 1, "deep", 1, "key"): 30,
    ("nowhere",): 1,
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(("path", "line"), LINES.items(), ids=str)
def test_line_of_a_key_is_where_it_stands(path: Path, line: int, ending: str) -> None:
    text = TEXT.replace("\n", ending)
    tomllib.loads(text)
    assert Source(text, "x.toml").line(path) == line


def test_nothing_is_found_in_strings_and_comments() -> None:
    source = Source(TEXT, "x.toml")
    for path in (("no",), ("no", "header"), ("key",), ("a",)):
        assert source.line(path) == 1


def test_where_is_a_place_that_editors_jump_to() -> None:
    assert Source(TEXT, "x.toml").where(("row", 1), "[[row]]") == "x.toml:23: [[row]]"
