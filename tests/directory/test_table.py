# SPDX-License-Identifier: Apache-2.0
"""The merged table holds what merging everything at once gives, whatever came, lapsed, or moved."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from directory.test_exception import records
from limpet.core import exception
from limpet.core.exception import RECORD, Records
from limpet.daemon.directory.table import Table

KEY = (3, 5)
Batches = list[Records]


def ordered(some: Records) -> Records:
    return exception.merge(some, np.zeros(0, RECORD))


def crowded() -> Table:
    """All names begin at few places of its index."""
    table = Table(64, KEY)
    table._mask = np.uint64(255)
    return table


@given(st.lists(records(), max_size=6))
def test_table_is_what_merging_all_gives(batches: Batches) -> None:
    table, wanted = crowded(), np.zeros(0, RECORD)
    for batch in batches:
        before = len(wanted)
        merged = table.merge(batch)
        wanted = exception.merge(wanted, batch)
        assert len(merged.changed) + merged.stale + merged.full == len(batch)
        assert int((merged.before == 0).sum()) >= len(wanted) - before
    assert np.array_equal(ordered(table.records()), wanted)
    assert len(table) == len(wanted)
    assert np.array_equal(table.at(table.find(wanted["key"])), wanted)


@given(st.lists(records(), max_size=6), st.integers(1, 3))
def test_what_has_lapsed_is_gone_and_may_return(batches: Batches, now: int) -> None:
    table, wanted = crowded(), np.zeros(0, RECORD)
    for batch in batches:
        table.merge(batch)
        wanted = exception.merge(wanted, batch)
        gone = table.expire(now)
        lapsed = wanted["expiry"] <= now
        assert np.array_equal(ordered(gone), wanted[lapsed])
        wanted = wanted[~lapsed]
        assert np.array_equal(ordered(table.records()), wanted)
        assert not table.find(gone["key"]).any()
    assert len(table) == len(wanted)
    compacted = table.compacted()
    assert compacted.vacant == 0
    assert np.array_equal(ordered(compacted.records()), wanted)


def many(count: int, first: int = 0) -> Records:
    made = np.zeros(count, RECORD)
    made["key"]["client"][:, 1] = np.arange(first, first + count)
    made["time"], made["expiry"], made["backend"], made["origin"] = 5, 9, 1, 2
    return made


@given(st.integers(1, 400), st.randoms(use_true_random=False))
def test_names_that_collide_are_all_found(count: int, random: object) -> None:
    table = Table(400, KEY)
    table._mask = np.uint64(511)  # nearly full
    table.merge(many(count))
    assert (table.find(many(count)["key"]) > 0).all()
    assert not table.find(many(10, count)["key"]).any()


def test_what_has_no_room_is_counted_and_what_is_there_stays() -> None:
    table = Table(100, KEY)
    assert table.merge(many(90)).full == 0
    merged = table.merge(many(20, 90))
    assert (len(merged.changed), merged.full, len(table)) == (10, 10, 100)
    newer = many(100)
    newer["time"] = 6
    assert len(table.merge(newer).changed) == 100
    table.expire(9)
    assert (len(table), table.vacant) == (0, 100)
    assert table.merge(many(1, 500)).full == 1
    assert table.compacted().merge(many(100, 500)).full == 0


def test_says_whose_record_was_replaced() -> None:
    table = Table(100, KEY)
    table.merge(many(2))
    newer = many(3)
    newer["time"], newer["origin"] = 6, 4
    merged = table.merge(newer)
    assert dict(
        zip(merged.changed["key"]["client"][:, 1].tolist(), merged.before.tolist(), strict=True)
    ) == {
        0: 2,
        1: 2,
        2: 0,
    }
