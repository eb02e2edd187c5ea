# SPDX-License-Identifier: Apache-2.0
"""A long-running process of a lab: started in a namespace, known by pid and start time, killed.

A pid alone may since belong to somebody else's process; with the start time of /proc it cannot, so
nothing but what the lab started is ever killed. Processes get a session of their own, so that
Ctrl-C at the terminal does not reach them, and write to a log file.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from limpet.lab import namespace

END_WAIT_S = 5.0
LOG_TAIL_BYTES = 2_000


class Process(BaseModel):
    """What the lab remembers of a process."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started_ticks: int  # since boot, field 22 of /proc/PID/stat

    def is_alive(self) -> bool:
        # A zombie of our own would look alive, and keep its pid, until somebody asks for it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _started_ticks(self.pid) == self.started_ticks

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Fine if it is."""
        deadline = time.monotonic() + END_WAIT_S
        while self.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)


def spawn(argv: list[str], netns: str, log: Path) -> Process:
    with log.open("ab") as output, namespace.inside(netns):
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = _started_ticks(child.pid)
    child.returncode = 0  # it is not ours to wait for: it outlives this process
    return Process(pid=child.pid, started_ticks=started or 0)


def tail(log: Path) -> str:
    """The end of a log, for an error message."""
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return ""
    return data[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


def _started_ticks(pid: int) -> int | None:
    """None if there is no such process, or only its zombie.

    The first thread may be a zombie while others still end, and hold sockets and locks open.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    threads, started = int(fields[16]), int(fields[18])
    return None if state in "ZX" and threads <= 1 else started
