# SPDX-License-Identifier: Apache-2.0
"""Lock: one process at a time writes a director's part of the kernel.

What is locked is the folder of pins itself, the very thing that two writers would spoil: so the
lock holds whatever socket or state folder the other one was given, the kernel lets go of it when
the process dies, and no file stays behind.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limpet.api.places import DOT
from limpet.core.errors import Conflict
from limpet.datapath.pins import make

POLL_S = 0.02
OF_AN_AGENT = "agent"  # pinned by an agent of that name


@contextmanager
def locked(pins: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock; the folder is made if need be. Conflict names the process that has it."""
    _check_free(pins)
    deadline = time.monotonic() + wait_s
    while (fd := _try(pins)) is None:
        if time.monotonic() >= deadline:
            raise Conflict(
                f"director {_name(pins)!r} has a daemon already (pid {owner(pins) or 'unknown'}); "
                "stop that one first, or give this one another name"
            )
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.close(fd)


def owner(pins: Path) -> int | None:
    """Process that holds the lock, None if nobody does."""
    try:
        place = pins.stat()
    except FileNotFoundError:
        return None
    name = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == name:
            return int(fields[4])
    return None


def _name(pins: Path) -> str:
    return pins.name.replace(DOT, ".")


def _check_free(pins: Path) -> None:
    """Agents pin in the same folder: what a director does there would end the one of its name."""
    if (pins / OF_AN_AGENT).exists():
        raise Conflict(
            f"{_name(pins)!r} is the name of an agent on this machine (pinned in {pins}), not of a "
            "director: give the director another name; `limpet agent down` removes agents"
        )


def _try(pins: Path) -> int | None:
    make(pins)
    try:
        fd = os.open(pins, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # somebody has just removed it
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == pins.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody has it, or has just removed the folder
    os.close(fd)
    return None
