# SPDX-License-Identifier: Apache-2.0
"""An operator for tests: runs commands as processes, with pipes or with a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.memory import MemoryDirector

COMMAND = [sys.executable, "-m", "limpet"]
WAIT_S = 60.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who looks after one director."""

    director: MemoryDirector
    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIMPET_", "_TYPER"))}
        return {**kept, "LIMPET_SOCKET": str(self.socket), "TZ": "UTC", "COLUMNS": "120"}

    def runs(self, *argv: str) -> Done:
        done = subprocess.run(
            [*COMMAND, *argv], capture_output=True, text=True, env=self.environment, timeout=WAIT_S
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def reads(self, *argv: str) -> str:
        """Standard output of a command that goes well."""
        done = self.runs(*argv)
        assert done.status == 0, done
        return done.out

    def json(self, *argv: str) -> Any:
        return json.loads(self.reads(*argv, "--json"))

    def refused(self, status: int, *argv: str) -> str:
        """Standard error of a command that ends with that status, without a traceback."""
        done = self.runs(*argv)
        assert (done.status, "Traceback" in done.err) == (status, False), done
        return " ".join(done.err.split())

    def begins(self, *argv: str) -> "Running":
        return Running([*COMMAND, *argv], self.environment)

    def sits_at(self, *argv: str) -> "Terminal":
        return Terminal([*COMMAND, *argv], self.environment)


class Running:
    """A command that takes its time, with pipes."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )
        self._read = b""  # and not yet asked for
        self._complaints = b""  # read of standard error

    def line(self) -> str:
        """The next line of standard output."""
        assert self.process.stdout is not None
        file = self.process.stdout.fileno()  # read below the buffer, which select does not see
        while b"\n" not in self._read:
            assert select.select([file], [], [], WAIT_S)[0], "nothing was printed"
            part = os.read(file, 65_536)
            assert part, "it ended"
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def complains(self, text: str) -> None:
        """Waits until this was on standard error."""
        assert self.process.stderr is not None
        file = self.process.stderr.fileno()
        while text not in self._complaints.decode():
            assert select.select([file], [], [], WAIT_S)[0], self._complaints
            part = os.read(file, 65_536)
            assert part, "it ended"
            self._complaints += part

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> Done:
        try:
            out, err = self.process.communicate(timeout=WAIT_S)
        finally:
            self.process.kill()
        return Done(
            self.process.returncode, (self._read + out).decode(), (self._complaints + err).decode()
        )


class Terminal:
    """A command at a terminal of 80 columns."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        environment = {k: v for k, v in environment.items() if k != "COLUMNS"}
        self._text = b""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
            os.execve(argv[0], argv, {**environment, "TERM": "xterm-256color"})

    def shows(self, text: str) -> str:
        """Waits until the text was on the screen; all that was there so far."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            assert self._read(), self.screen
        return self.screen

    @property
    def screen(self) -> str:
        """Without colours and movements of the cursor."""
        return ESCAPES.sub("", self._text.decode(errors="replace"))

    def press_ctrl_c(self) -> None:
        os.write(self._fd, b"\x03")

    def end(self) -> Done:
        while self._read():
            pass
        os.close(self._fd)
        _, status = os.waitpid(self._pid, 0)
        return Done(os.waitstatus_to_exitcode(status), self.screen, "")

    def _read(self) -> bool:
        """Whether more may come. A terminal whose other end is closed is an error to Linux."""
        if not select.select([self._fd], [], [], WAIT_S)[0]:
            os.kill(self._pid, signal.SIGKILL)
            raise AssertionError(f"nothing more came: {self.screen}")
        with contextlib.suppress(OSError):
            part = os.read(self._fd, 65_536)
            self._text += part
            return bool(part)
        return False
