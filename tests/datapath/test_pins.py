# SPDX-License-Identifier: Apache-2.0
"""The folder of all pins goes with the last of them, and a start that races with that succeeds."""

import threading
import time
from pathlib import Path

from limpet.datapath import pins

ROUNDS, PAUSE_S = 2_000, 1e-5


def test_folder_above_goes_with_the_last(tmp_path: Path) -> None:
    above = tmp_path / "limpet"
    for name in ("d1", "d2"):
        pins.make(above / name)
    (above / "d1" / "maps").mkdir()
    pins.remove(above / "d1")
    assert [path.name for path in above.iterdir()] == ["d2"]
    pins.remove(above / "d2")
    assert not above.exists()
    pins.remove(above / "d2")  # again: nothing is there, and nothing is wrong


def test_start_that_races_with_a_removal_has_its_folder(tmp_path: Path) -> None:
    above, is_over = tmp_path / "limpet", threading.Event()

    def remove() -> None:
        while not is_over.is_set():
            pins.remove_empty(above)
            time.sleep(PAUSE_S)

    other = threading.Thread(target=remove)
    other.start()
    try:
        for number in range(ROUNDS):
            mine = above / str(number)
            pins.make(mine)
            assert mine.is_dir()
            mine.rmdir()
    finally:
        is_over.set()
        other.join()
