# SPDX-License-Identifier: Apache-2.0
"""Tokens: a file of hashes, and secrets that fit one of its lines."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.api import tokens
from limpet.api.tokens import Role, Token, new_token, parse
from limpet.core.errors import ConfigError

DIGEST = "ab" * 32


def test_a_new_token_opens_what_its_line_says() -> None:
    secret, line = new_token("operator", "ci")
    found = parse(line, "f").find(secret)
    assert found == Token(Role.OPERATOR, "ci", hashlib.sha256(secret.encode()).hexdigest())
    assert secret not in line
    assert len(secret) >= 43  # 256 bits in base64


def test_no_two_new_tokens_are_the_same() -> None:
    assert len({new_token("viewer", "x")[0] for _ in range(100)}) == 100


@given(st.text())
def test_other_secrets_find_nothing(secret: str) -> None:
    assert parse(new_token("viewer", "x")[1], "f").find(secret) is None


def test_the_hash_itself_is_no_secret() -> None:
    _, line = new_token("viewer", "x")
    assert parse(line, "f").find(line.split()[2]) is None


def test_comments_and_blank_lines_do_not_count() -> None:
    text = (
        f"# who may\n\n  viewer  wall {DIGEST}  # the screen in the corridor\n#viewer y {DIGEST}\n"
    )
    assert len(parse(text, "f")) == 1


WRONG = {
    f"admin x {DIGEST}": "'admin' is not a role",
    f"viewer {DIGEST}": "2 words, not 3",
    f"viewer x {DIGEST} y": "4 words, not 3",
    f"viewer -x {DIGEST}": "'-x' is not a name",
    f"viewer {'x' * 65} {DIGEST}": "is not a name",
    f"viewer x {DIGEST[:-1]}": "what follows 'x' is not a SHA-256 in hex",
    f"viewer x {DIGEST.upper()}": "what follows 'x' is not a SHA-256 in hex",
    f"viewer x {DIGEST}\noperator x {DIGEST}": "'x' is there twice",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_line_is_named_and_nothing_counts(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"# first\n{text}", "tokens.txt")
    (problem,) = caught.value.problems
    assert problem.where == f"tokens.txt:{text.count(chr(10)) + 2}"
    assert WRONG[text] in problem.why
    assert DIGEST not in str(caught.value)


def test_every_wrong_line_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("a\nb\nc", "f")
    assert [problem.where for problem in caught.value.problems] == ["f:1", "f:2", "f:3"]


def test_too_many_tokens_are_refused() -> None:
    lines = [f"viewer n{number} {DIGEST}" for number in range(tokens.TOKENS_MAX + 1)]
    assert len(parse("\n".join(lines[1:]), "f")) == tokens.TOKENS_MAX
    with pytest.raises(ConfigError, match="1025 tokens"):
        parse("\n".join(lines), "f")


@pytest.mark.parametrize(("role", "name"), [("root", "x"), ("viewer", "a b"), ("viewer", "")])
def test_a_token_that_its_own_file_would_not_have_is_not_made(role: str, name: str) -> None:
    with pytest.raises(ConfigError):
        new_token(role, name)
