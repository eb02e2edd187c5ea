# SPDX-License-Identifier: Apache-2.0
"""Documents say what is so: links lead somewhere, commands and keys exist.

And the other way round: what a user can type, configure or see counted is written down.
Not here: limits (tests/test_limits.py).
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from limpet.agent import config as agent_config
from limpet.cli.main import app
from limpet.core import config, document
from limpet.core.table import Table
from limpet.datapath import abi

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FOLDERS = ("docs", "bench", "bpf", "tests", "src", "tools", "packaging")
ADR_LINES_MAX, ARCHITECTURE_LINES_MAX = 80, 300
PICTURE_BYTES_MAX = 12_000
PICTURE_COLOURS = {"#ffffff", "#1f2328", "#0757b5", "#a63d00"}  # paper, and three more
SVG = "{http://www.w3.org/2000/svg}"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n)+", re.M)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
# What may stand before a command on a line of an example.
PROMPT = re.compile(
    r"^(?:\$ |# )?(?:sudo )?(?:\w+=\S* )*(?:\S*/)?limpet (?P<words>.*)$"
    r"|(?:-- |exec |ExecStart=|ExecReload=)(?:\S*/)?limpet (?P<more>.*)$"
)
OPTION = re.compile(r"(?:^|[ \[])(--?[a-z][a-z0-9-]*)")


@cache
def documents() -> tuple[Path, ...]:
    found = [*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))]
    return tuple(sorted(path for path in found if ".cache" not in path.parts))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A document without its examples."""
    return FENCE.sub("", path.read_text())


def all_text(folder: Path = DOCS) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.md")))


# --- Links -----------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as forges make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(path), re.M)
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in plain}


def broken_links(path: Path) -> Iterator[str]:
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists():
            yield f"{target}: no such file"
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_links_of_a_document_lead_somewhere(path: Path) -> None:
    assert not list(broken_links(path))


def expanded(path: str) -> list[str]:
    """`a/{b,c}.h` as the two paths it stands for."""
    match = re.search(r"\{([^}]*)\}", path)
    if not match:
        return [path]
    head, tail = path[: match.start()], path[match.end() :]
    return [each for middle in match[1].split(",") for each in expanded(head + middle + tail)]


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_files_that_a_document_names_are_there(path: Path) -> None:
    """In `code`, a path that begins with a folder of the tree."""
    named = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./{{}},*-]*")
    paths = [
        each
        for span in SPAN.findall(prose(path))
        for text in named.findall(span)
        if span.startswith(text)
        for each in expanded(text.rstrip(".,"))
    ]
    assert not [each for each in paths if not list(ROOT.glob(each.rstrip("/")))]


def test_documents_that_the_code_names_are_there() -> None:
    named = re.compile(r"\b((?:docs/[\w/-]+|ARCHITECTURE|README)\.md)\b")
    sources = [p for s in ("py", "h", "c") for f in FOLDERS for p in (ROOT / f).rglob(f"*.{s}")]
    wrong = {
        f"{name_of(path)}: {name}"
        for path in sources
        for name in named.findall(path.read_text())
        if not (ROOT / name).exists()
    }
    assert not wrong


def test_index_has_every_document_once_and_limits_first() -> None:
    links = list(LINK.findall((DOCS / "README.md").read_text()))
    assert links[0] == "limits.md"
    expected = {
        str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "README.md"
    }
    inside = [target for target in links if not target.startswith("../")]
    assert sorted(t for t in inside if t.endswith(".md")) == sorted(expected)


# --- Commands --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Example:
    """A use of `limpet` in a document."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: limpet {' '.join(self.words)}"


def words_of(text: str) -> tuple[str, ...]:
    """The words of one command, up to a comment, pipe, redirection or another's command."""
    text = re.split(r"\s#\s|\s[|&;>]|\s&&\s|\s-- ", f"{text} ")[0]
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())


def named_in_full(span: str) -> str:
    """`lab up` as `limpet lab up`: where a document is about a group, its tables leave that out."""
    is_group = any(
        span.startswith(f"{name} ") and children(command)
        for name, command in children(root_command()).items()
    )
    return f"limpet {span}" if is_group else span


def examples_in(path: Path) -> Iterator[Example]:
    text = path.read_text()
    lines = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
    lines += [
        line.strip() for block in INDENTED.findall(prose(path)) for line in block.splitlines()
    ]
    lines += [named_in_full(span) for span in SPAN.findall(prose(path))]
    for line in lines:
        for match in PROMPT.finditer(line.strip()):
            yield Example(name_of(path), words_of(match["words"] or match["more"]))
        nested = re.search(r" -- (?:\S*/)?limpet (.*)$", line)
        if nested:
            yield Example(name_of(path), words_of(nested[1]))


@cache
def examples() -> tuple[Example, ...]:
    return tuple(example for path in documents() for example in examples_in(path))


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


@cache
def children(command: Any) -> dict[str, Any]:
    """Subcommands by name; none for a command that does something."""
    if not hasattr(command, "list_commands"):
        return {}
    return {name: command.get_command(None, name) for name in command.list_commands(None)}


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    below = children(command)
    if not below:
        yield words
    for name, child in below.items():
        yield from leaves(child, (*words, name))


def wrong_with(example: Example) -> str:
    """Empty if the command is there and knows its options."""
    command, words = root_command(), list(example.words)
    while children(command) and words and not words[0].startswith("-"):
        word = words.pop(0)
        if word not in children(command):
            return f"{example}: no command {word!r}"
        command = children(command)[word]
    known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    used = {flag for word in words for flag in OPTION.findall(word.split("=")[0])}
    unknown = used - known - {"--help"}
    return f"{example}: no option {unknown}" if unknown else ""


def test_commands_in_documents_exist_with_their_options() -> None:
    assert len(examples()) > 15
    assert not [wrong for example in examples() if (wrong := wrong_with(example))]


def test_every_command_is_shown_in_a_document() -> None:
    shown = {example.words for example in examples()}
    missing = [
        f"limpet {' '.join(leaf)}"
        for leaf in leaves(root_command())
        if not any(words[: len(leaf)] == leaf for words in shown)
    ]
    assert not missing


@pytest.mark.parametrize("words", sorted(leaves(root_command())), ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    """Its help names every option, and the command says in a sentence what it does."""
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    command = root_command()
    for word in words:
        command = children(command)[word]
    assert command.help, f"limpet {' '.join(words)} has no help"


def test_make_targets_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    named = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.M)
    wrong = {
        f"{name_of(path)}: make {target}"
        for path in documents()
        for target in named.findall(path.read_text())
        if target not in targets
    }
    assert not wrong


# --- Configuration ---------------------------------------------------------------------------


def tables(table: type[BaseModel] = document.Document) -> Iterator[type[BaseModel]]:
    """Every table of a configuration file."""
    found = [
        each
        for each in vars(document).values()
        if isinstance(each, type) and issubclass(each, Table) and each is not Table
    ]
    assert table in found
    yield from found


@pytest.mark.parametrize("table", list(tables()), ids=lambda table: table.__name__)
def test_every_configuration_key_is_documented(table: type[BaseModel]) -> None:
    text = (DOCS / "formats" / "config.md").read_text()
    for key in table.model_fields:
        assert f"| `{key}` |" in text or f"[{key}]" in text, key


def test_every_key_of_the_agent_is_documented() -> None:
    text = all_text()
    missing = [key for key in agent_config.AgentConfig.model_fields if f"| `{key}` |" not in text]
    assert not missing


def toml_examples() -> list[tuple[str, str]]:
    return [
        (f"{name_of(path)} {number}", body)
        for path in documents()
        for number, (language, body) in enumerate(FENCE.findall(path.read_text()), 1)
        if language == "toml"
    ]


@pytest.mark.parametrize(("place", "text"), toml_examples(), ids=lambda value: value[:40])
def test_configuration_in_a_document_is_valid(place: str, text: str) -> None:
    """Whole files are parsed as such; parts of one at least as TOML."""
    raw = tomllib.loads(text)
    if "director" in raw and "vip" in raw:
        config.parse(text, place)
    if "directors" in raw and "vips" in raw:
        agent_config.parse(text, place)


# --- Counters --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(abi.MEANINGS))
def test_every_counter_is_documented_with_its_level(kind: str) -> None:
    """In one row of a table: its name as a label shows it, and normal, watch or alarm."""
    rows = [row for row in all_text(DOCS).splitlines() if row.startswith("|")]
    missing = [
        name.lower()
        for name, (_, level) in abi.MEANINGS[kind].items()
        if not any(f"`{name.lower()}`" in row and level in row for row in rows)
    ]
    assert not missing


# --- Form ------------------------------------------------------------------------------------


def test_decisions_are_numbered_without_gaps_and_short() -> None:
    decisions = sorted((DOCS / "adr").glob("*.md"))
    for number, path in enumerate(decisions, 1):
        lines = path.read_text().splitlines()
        assert path.name.startswith(f"{number:04}-"), path.name
        assert lines[0].startswith(f"# {number}. "), f"{path.name}: {lines[0]}"
        assert len(lines) <= ADR_LINES_MAX, f"{path.name}: {len(lines)} lines"


def test_architecture_is_a_map_not_a_book() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= ARCHITECTURE_LINES_MAX


def test_every_document_begins_with_a_title() -> None:
    begin = re.compile(r"(<!-- SPDX[^\n]*-->\n+)?# \S")
    assert not [name_of(path) for path in documents() if not begin.match(path.read_text())]


# --- Pictures --------------------------------------------------------------------------------


def pictures() -> list[Path]:
    found = sorted((DOCS / "pictures").iterdir())
    assert found
    return found


@pytest.mark.parametrize("path", pictures(), ids=name_of)
def test_picture_is_small_alone_and_says_what_it_shows(path: Path) -> None:
    """It loads nothing, has a title and a description, and some document shows it."""
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    for name in ("title", "desc"):
        assert (root.findtext(f"{SVG}{name}") or "").strip(), name
    assert len(text.encode()) < PICTURE_BYTES_MAX
    outside = re.findall(r"(?:href|src)=|@import|url\((?!#)|<script|<image", text)
    assert not outside
    assert set(re.findall(r"#[0-9a-f]{6}\b", text)) <= PICTURE_COLOURS
    shown = re.compile(rf"!\[[^\]\n]{{40,}}\]\([^)\s]*/{re.escape(path.name)}\)")
    assert any(shown.search(prose(document)) for document in documents())


def test_picture_of_the_ladder_has_every_rung() -> None:
    root = ElementTree.parse(DOCS / "pictures" / "ladder.svg").getroot()
    words = set(re.findall(r"\w+", " ".join(root.itertext())))
    assert {name.lower() for name in abi.MEANINGS["rung"]} <= words
