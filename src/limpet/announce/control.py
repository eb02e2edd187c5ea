# SPDX-License-Identifier: Apache-2.0
"""Control: asks a running BIRD over its control socket, as birdc does.

A command is one line. The answer is lines of "NNNN-text" (or " text", which goes on with the code
before) and a last one of "NNNN text". Codes from 8000 on are refusals, from 9000 on syntax errors:
both are raised with BIRD's own words.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from limpet.core.errors import LimpetError

TIMEOUT_S = 5.0
ANSWER_MAX = 16 << 20  # bytes; a thousand routes with attributes are 0.3 MiB
REFUSED = 8000


class BirdError(LimpetError):
    """BIRD does not answer, or refuses what it was asked."""


class SilentError(BirdError):
    """BIRD does not answer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an answer."""

    code: int
    text: str


def ask(path: Path, command: str, timeout_s: float = TIMEOUT_S) -> list[Line]:
    """The answer, without lines that say nothing. Raises BirdError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            with connection.makefile("rb") as answers:
                _answer(answers)  # its greeting
                connection.sendall(command.encode() + b"\n")
                found = _answer(answers)
    except OSError as error:
        raise SilentError(f"BIRD does not answer on {path}: {error.strerror or error}") from error
    refused = [line.text for line in found if line.code >= REFUSED]
    if refused:
        raise BirdError(f"BIRD refuses {command!r}: {'; '.join(refused)}")
    return [line for line in found if line.text.strip()]


def _answer(answers: BinaryIO) -> list[Line]:
    found: list[Line] = []
    code, size = 0, 0
    while True:
        raw = answers.readline(ANSWER_MAX)
        size += len(raw)
        if not raw.endswith(b"\n") or size > ANSWER_MAX:
            raise SilentError("BIRD ended in the middle of an answer")
        line = raw.decode(errors="replace").rstrip("\n")
        head, mark = line[:4], line[4:5]
        if head.isdigit() and mark in ("-", " "):
            code = int(head)
            found.append(Line(code, line[5:]))
            if mark == " ":
                return found
        else:
            found.append(Line(code, line.removeprefix(" ")))
