# SPDX-License-Identifier: Apache-2.0
"""What a director keeps of the session directory for its next start."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from limpet.core.exception import RECORD
from limpet.daemon.directory import keeping
from limpet.daemon.directory.keeping import NAME, Kept


def kept() -> Kept:
    records = np.zeros(3, RECORD)
    records["time"] = [1, 2, 3]
    return Kept(records[:2], {"fra-d1": 7, "par-d1": 9}, records[2:])


def test_what_was_kept_is_recalled_also_by_many_at_once(tmp_path: Path) -> None:
    keeping.keep(tmp_path, kept())
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(keeping.recall, [tmp_path] * 200):
            assert found.records.tobytes() == kept().records.tobytes()
            assert found.waiting.tobytes() == kept().waiting.tobytes()
            assert found.loaded == kept().loaded
            assert found.records.flags.writeable


def test_nothing_is_recalled_where_nothing_was_kept(tmp_path: Path) -> None:
    found = keeping.recall(tmp_path)
    assert not len(found.records)
    assert not found.loaded


@pytest.mark.parametrize("size", [0, 5, -1, -100])
def test_a_file_that_was_cut_short_is_as_none(tmp_path: Path, size: int) -> None:
    keeping.keep(tmp_path, kept())
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:size])
    found = keeping.recall(tmp_path)
    assert not len(found.records)
    assert not found.loaded


def test_a_file_with_another_bit_is_as_none(tmp_path: Path) -> None:
    keeping.keep(tmp_path, kept())
    whole = bytearray((tmp_path / NAME).read_bytes())
    whole[-1] ^= 1
    (tmp_path / NAME).write_bytes(whole)
    assert not len(keeping.recall(tmp_path).records)
