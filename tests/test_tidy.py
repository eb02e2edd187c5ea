# SPDX-License-Identifier: Apache-2.0
"""What keeps the tree readable: licence lines, sizes, words, leftovers, names of tests.

Sizes are signals to look again, not gates: who has looked and found one idea adds the file to a
list below, with the reason. What a list holds may not grow, and leaves it when it has shrunk.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from limpet.datapath import abi

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bpf", "src", "tests", "bench", "tools", "docs", "packaging", ".ci")
SELF = Path(__file__).resolve()
LINES_MAX = 400
FUNCTION_LINES_MAX = 60
C_COLUMNS_MAX, TAB = 115, 8
SPDX_PYTHON = "# SPDX-License-Identifier: Apache-2.0"
SPDX_BPF = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"

# File -> (lines it may have, why it is not split).
LONG_FILES = {
    "bpf/abi.h": (600, "all that kernel and user space share, and abi.py is generated from it"),
    "src/limpet/datapath/abi.py": (900, "generated"),
    "docs/formats/openapi.json": (4_600, "generated"),
    "docs/formats/config.schema.json": (1_400, "generated"),
    "src/limpet/core/model.py": (440, "the nouns, all in one place"),
    "src/limpet/daemon/reconcile.py": (440, "one pass, step by step, alone and in a cluster"),
    "docs/operate/deployment.md": (480, "one story, from nothing to the last symptom"),
    "tests/core/test_config.py": (440, "half of it is one list of broken configurations"),
    "tests/core/test_slots.py": (440, "the laws of one function, and what checks them"),
    "tests/packets/cases_icmp.py": (480, "lists of cases"),
    "tests/datapath/benches.py": (440, "two benches with the same controls, side by side"),
}
# Words that mean one of ours but are not it -> ours (docs/glossary.md).
SYNONYMS = {
    r"real[ -]?server": "backend",
    r"backend server": "backend",
    r"worker node": "backend",
    r"origin server": "backend",
    r"virtual[ -]server": "VIP",
    r"virtual ip": "VIP",
    r"connection tracking table": "connection table",
    r"conntrack table": "connection table",
    r"flow table": "connection table",
    r"flow cache": "connection table",
    r"sticky session": "affinity",
    r"hash ring": "slot table",
    r"balancer node": "director",
    r"black-?list|white-?list": "what the list does",
}
CATCH_ALLS = {"util", "utils", "helper", "helpers", "common", "manager", "handler", "misc", "base"}


@cache
def text_files() -> tuple[Path, ...]:
    """Everything that people write and read: the folders, and what lies beside them."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found += [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    kept = [path for path in found if path.is_file() and not is_built(path)]
    return tuple(sorted(kept))


def is_built(path: Path) -> bool:
    """Objects, caches and what a run left behind are not part of the tree."""
    is_cache = any(part.startswith((".cache", "__pycache__", ".pytest")) for part in path.parts)
    return is_cache or path.suffix in (".o", ".so", ".pyc", ".whl", ".swp", ".db", ".log")


def files(*suffixes: str) -> list[Path]:
    return [path for path in text_files() if path.suffix in suffixes]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_tree_is_there_to_be_read() -> None:
    """Every check below would pass on an empty list."""
    assert len(files(".py")) > 100
    assert len(files(".c", ".h")) > 20
    assert len(files(".md")) > 8


def test_every_source_file_begins_with_its_licence() -> None:
    wrong = []
    for path in files(".py", ".sh", ".c", ".h"):
        lines = path.read_text().splitlines() or [""]
        head = lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]
        is_ours = SPDX_BPF in head if path.suffix in (".c", ".h") else head == SPDX_PYTHON
        if not is_ours:
            wrong.append(f"{name_of(path)}: {head[:60]}")
    assert not wrong


def test_every_module_says_what_it_is_for() -> None:
    wrong = [name_of(path) for path in files(".py") if not ast.get_docstring(tree_of(path))]
    assert not wrong


def test_every_header_says_what_it_is_for() -> None:
    """A comment stands between the include guard and the first include or declaration."""
    begin = re.compile(r"#ifndef (\w+)\n#define \1\n\n/\* [A-Z]")
    wrong = [name_of(path) for path in files(".h") if not begin.search(path.read_text())]
    assert not wrong


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    wrong = []
    for path in files(".py", ".c", ".h", ".sh", ".md", ".json"):
        limit, _ = LONG_FILES.get(name_of(path), (LINES_MAX, ""))
        count = len(path.read_text().splitlines())
        if count > limit:
            wrong.append(f"{name_of(path)}: {count} lines, at most {limit}")
    assert not wrong


def test_exemptions_are_of_files_that_need_them() -> None:
    for name, (limit, reason) in LONG_FILES.items():
        count = len((ROOT / name).read_text().splitlines())
        assert LINES_MAX < count <= limit, f"{name} has {count} lines: take it off the list"
        assert reason


def test_no_line_of_c_is_too_wide() -> None:
    wrong = [
        f"{name_of(path)}:{number}"
        for path in files(".c", ".h")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line.expandtabs(TAB)) > C_COLUMNS_MAX
    ]
    assert not wrong


def test_no_python_function_is_too_long() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}: {node.name}"
        for path in files(".py")
        for node in functions_of(path)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not wrong


def test_no_c_function_is_too_long() -> None:
    """A body begins and ends with a brace in the first column, as clang-format writes it."""
    wrong = [
        f"{name_of(path)}:{text[: body.start()].count(chr(10))}"
        for path in files(".c", ".h")
        for text in [path.read_text()]
        for body in re.finditer(r"^\{\n.*?^\}", text, re.M | re.S)
        if body[0].count("\n") + 1 > FUNCTION_LINES_MAX
    ]
    assert not wrong


def test_no_work_is_left_over_in_the_text() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert not lines_with(marker, text_files())


def test_no_path_of_one_machine_is_left_over() -> None:
    """Nothing shipped or documented names a folder that only its author has, or /tmp."""
    machine = re.compile(r"(?<![\w./$}])/(tmp|home|root|work|Users|mnt)/")
    shipped = [path for path in text_files() if name_of(path).startswith(("src/", "docs/", "bpf/"))]
    assert not lines_with(machine, [*shipped, *files(".md")])


@pytest.mark.parametrize("synonym", SYNONYMS)
def test_one_word_is_used_per_thing(synonym: str) -> None:
    """docs/glossary.md says which."""
    assert not lines_with(re.compile(rf"\b({synonym})s?\b", re.I), text_files()), SYNONYMS[synonym]


def lines_with(pattern: re.Pattern[str], paths: "tuple[Path, ...] | list[Path]") -> list[str]:
    """Places where the pattern matches, outside this file and the licence."""
    return [
        f"{name_of(path)}:{number}: {line.strip()[:80]}"
        for path in paths
        if path != SELF and path.name != "LICENSE"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_module_is_named_after_nothing() -> None:
    wrong = [
        name_of(path) for path in files(".py", ".h", ".c") if path.name.split(".")[0] in CATCH_ALLS
    ]
    assert not wrong


def test_every_test_says_the_law_it_tests() -> None:
    """By a name of at least three words, or by a docstring."""
    tests = [
        (path, node)
        for path in files(".py")
        if path.name.startswith("test_")
        for node in functions_of(path)
        if node.name.startswith("test_")
    ]
    assert len(tests) > 200
    wrong = [
        f"{name_of(path)}:{node.lineno}: {node.name}"
        for path, node in tests
        if len(node.name.split("_")) < 4 and not ast.get_docstring(node)
    ]
    assert not wrong


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    """On a machine that lacks a feature a test fails by Unsupported, which says what is lacking."""
    silenced = re.compile(r"pytest\.(skip|xfail|importorskip)\(|mark\.(skip|skipif|xfail)\b")
    tests = [path for path in files(".py") if name_of(path).startswith("tests/")]
    assert not lines_with(silenced, tests)


@pytest.mark.parametrize(
    "counter", [abi.Verdict, abi.Rung, abi.Event, abi.AgentVerdict, abi.Outbound]
)
def test_every_counter_says_what_it_counts_and_how_to_take_it(
    counter: "type[abi.Verdict | abi.Rung | abi.Event | abi.AgentVerdict | abi.Outbound]",
) -> None:
    """In one line of bpf/abi.h that ends in normal, watch or alarm."""
    enum = re.sub(r"(?<!^)([A-Z])", r"_\1", counter.__name__).lower()
    meanings = abi.MEANINGS[enum]
    assert meanings.keys() == set(counter.__members__)
    for meaning, level in meanings.values():
        assert len(meaning.split()) >= 2
        assert level in ("normal", "watch", "alarm")


def test_every_meaning_of_a_counter_is_its_own() -> None:
    for members in abi.MEANINGS.values():
        texts = [meaning for meaning, _ in members.values()]
        assert len(set(texts)) == len(texts)
