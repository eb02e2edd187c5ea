# SPDX-License-Identifier: Apache-2.0
"""Datagrams among directors: only who has the key can write one, and each counts once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.ownership import ANSWER, QUESTION
from limpet.core.sealing import (
    DATAGRAM_BYTES_MAX,
    HEADER,
    RECORDS,
    REPLAY_WINDOW,
    SENDER_BYTES_MAX,
    SENDERS_MAX,
    SIGNATURE_BYTES,
    TIME_WINDOW_MS,
    Datagram,
    Guard,
    Kind,
    Refusal,
    Seal,
    questions_max,
)

KEY = bytes(range(32))
SEAL = Seal("acme", KEY)
U64 = st.integers(0, (1 << 64) - 1)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=16)


@st.composite
def datagrams(draw: st.DrawFn) -> Datagram:
    kind = draw(st.sampled_from(Kind))
    sender = draw(NAMES)
    size = RECORDS[kind].itemsize
    data = draw(st.binary(min_size=size, max_size=size * 3))
    records = np.frombuffer(data[: len(data) // size * size], RECORDS[kind])
    return Datagram(kind, sender, draw(U64), draw(U64), draw(U64), records)


def is_same(one: Datagram | Refusal, other: Datagram) -> bool:
    return (
        isinstance(one, Datagram)
        and (one.kind, one.sender, one.time_ms, one.number, one.about)
        == (other.kind, other.sender, other.time_ms, other.number, other.about)
        and one.records.tobytes() == other.records.tobytes()
    )


@given(datagrams())
def test_what_is_sealed_is_read_as_it_was(said: Datagram) -> None:
    assert is_same(SEAL.open(SEAL.close(said)), said)


@given(datagrams(), st.data())
def test_one_changed_bit_is_a_refusal(said: Datagram, data: st.DataObject) -> None:
    whole = bytearray(SEAL.close(said))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    assert isinstance(SEAL.open(bytes(whole)), Refusal)


@given(datagrams(), st.integers(0, DATAGRAM_BYTES_MAX))
def test_datagram_that_is_cut_off_is_malformed(said: Datagram, length: int) -> None:
    whole = SEAL.close(said)
    assert SEAL.open(whole[: min(length, len(whole) - 1)]) is Refusal.MALFORMED


@given(st.binary(max_size=DATAGRAM_BYTES_MAX + 10))
def test_any_bytes_are_refused_and_never_an_error(data: bytes) -> None:
    assert isinstance(SEAL.open(data), Refusal)


@given(datagrams(), NAMES, st.binary(min_size=32, max_size=80))
@settings(max_examples=50)
def test_another_key_and_another_cluster_are_forgery(
    said: Datagram, cluster: str, key: bytes
) -> None:
    for other in (Seal("acme2", KEY), Seal("acm", b"e" + KEY), Seal(cluster, key)):
        if (cluster, key) != ("acme", KEY):
            assert other.open(SEAL.close(said)) is Refusal.FORGED


def test_key_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Seal("acme", KEY[1:])


def test_as_many_questions_as_are_said_to_fit_do_fit_and_no_more() -> None:
    for name in ("d", "n" * SENDER_BYTES_MAX):
        most = questions_max(name)
        for record, kind in ((QUESTION, Kind.QUESTIONS), (ANSWER, Kind.ANSWERS)):
            whole = SEAL.close(Datagram(kind, name, 0, 0, 0, np.zeros(most, record)))
            assert len(whole) <= DATAGRAM_BYTES_MAX
            assert isinstance(SEAL.open(whole), Datagram)
        size = HEADER.size + len(name) + SIGNATURE_BYTES + (most + 1) * QUESTION.itemsize
        assert size > DATAGRAM_BYTES_MAX


def said(number: int, time_ms: int = 0, sender: str = "b") -> Datagram:
    return Datagram(Kind.QUESTIONS, sender, time_ms, number, 0, np.zeros(1, QUESTION))


@given(st.lists(st.integers(0, 3 * REPLAY_WINDOW), max_size=60))
def test_each_number_is_taken_once_and_those_near_the_highest_in_any_order(
    numbers: list[int],
) -> None:
    guard, taken = Guard("a"), set[int]()
    for number in numbers:
        why = guard.judge(said(number), 0)
        if number in taken:
            assert why is Refusal.REPLAYED
        elif not taken or number > max(taken) - REPLAY_WINDOW:
            assert why is None
        else:
            assert why is Refusal.REPLAYED
        if why is None:
            taken.add(number)


@given(st.integers(-3 * TIME_WINDOW_MS, 3 * TIME_WINDOW_MS))
def test_datagram_counts_as_long_as_clocks_may_differ(ahead_ms: int) -> None:
    why = Guard("a").judge(said(1, 10**12 + ahead_ms), 10**12)
    assert why is (Refusal.OUTDATED if abs(ahead_ms) > TIME_WINDOW_MS else None)


def test_what_is_refused_for_its_time_does_not_move_the_window() -> None:
    guard = Guard("a")
    assert guard.judge(said(10**9, TIME_WINDOW_MS + 1), 0) is Refusal.OUTDATED
    assert guard.judge(said(1), 0) is None


def test_senders_do_not_share_numbers_and_our_own_name_is_none() -> None:
    guard = Guard("a")
    assert guard.judge(said(7, sender="b"), 0) is None
    assert guard.judge(said(7, sender="c"), 0) is None
    assert guard.judge(said(8, sender="a"), 0) is Refusal.OWN


def test_windows_of_many_senders_are_bounded() -> None:
    guard = Guard("a")
    for i in range(SENDERS_MAX * 2):
        assert guard.judge(said(1, sender=f"d{i}"), 0) is None
    assert len(guard._seen) == SENDERS_MAX
