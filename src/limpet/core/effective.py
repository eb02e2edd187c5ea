# SPDX-License-Identifier: Apache-2.0
"""Effective: what the file says of each backend, what commands put on top, and what comes of it.

`limpet diff` shows it, so that nobody has to guess why a backend of weight 2 gets nothing. The text
lists what is in effect otherwise than the file says; the JSON has every backend of every pool, and
names intents that have no effect because the file does not have their backend or pool.

Pure, and about one moment: the assessments are those of core/eligible.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from limpet.core.eligible import Assessment
from limpet.core.intent import Intents, encode
from limpet.core.model import Desired, Standing

IN_WORDS = {
    Standing.LEFT_BY_SESSIONS: "new flows of its sessions go elsewhere",
    Standing.LEFT_BY_FLOWS: "its flows are placed anew",
    Standing.RESET: "its flows are reset",
}
NOTHING = "everything is as the file says"


@dataclass(frozen=True, slots=True)
class Line:
    """One backend of a pool."""

    pool: str
    backend: str
    in_file: int  # weight
    by_command: int | None
    intent: str  # active, draining, drained
    assessment: Assessment

    @property
    def standing(self) -> tuple[str, ...]:
        return tuple(words for bit, words in IN_WORDS.items() if bit in self.assessment.standing)

    @property
    def is_as_in_file(self) -> bool:
        each = self.assessment
        is_full = each.weight == self.in_file and each.share == 1
        return is_full and not each.standing and self.intent == "active"

    def __str__(self) -> str:
        """b1: file 2, command 1, in effect 0: draining since 2026-01-31T12:00:00Z"""
        command = "" if self.by_command is None else f", command {self.by_command}"
        said = "; ".join((*self.assessment.reasons, *self.standing))
        effect = f"in effect {self.assessment.weight}{': ' if said else ''}{said}"
        return f"{self.backend}: file {self.in_file}{command}, {effect}"

    def json(self) -> dict[str, Any]:
        return {
            "pool": self.pool,
            "backend": self.backend,
            "file_weight": self.in_file,
            "command_weight": self.by_command,
            "intent": self.intent,
            "effective_weight": self.assessment.weight,
            "full_weight": self.assessment.full_weight,
            "standing": list(self.standing),
            "reasons": list(self.assessment.reasons),
        }


@dataclass(frozen=True, slots=True)
class Effective:
    """All backends of all pools, and the intents on top of the file."""

    lines: tuple[Line, ...]
    intents: Intents
    idle: tuple[str, ...]  # intents without effect, in words

    def __str__(self) -> str:
        """Fit for a terminal: what is otherwise than in the file, by pool."""
        shown: list[str] = []
        pool = ""
        for line in (line for line in self.lines if not line.is_as_in_file):
            if line.pool != pool:
                pool = line.pool
                shown.append(f"pool {pool}")
            shown.append(f"  {line}")
        shown += self.idle
        return "\n".join(shown) or NOTHING

    def json(self) -> dict[str, Any]:
        """{file, intents, effective, summary}"""
        weights: dict[str, dict[str, int]] = {}
        for line in self.lines:
            weights.setdefault(line.pool, {})[line.backend] = line.in_file
        return {
            "file": {"pools": weights},
            "intents": {**encode(self.intents), "without_effect": list(self.idle)},
            "effective": [line.json() for line in self.lines],
            "summary": str(self),
        }


def effective(
    desired: Desired, intents: Intents, assessments: Mapping[tuple[str, str], Assessment]
) -> Effective:
    """What is in effect, by pool and backend in the order of the file."""
    lines = tuple(
        Line(
            pool=pool.name,
            backend=name,
            in_file=weight,
            by_command=intents.weights.get((pool.name, name)),
            intent=intent(intents, name),
            assessment=assessments[(pool.name, name)],
        )
        for pool in desired.pools
        for name, weight in pool.weights.items()
    )
    return Effective(lines, intents, tuple(_idle(desired, intents)))


def intent(intents: Intents, backend: str) -> str:
    """In a word: active, draining or drained."""
    drain = intents.drains.get(backend)
    if drain is None:
        return "active"
    return "draining" if drain.drained is None else "drained"


def _idle(desired: Desired, intents: Intents) -> Iterator[str]:
    known = {backend.name for backend in desired.backends}
    for name in sorted(intents.drains.keys() - known):
        yield f"drain of {name}: without effect, the file has no such backend"
    members = {(pool.name, name) for pool in desired.pools for name in pool.weights}
    for pool, name in sorted(intents.weights.keys() - members):
        weight = intents.weights[(pool, name)]
        yield f"weight {weight} of {name} in pool {pool}: without effect, it is not in there"
