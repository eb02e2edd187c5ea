# SPDX-License-Identifier: Apache-2.0
"""Process: starts the speaker of a director, and ends it, from the outside.

It gets a session of its own and is nobody's child for long: the daemon may die, be killed with all
that it started at a terminal, or be upgraded, and routes stay.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

from limpet.announce.folder import Folder
from limpet.core.errors import Conflict

END_WAIT_S = 8.0
LOG_BYTES_MAX = 1 << 20
POLL_S = 0.02
START_S = 5.0  # that a speaker and its BIRD take to answer


class Starter:
    """Starts speakers, and waits for those that have ended."""

    def __init__(self, files: Folder) -> None:
        self._files = files
        self._child: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._started_at = -START_S

    def ensure(self) -> bool:
        """Start a speaker if none runs. True if one was started."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        if self._child is not None or self._files.owner() is not None:
            return False
        self._files.make()
        log = self._files.log
        with suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.old"))
        argv = [sys.executable, "-m", "limpet", "speaker", str(self._files.path)]
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.starts += 1
        self._started_at = time.monotonic()
        return True

    @property
    def is_starting(self) -> bool:
        """Whether one was started just now, so that its silence says nothing yet."""
        return time.monotonic() - self._started_at < START_S


def end(files: Folder) -> bool:
    """End the speaker, and take all back that it announces. False if there is nothing of it."""
    if not files.path.exists():
        return False
    deadline = time.monotonic() + END_WAIT_S
    pid = files.owner()
    while pid is not None and files.owner() == pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            raise Conflict(f"the speaker (pid {pid}) does not end: kill it, then repeat this")
        time.sleep(POLL_S)
    sign = files.sign()
    if sign is not None and sign.mode == "kernel":  # a speaker that was killed has left them
        from limpet.announce import kernel

        kernel.withdraw(sign.table)
    shutil.rmtree(files.path, ignore_errors=True)
    return True
