# SPDX-License-Identifier: Apache-2.0
"""Exceptions: merging is a semilattice, and a batch is believed only if it is signed and whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core import exception
from limpet.core.exception import (
    BATCH_MAX,
    ENTRY,
    HEADER,
    KEY,
    RECORD,
    SIGNATURE_BYTES,
    BatchError,
    Flag,
    Kind,
    Records,
)
from limpet.datapath import abi

SECRET = b"k" * 32
NOW = 1_800_000_000_000


@st.composite
def records(draw: st.DrawFn, most: int = 12) -> Records:
    """Few names, few times, few origins: most of them meet."""
    found = np.zeros(draw(st.integers(0, most)), RECORD)
    small = st.integers(0, 2)
    for record in found:
        record["key"]["client"] = (draw(small), draw(small))
        record["key"]["range"], record["key"]["vip"] = draw(st.integers(0, 1)), 1
        record["key"]["kind"] = draw(st.sampled_from(Kind))
        for name in ("time", "origin", "generation", "backend", "flags"):
            record[name] = draw(small)
        record["expiry"] = 1 + draw(small)
    return found


NOTHING = np.zeros(0, RECORD)


@given(records(), records())
def test_merge_does_not_ask_who_came_first(one: Records, other: Records) -> None:
    assert np.array_equal(exception.merge(one, other), exception.merge(other, one))


@given(records(), records(), records())
def test_merge_does_not_ask_in_which_groups(a: Records, b: Records, c: Records) -> None:
    left = exception.merge(exception.merge(a, b), c)
    assert np.array_equal(left, exception.merge(a, exception.merge(b, c)))


@given(records(), records())
def test_merge_takes_what_comes_twice_once(one: Records, other: Records) -> None:
    merged = exception.merge(one, other)
    assert np.array_equal(exception.merge(merged, one), merged)
    assert np.array_equal(exception.merge(merged, merged), merged)


@given(records())
def test_merge_keeps_one_record_of_every_name_the_newest(some: Records) -> None:
    merged = exception.merge(some, NOTHING)
    order = exception.ORDER
    newest: dict[bytes, tuple[int, ...]] = {}
    for record in some:
        value = tuple(int(record[name]) for name in order)
        newest[record["key"].tobytes()] = max(newest.get(record["key"].tobytes(), value), value)
    found = {each["key"].tobytes(): tuple(int(each[name]) for name in order) for each in merged}
    assert found == newest


@given(records(), records())
def test_newer_is_an_order(one: Records, other: Records) -> None:
    count = min(len(one), len(other))
    one, other = one[:count].copy(), other[:count].copy()
    one["key"] = other["key"]
    both = exception.is_newer(one, other) & exception.is_newer(other, one)
    assert not both.any()
    neither = ~exception.is_newer(one, other) & ~exception.is_newer(other, one)
    assert np.array_equal(one[neither], other[neither])


def test_generation_counts_before_time_and_time_before_origin() -> None:
    older, newer = np.zeros(3, RECORD), np.zeros(3, RECORD)
    newer["generation"][0], older["time"][0] = 2, 9
    newer["time"][1], older["origin"][1] = 2, 9
    newer["origin"][2], older["expiry"][2] = 2, 9
    assert exception.is_newer(newer, older).all()


# --- Batches -------------------------------------------------------------------------------------


def batch(count: int) -> Records:
    made = np.zeros(count, RECORD)
    made["key"]["client"][:, 1] = np.arange(count) + (0xFFFF << 32)
    made["key"]["vip"], made["key"]["kind"] = 3, Kind.SESSION
    made["time"], made["expiry"], made["backend"] = NOW, NOW + 60_000, 7
    made["generation"], made["origin"] = 5, exception.origin_of("fra-d1")
    return made


@pytest.mark.parametrize("count", [1, 2, BATCH_MAX])
def test_batch_is_read_as_it_was_written(count: int) -> None:
    data = exception.encode(batch(count), "fra-d1", NOW, SECRET)
    assert len(data) == HEADER.itemsize + count * ENTRY.itemsize + SIGNATURE_BYTES
    told = exception.decode(data, "fra-d1", SECRET)
    assert told.sent == NOW
    assert np.array_equal(told.records, batch(count))


@given(st.data())
def test_one_changed_bit_of_a_batch_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(exception.encode(batch(3), "fra-d1", NOW, SECRET))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BatchError) as refused:
        exception.decode(bytes(whole), "fra-d1", SECRET)
    assert refused.value.reason == "signature"


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_the_one_error(data: bytes) -> None:
    with pytest.raises(BatchError):
        exception.decode(data, "fra-d1", SECRET)


@given(st.binary(min_size=HEADER.itemsize, max_size=400))
def test_bytes_that_are_signed_but_no_batch_are_refused(body: bytes) -> None:
    with pytest.raises(BatchError) as refused:
        exception.decode(body + exception._signature(body, SECRET), "fra-d1", SECRET)
    assert refused.value.reason in ("form", "origin")


@pytest.mark.parametrize("secret", [b"x" * 32, b"k" * 33, b"k" * 31])
def test_batch_of_another_cluster_is_refused(secret: bytes) -> None:
    data = exception.encode(batch(3), "fra-d1", NOW, secret)
    with pytest.raises(BatchError, match="not signed with this cluster's key"):
        exception.decode(data, "fra-d1", SECRET)


def test_secret_may_be_longer_than_a_key_of_the_hash() -> None:
    long = b"a" * 200
    data = exception.encode(batch(1), "fra-d1", NOW, long)
    assert len(exception.decode(data, "fra-d1", long).records) == 1
    with pytest.raises(BatchError):
        exception.decode(data, "fra-d1", long[:64])


def test_batch_in_the_log_of_another_director_is_refused() -> None:
    data = exception.encode(batch(3), "fra-d1", NOW, SECRET)
    with pytest.raises(BatchError) as refused:
        exception.decode(data, "par-d1", SECRET)
    assert refused.value.reason == "origin"


def test_numbers_are_those_of_the_data_path() -> None:
    assert KEY.itemsize == abi.EXCEPTION_KEY.itemsize
    ours = [(name, KEY.fields[name][1]) for name in KEY.names or ()]  # type: ignore[index]
    theirs = [
        (name, abi.EXCEPTION_KEY.fields[name][1])  # type: ignore[index]
        for name in abi.EXCEPTION_KEY.names or ()
    ]
    assert ours == theirs
    kinds = {each.name: int(each) for each in Kind}
    assert kinds == {each.name: int(each) for each in abi.ExceptionKind}
    shared = {each.name: int(each) for each in Flag if each is not Flag.GONE}
    assert shared == {each.name: int(each) for each in abi.ExceptionFlag}
