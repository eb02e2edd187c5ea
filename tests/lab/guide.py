# SPDX-License-Identifier: Apache-2.0
"""A guide in markdown, as something to carry out: its blocks, commands, tables, taken by place.

What is taken is remembered, so that a test can say at its end what of it nobody took.
What must differ where the guide is tried is replaced by `differing`, which fails where there is
nothing to replace: a guide that was changed is noticed.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

HEADING = re.compile(r"^## +(.+?) *$", re.M)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
# A code span that begins with one of these, and has more than one word, is a command.
PROGRAMS = frozenset(
    (
        "apt",
        "bird",
        "birdc",
        "curl",
        "install",
        "ip",
        "limpet",
        "nats-server",
        "nft",
        "pip",
        "systemctl",
    )
)
# What differs from run to run, or from machine to machine, in what a command says.
CHANGING = (
    (re.compile(r"\b[0-9a-f]{16}\b"), "DIGEST"),
    (re.compile(r"\b(fra|par|ams)-b\d\b"), "BACKEND"),
    (re.compile(r"\d+(\.\d+)?"), "N"),
    (re.compile(r"N min N s"), "N s"),
    (re.compile(r"─+"), "─"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A command of an example, and what it says there."""

    command: str
    said: str


@dataclass
class Guide:
    """One document. A section is named by its heading."""

    path: Path
    taken: set[str] = field(default_factory=set)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.path.read_text()

    # --- Taking ---------------------------------------------------------------------------------

    def block(self, section: str, having: str = "") -> str:
        """The only block of the section, or the only one with that text in it."""
        found = [text for text in self._blocks(section) if having in text]
        assert len(found) == 1, f"{section}: {len(found)} blocks with {having!r}"
        self.taken.add(found[0])
        return found[0]

    def command(self, section: str, begin: str) -> str:
        """The only command in the text of the section that begins like this."""
        found = {each for each in self._commands(section) if each.startswith(begin)}
        exact = found & {begin}
        assert len(exact or found) == 1, f"{section}: {sorted(found)} begin with {begin!r}"
        (command,) = exact or found
        self.taken.add(command)
        return command

    def snippet(self, section: str, begin: str) -> str:
        """As `command`, of what is configuration, and part of a sentence."""
        spans: list[str] = SPAN.findall(self._prose(section))
        found = {each for each in spans if each.startswith(begin)}
        assert len(found) == 1, f"{section}: {sorted(found)} begin with {begin!r}"
        return found.pop()

    def exchanges(self, section: str, having: str = "") -> list[Exchange]:
        """Of a block that shows commands with `$ ` before them."""
        parts = re.split(r"^\$ ", self.block(section, having), flags=re.M)
        assert parts[0] == "", parts[0]
        pairs = [part.partition("\n") for part in parts[1:]]
        return [Exchange(command.strip(), said) for command, _, said in pairs]

    def row(self, section: str, first: str) -> list[str]:
        """Cells of the only row of a table of the section whose first cell has that text."""
        rows = [line for line in self._prose(section).splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        found = [row for row in cells if first in row[0]]
        assert len(found) == 1, f"{section}: {len(found)} rows of {first!r}"
        return found[0]

    def rows(self, section: str) -> list[str]:
        """First cells of the section's table."""
        lines = [line for line in self._prose(section).splitlines() if line.startswith("|")]
        return [line.split("|")[1].strip() for line in lines[2:]]

    # --- What is left ---------------------------------------------------------------------------

    def left(self, *but: str) -> set[str]:
        """Blocks and commands that nobody took; a block by its first line. `but`: sections."""
        every = {each for name in self._sections() if name not in but for each in self._all(name)}
        return {each.partition("\n")[0] for each in every - self.taken}

    # --- Parts ----------------------------------------------------------------------------------

    def _all(self, section: str) -> list[str]:
        return [*self._blocks(section), *self._commands(section)]

    def _sections(self) -> dict[str, str]:
        _, *parts = HEADING.split(self.text)
        return dict(zip(parts[::2], parts[1::2], strict=True))

    def _blocks(self, section: str) -> list[str]:
        return [text for _, text in FENCE.findall(self._sections()[section])]

    def _prose(self, section: str) -> str:
        return FENCE.sub("", self._sections()[section])

    def _commands(self, section: str) -> list[str]:
        spans = [span.split() for span in SPAN.findall(self._prose(section))]
        return [" ".join(s) for s in spans if len(s) > 1 and Path(s[0]).name in PROGRAMS]


def differing(text: str, changes: dict[str, str]) -> str:
    """The text with each key replaced by its value; each has to be there."""
    for old, new in changes.items():
        assert old in text, f"nothing to replace: {old!r} in\n{text}"
        text = text.replace(old, new)
    return text


def shape(said: str) -> list[str]:
    """What a command says, without what changes from run to run."""
    for pattern, word in CHANGING:
        said = pattern.sub(word, said)
    return [line.strip() for line in said.strip().splitlines()]
