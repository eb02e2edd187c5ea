# SPDX-License-Identifier: Apache-2.0
"""What fits into either store, what gives way, what is refused; and how one moves into another."""

import os
from pathlib import Path

import pytest

from limpet.core.errors import ConfigError, NotFound
from limpet.store.interface import (
    BLOB_BYTES_MAX,
    VALUE_BYTES_MAX,
    Batch,
    Entry,
    Store,
    TooLarge,
    Truncated,
)
from store.stores import USUAL, Place, opened, run


def test_values_and_batches_up_to_the_limit_are_taken_and_larger_ones_refused(place: Place) -> None:
    async def work() -> None:
        async with opened(place, USUAL) as store:
            most = os.urandom(VALUE_BYTES_MAX)
            revision = await store.put_if("head", most, 0)
            assert await store.append("x", most) == 1
            with pytest.raises(TooLarge, match="900,001 bytes, at most 900,000"):
                await store.put_if("head", most + b"x", revision)
            with pytest.raises(TooLarge):
                await store.append("x", most + b"x")
            with pytest.raises(TooLarge):
                await store.put_blob(bytes(BLOB_BYTES_MAX + 1))
            assert await store.get("head") == Entry("head", most, revision)
            async for batch in store.read("x", 0):
                assert batch.data == most
                break

    run(work())


def test_largest_blob_comes_back_as_it_was(place: Place) -> None:
    async def work() -> None:
        async with opened(place, USUAL) as store:
            data = os.urandom(1 << 20) * (BLOB_BYTES_MAX >> 20)
            assert await store.get_blob(await store.put_blob(data)) == data

    run(work())


def test_oldest_blobs_give_way_and_the_newest_stays(place: Place) -> None:
    async def work() -> None:
        async with opened(place) as store:
            digests = [await store.put_blob(os.urandom(1 << 20)) for _ in range(6)]
            await store.get_blob(digests[-1])
            with pytest.raises(NotFound, match="gave way"):
                await store.get_blob(digests[0])

    run(work())


def test_unusable_names_are_refused(place: Place) -> None:
    async def work() -> None:
        async with opened(place) as store:
            for name in ("", "/a", "a/", "a//b", "a\nb", "x" * 201):
                with pytest.raises(ConfigError, match="store: name"):
                    await store.put_if(name, b"", 0)

    run(work())


def test_damaged_snapshot_is_refused_and_changes_nothing(place: Place) -> None:
    async def work() -> None:
        async with opened(place) as store:
            revision = await store.put_if("head", b"1", 0)
            data = await store.snapshot()
            for wrong in (b"", data[:-1], data[:40] + bytes([data[40] ^ 1]) + data[41:]):
                with pytest.raises(ConfigError, match="not a whole one"):
                    await store.restore(wrong)
            assert await store.get("head") == Entry("head", b"1", revision)

    run(work())


def test_snapshot_moves_to_another_store_of_any_kind(place: Place, tmp_path: Path) -> None:
    """Revisions and sequences go on behind, so that who knew the old ones notices."""

    async def fill(store: Store) -> None:
        for _ in range(3):
            entry = await store.get("head")
            await store.put_if("head", b"text", entry.revision if entry else 0)
        await store.put_blob(b"tables")
        for number in range(5):
            await store.append("directory-fra", b"%d" % number)

    async def move(source: Store, target: Store) -> None:
        await fill(source)
        before = await source.get("head")
        assert before
        await target.restore(await source.snapshot())
        after = await target.get("head")
        assert after
        assert after.value == before.value
        assert after.revision > before.revision
        digest = await target.put_blob(b"tables")
        assert await target.get_blob(digest) == b"tables"
        assert await target.last("directory-fra") > 5
        with pytest.raises(Truncated) as raised:
            await anext(aiter(target.read("directory-fra", 5)))
        sequence = await target.append("directory-fra", b"new")
        assert sequence == raised.value.first
        async for batch in target.read("directory-fra", raised.value.first - 1):
            assert batch == Batch(sequence, b"new")
            break

    async def work() -> None:
        other = Place(tmp_path)
        async with opened(place) as first, opened(other) as second:
            await move(first, second)
        async with opened(place) as first, opened(other) as second:
            await move(second, first)

    run(work())
