# SPDX-License-Identifier: Apache-2.0
"""Tokens: who may use the API over TCP, and as what.

A file names them, one a line: role, name, SHA-256 of the secret in hex. It holds no secret, so that
reading it lets nobody in; writing it does, hence it must not be writable by all. Secrets are 256
random bits: a plain hash is enough, guessing them is not a way in.

A wrong line is a ConfigError, and then none of the file counts. Light to import: a command makes
tokens, too.
"""

import hashlib
import hmac
import re
import secrets
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from limpet.core.errors import ConfigError, Problem, unreadable

SECRET_BYTES = 32
TOKENS_MAX = 1_024  # a file with more is refused: each request compares with all of them
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
MEND = 'write "ROLE NAME SHA256", as `limpet token new` prints it; ROLE is viewer or operator'


class Role(StrEnum):
    """What somebody may do."""

    VIEWER = "viewer"  # read, and ask what a change would do
    OPERATOR = "operator"  # everything


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file."""

    role: Role
    name: str
    digest: str  # SHA-256 of the secret, hex


class Tokens:
    """All tokens of a file."""

    def __init__(self, tokens: tuple[Token, ...] = ()) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, secret: str) -> Token | None:
        """The token of a secret. Takes the same time whether and wherever it is found."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def new_token(role: str, name: str) -> tuple[str, str]:
    """A secret, to be given to `name`, and the line for the tokens file. ConfigError if not so."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    line = f"{role} {name} {hashlib.sha256(secret.encode()).hexdigest()}"
    parse(line, "the token")
    return secret, line


def read(path: Path) -> Tokens:
    """The tokens of a file."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = unreadable(path, error).problems[0]
        mend = "name the tokens file in api.tokens; `limpet token new` prints lines for it"
        raise ConfigError([Problem(problem.where, problem.why, mend)]) from error
    if mode & stat.S_IWOTH:
        raise ConfigError([Problem(str(path), "everybody may write it", f"chmod o-w {path}")])
    return parse(text, str(path))


def parse(text: str, where: str) -> Tokens:
    """The tokens of a text. Blank lines, and what follows a #, do not count."""
    found: dict[str, Token] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        why = _wrong(words, found)
        if why:
            problems.append(Problem(f"{where}:{number}", why, MEND))
        else:
            found[words[1]] = Token(Role(words[0]), words[1], words[2])
    if len(found) > TOKENS_MAX:
        problems.append(Problem(where, f"{len(found)} tokens", f"keep to {TOKENS_MAX}"))
    if problems:
        raise ConfigError(problems)
    return Tokens(tuple(found.values()))


def _wrong(words: list[str], known: dict[str, Token]) -> str:
    """Why the words of a line are no token; empty if they are one. Says no digest."""
    if len(words) != 3:
        return f"{len(words)} words, not 3"
    role, name, digest = words
    if role not in list(Role):
        return f"{role!r} is not a role"
    if not NAME.fullmatch(name):
        return f"{name!r} is not a name"
    if name in known:
        return f"{name!r} is there twice"
    return "" if DIGEST.fullmatch(digest) else f"what follows {name!r} is not a SHA-256 in hex"
