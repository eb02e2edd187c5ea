# SPDX-License-Identifier: Apache-2.0
"""Speaker: the process `limpet speaker`, which keeps routes announced while no daemon runs, but
not for ever.

It holds BIRD as a child and starts it again when it ends, ever more seldom. It watches the daemon's
sign of life; `hold_s` after the last one it takes all routes back, and leaves it to the next daemon
to bring them again. It decides nothing else: which routes there are is in files that the daemon
writes. BIRD dies with it (PDEATHSIG), so that no BIRD is ever without somebody who watches.

With speaker "kernel" there is no BIRD, and only the watching remains.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from limpet.announce import bird
from limpet.announce.control import BirdError
from limpet.announce.folder import Folder, Report, Sign
from limpet.core.errors import Conflict, LimpetError

POLL_S = 0.2
BACKOFF_S, BACKOFF_MAX_S = 0.1, 10.0
STEADY_S = 30.0  # that BIRD has to run for its next end to count as the first
END_WAIT_S = 3.0
BIRD = Path("/usr/sbin/bird")
SETPRIV = Path("/usr/bin/setpriv")


class Speaker:
    """One speaker, until it is told to end."""

    def __init__(self, files: Folder) -> None:
        self._files = files
        self._report = Report(pid=os.getpid())
        self._bird: subprocess.Popen[bytes] | None = None
        self._started_at, self._next_start, self._backoff_s = 0.0, 0.0, BACKOFF_S
        self._sign: Sign | None = None
        self._signed_at = time.monotonic()
        self._is_ending = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        self._say(self._report)
        try:
            while not self._is_ending:
                self.step()
                time.sleep(POLL_S)
        finally:
            self._stop_bird()
            if self._sign is not None and self._sign.mode == "kernel":
                _withdraw_kernel(self._sign.table)

    def step(self) -> None:
        """Look once at the daemon, and once at BIRD."""
        sign = self._files.sign()
        if sign is not None and sign != self._sign:
            self._sign, self._signed_at = sign, time.monotonic()
            if self._report.is_withdrawn:
                self._say(replace(self._report, is_withdrawn=False, error=""))
        if self._sign is None:
            return
        if self._sign.mode == "bird":
            self._keep_bird()
        silent_s = time.monotonic() - self._signed_at
        if silent_s > self._sign.hold_s and not self._report.is_withdrawn:
            self._withdraw(self._sign, silent_s)

    def _withdraw(self, sign: Sign, silent_s: float) -> None:
        why = f"no sign of life of the daemon for {silent_s:.0f} s: all routes are withdrawn"
        try:
            if sign.mode == "bird":
                bird.withdraw(self._files)
            else:
                _withdraw_kernel(sign.table)
        except BirdError as error:
            self._stop_bird()  # its sessions end, and the routes with them; it starts without any
            why = f"{why}, by ending BIRD ({error})"
        except LimpetError as error:
            self._say(replace(self._report, error=f"cannot withdraw: {error}"))
            return
        done = self._report.withdrawals + 1
        self._say(replace(self._report, withdrawals=done, is_withdrawn=True, error=why))

    # --- BIRD -----------------------------------------------------------------------------------

    def _keep_bird(self) -> None:
        now = time.monotonic()
        if self._bird is not None and self._bird.poll() is None:
            if now - self._started_at > STEADY_S:
                self._backoff_s = BACKOFF_S
            return
        if self._bird is not None:
            self._note_end(self._bird.returncode, now)
        if self._bird is None and now >= self._next_start and self._files.config.exists():
            self._start_bird(now)

    def _note_end(self, status: int, now: float) -> None:
        self._bird = None
        self._next_start = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        why = f"BIRD ended {how}; {self._files.log} and {self._files.bird_log} may say why"
        done = self._report.restarts + 1
        self._say(replace(self._report, bird_pid=0, restarts=done, error=why))

    def _start_bird(self, now: float) -> None:
        lack = bird.lacks(BIRD)
        if lack:
            self._next_start = now + BACKOFF_MAX_S
            self._say(replace(self._report, error=lack))
            return
        files = self._files
        argv = [str(SETPRIV), "--pdeathsig", "KILL", str(BIRD), "-f"]
        argv += ["-c", str(files.config), "-s", str(files.control)]
        with files.log.open("ab") as log:
            self._bird = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        self._started_at = now
        self._say(replace(self._report, bird_pid=self._bird.pid))

    def _stop_bird(self) -> None:
        """It tells the peers that it goes, and they drop its routes at once."""
        child, self._bird = self._bird, None
        if child is None:
            return
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_WAIT_S)
        if child.poll() is None:
            child.kill()
            child.wait()
        self._files.control.unlink(missing_ok=True)
        self._say(replace(self._report, bird_pid=0))

    def _say(self, report: Report) -> None:
        self._report = report
        self._files.write_report(report)

    def _end(self, number: int, frame: object) -> None:
        self._is_ending = True


def _withdraw_kernel(table: int) -> None:
    from limpet.announce import kernel  # pyroute2, which a speaker with BIRD has no need of

    kernel.withdraw(table)


def run(path: Path) -> None:
    """Be the speaker of a folder. Raises Conflict if it has one."""
    files = Folder(path)
    files.make()
    fd = files.lock()
    if fd is None:
        raise Conflict(f"{path} has a speaker already (pid {files.owner() or 'unknown'})")
    try:
        Speaker(files).run()
    finally:
        os.close(fd)
