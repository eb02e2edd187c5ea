# SPDX-License-Identifier: Apache-2.0
"""Folder: the files by which the daemon and the speaker of a director know of each other.

The speaker outlives the daemon, so they share no connection: the daemon writes what is to be said
and a sign of life every second; the speaker writes what became of it. Whoever reads finds a whole
file: each is written aside and moved. Only root may look in: BIRD's file holds passwords.

The speaker holds a lock while it lives; the kernel lets go of it when it dies, so that a pid in a
file is never believed of a process that has ended.
"""

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of life of the daemon, and what the speaker is to do when it stays away."""

    mode: str  # "bird" or "kernel"
    hold_s: float
    table: int = 0  # of the kernel
    count: int = 0  # rises with every sign


@dataclass(frozen=True, slots=True)
class Report:
    """What the speaker says of itself."""

    pid: int = 0
    bird_pid: int = 0  # 0: none runs
    restarts: int = 0  # of BIRD, after it ended by itself
    withdrawals: int = 0  # of everything, because the daemon was gone for too long
    is_withdrawn: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one speaker."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "bird.conf"

    @property
    def routes(self) -> Path:
        return self.path / "routes.conf"

    @property
    def control(self) -> Path:
        return self.path / "bird.ctl"

    @property
    def bird_log(self) -> Path:
        return self.path / "bird.log"

    @property
    def log(self) -> Path:
        return self.path / "speaker.log"

    @property
    def _lock(self) -> Path:
        return self.path / "pid"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)

    # --- Signs of life --------------------------------------------------------------------------

    def write_sign(self, sign: Sign) -> None:
        write(self.path / "sign", json.dumps(asdict(sign)))

    def sign(self) -> Sign | None:
        found = _read(self.path / "sign")
        return None if found is None else Sign(**found)

    def write_report(self, report: Report) -> None:
        write(self.path / "report", json.dumps(asdict(report)))

    def report(self) -> Report:
        """Of the speaker that runs, or of the last one."""
        found = _read(self.path / "report")
        return Report() if found is None else Report(**found)

    # --- Who runs -------------------------------------------------------------------------------

    def lock(self) -> int | None:
        """Be the speaker of this folder, while the descriptor is open. None: another one is."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def owner(self) -> int | None:
        """Process that is the speaker; None: there is none."""
        try:
            fd = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(ValueError):  # it is about to write its pid
                return int(os.pread(fd, 20, 0))
        finally:
            os.close(fd)
        return None


def write(path: Path, text: str) -> None:
    """The whole file at once, for its owner only."""
    aside = path.with_name(f"{path.name}.new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    """None: it is not there, or not what we write."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else None
    return None
