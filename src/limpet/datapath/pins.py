# SPDX-License-Identifier: Apache-2.0
"""Pins: the folder in bpffs in which a director or an agent pins what shall outlive its process.

All of them lie in one folder above, which goes with the last. Nobody holds a lock over that: who
makes a folder while the one above is removed makes both again, and a folder above that somebody
uses is not empty, so the kernel keeps it.
"""

import contextlib
import shutil
import time
from pathlib import Path

TRIES = 100  # each is lost only to another process that ends in the same instant
PAUSE_S = 0.0001  # longer with each


def make(folder: Path) -> None:
    """The folder is there afterwards."""
    for tried in range(TRIES):
        with contextlib.suppress(FileNotFoundError):  # the one above went between two steps
            folder.mkdir(parents=True, exist_ok=True)
            return
        time.sleep(tried * PAUSE_S)  # else the two may keep step with each other
    folder.mkdir(parents=True, exist_ok=True)


def remove(folder: Path) -> None:
    """Remove the folder with all in it, and the one above if this was the last in it."""
    shutil.rmtree(folder, ignore_errors=True)
    remove_empty(folder.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder unless something is in it."""
    with contextlib.suppress(OSError):  # ENOTEMPTY; or somebody was faster
        folder.rmdir()
