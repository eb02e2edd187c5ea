# SPDX-License-Identifier: Apache-2.0
"""An application: a server on a backend as Debian ships it, and a client whose session has state.

What a session says is written down by one thread each: which backend answers, how long the longest
silence was, and whether the state of its beginning is still there. A session that was reset, begun
anew, or answers from other state is broken; the programs themselves notice, none is told to hide
it. Not here: what the programs are.
"""

import subprocess
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from limpet.core.errors import Unsupported
from limpet.lab import namespace
from limpet.lab.folder import netns_of
from limpet.lab.process import Process, spawn, tail

SILENCE_MAX_S = 10.0  # after which a session counts as broken
START_S = 20.0
VIEW_S = 0.05
PAUSE_S = 0.1  # between two exchanges


class BrokenError(Exception):
    """The session has lost its state, or its connection; says how."""


class ApplicationServer(ABC):
    """One server program, on one backend of a lab."""

    name: ClassVar[str]
    package: ClassVar[str]  # of Debian's
    program: ClassVar[Path]

    def __init__(self, lab: str, backend: str, folder: Path) -> None:
        if not self.program.exists():
            raise Unsupported(f"{self.program} is missing: apt install {self.package}")
        self.backend, self.folder = backend, folder / f"{self.name}-{backend}"
        self.folder.mkdir(parents=True)
        self._netns = netns_of(lab, backend)
        self.prepare()
        self._running = [spawn(argv, self._netns, self.folder / "log") for argv in self.argvs()]
        self._wait()

    @abstractmethod
    def prepare(self) -> None:
        """Write what the program needs."""

    @abstractmethod
    def argvs(self) -> list[list[str]]:
        """The processes of it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers; asked in the backend's namespace."""

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with namespace.inside(self._netns):
                if self.is_ready():
                    return
            if time.monotonic() > deadline or not all(each.is_alive() for each in self._running):
                raise Unsupported(
                    f"{self.name} on {self.backend} does not start: {tail(self.folder / 'log')}"
                )
            time.sleep(VIEW_S)

    @property
    def processes(self) -> list[Process]:
        return self._running

    def close(self) -> None:
        for process in self._running:
            process.kill()


@dataclass
class Account:
    """What became of a session so far. Times are monotonic seconds."""

    application: str
    vip: str
    first: str = ""  # backend
    last: str = ""
    exchanges: int = 0
    longest_gap_s: float = 0.0  # between two answers
    pace_s: float = 0.0  # as long it is without any trouble
    broken: str = ""

    @property
    def late_ms(self) -> int:
        """How much later than at its own pace an answer came, at worst."""
        return max(round((self.longest_gap_s - self.pace_s) * 1_000), 0)


class ApplicationSession(ABC):
    """A client program that holds one session, in a thread of its own.

    From `source`, an address of the client; empty: whichever its kernel takes.
    """

    name: ClassVar[str]

    def __init__(
        self,
        lab: str,
        client: str,
        vip: str,
        folder: Path,
        *,
        source: str = "",
        pause_s: float = PAUSE_S,
    ) -> None:
        self.account = Account(self.name, vip, pace_s=pause_s)
        self._folder = folder
        self._pause_s = pause_s
        self._netns = netns_of(lab, client)
        self._last = time.monotonic()
        self._is_over = False
        argv = self.argv(vip, source)
        with namespace.inside(self._netns):
            self._program = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        self._thread = threading.Thread(target=self._run, name=f"{self.name} {vip}", daemon=True)
        self._thread.start()

    @abstractmethod
    def argv(self, vip: str, source: str) -> list[str]:
        """The client program."""

    @abstractmethod
    def begin(self) -> None:
        """Make the state that the session is about."""

    @abstractmethod
    def exchange(self, number: int) -> str:
        """One exchange, from 1 on; the backend that answered. Raises BrokenError."""

    @property
    def pid(self) -> int:
        return self._program.pid

    def say(self, line: str) -> None:
        assert self._program.stdin is not None
        try:
            self._program.stdin.write(line + "\n")
        except (BrokenPipeError, ValueError) as error:
            raise BrokenError(f"the program has ended: {self._rest()}") from error

    def hear(self) -> str:
        line = self._output().readline()
        if not line:
            raise BrokenError("the program has ended")
        return line.strip()

    def _output(self) -> IO[str]:
        assert self._program.stdout is not None
        return self._program.stdout

    def _rest(self) -> str:
        return self._output().read().strip().replace("\n", "; ")[-300:]

    def _run(self) -> None:
        account = self.account
        try:
            self.begin()
            while not self._is_over:
                backend = self.exchange(account.exchanges + 1)
                now = time.monotonic()
                if account.exchanges:
                    account.longest_gap_s = max(account.longest_gap_s, now - self._last)
                self._last, account.last = now, backend
                account.first = account.first or backend
                account.exchanges += 1
                if account.last != account.first:
                    raise BrokenError(f"was on {account.first}, is answered by {account.last}")
                time.sleep(self._pause_s)
        except BrokenError as error:
            if not self._is_over:
                account.broken = str(error)

    def notice_silence(self) -> None:
        """A session that had no exchange for too long is broken, even if nobody said so."""
        waited = time.monotonic() - self._last
        if not self.account.broken and waited > SILENCE_MAX_S:
            self.account.broken = f"silent for {waited:.0f} s"

    def close(self) -> None:
        self._is_over = True
        self._program.kill()
        self._program.wait()
        self._thread.join(SILENCE_MAX_S)
