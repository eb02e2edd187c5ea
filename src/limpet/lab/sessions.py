# SPDX-License-Identifier: Apache-2.0
"""Drives the workload on a lab's hosts: servers, held sessions, short connections, a flood.

What `demo` and the lab's traffic tests share. Processes run in the hosts' namespaces and end with
`close`. The workload itself is in `server`, `held`, `workload` and `flood`; this only starts it
and reads what it says.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from limpet.core.errors import LimpetError

SERVER_WAIT_S = 10.0
END_WAIT_S = 30.0
SETTLE_WAIT_S = 60.0


def _start(lab: str, host: str, arguments: list[str]) -> subprocess.Popen[str]:
    """A module of limpet.lab on a host, its standard streams piped."""
    enter = f"from limpet.lab import entry; entry.become({lab!r}, {host!r}, {_argv(arguments)!r})"
    return subprocess.Popen(
        [sys.executable, "-c", enter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _argv(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _run(lab: str, host: str, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    """Run to the end; its last line of output."""
    process = _start(lab, host, arguments)
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise LimpetError(f"{' '.join(arguments)} on {host} failed: {errors.strip()}")
    last: dict[str, Any] = json.loads(output.splitlines()[-1])
    return last


class Server:
    """The session server on a backend; it answers with the host's name."""

    def __init__(self, lab: str, host: str, port: int, check_port: int = 0) -> None:
        arguments = ["limpet.lab.server", host, str(port), str(check_port)]
        self._process = _start(lab, host, arguments)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            _, errors = self._process.communicate(timeout=SERVER_WAIT_S)
            raise LimpetError(f"the session server on {host} does not start: {errors.strip()}")

    def view(self) -> dict[str, list[dict[str, Any]]]:
        """Who is connected, and how the others ended: `server.View`."""
        found: dict[str, list[dict[str, Any]]] = json.loads(self._say("view"))
        return found

    def sicken(self) -> None:
        """Health checks fail from now on, while every session lives."""
        self._say("sick")

    def recover(self) -> None:
        self._say("well")

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class _Workload:
    """A process on a client host until `finish`; a context manager that ends it."""

    def __init__(self, lab: str, host: str, arguments: list[str]) -> None:
        self._process = _start(lab, host, arguments)

    def _outcome(self) -> dict[str, Any]:
        """End it by its standard input; what it says then."""
        output, errors = self._process.communicate(timeout=END_WAIT_S)
        if self._process.returncode:
            name = type(self).__name__
            raise LimpetError(f"{name} on a client host failed: {errors.strip()[-500:]}")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait(END_WAIT_S)


class HeldSessions(_Workload):
    """Sessions held by one client host until `finish`.

    `options` are those of `workload hold`: skip=100, life=(1, 12), again=20, source=ADDRESS.
    """

    def __init__(
        self, lab: str, host: str, number: int, port: int, vips: list[str], **options: object
    ) -> None:
        arguments = ["limpet.lab.workload", "hold", str(number), str(port), *vips]
        super().__init__(lab, host, [*arguments, *_options(options)])
        self._latest: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._latest = json.loads(line)

    def report(self) -> dict[str, Any]:
        """What the client last said; `held.Held.report` makes it."""
        return self._latest

    def wait_open(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until all sessions have been opened, or have failed to."""
        deadline = time.monotonic() + timeout_s
        while not self._latest:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                _, errors = self._process.communicate()
                raise LimpetError(f"the sessions do not open: {errors.strip()[-500:]}")
            time.sleep(0.05)
        return self._latest

    def settle(self, exchanges: int = 2) -> dict[str, Any]:
        """Wait until every session has had so many more answers, or is broken; the report then."""
        deadline = time.monotonic() + SETTLE_WAIT_S
        then = self.fresh(deadline)["rows"]
        while True:
            now = self.fresh(deadline)
            pairs = zip(then, now["rows"], strict=True)
            if all(
                b["broken"] or b["ended_at"] or b["count"] >= a["count"] + exchanges
                for a, b in pairs
            ):
                return now

    def fresh(self, deadline: float = 0.0) -> dict[str, Any]:
        """The next report from now on."""
        seen, deadline = self._latest, deadline or time.monotonic() + SETTLE_WAIT_S
        while self._latest is seen:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LimpetError("the client that holds the sessions does not report")
            time.sleep(0.02)
        return self._latest

    @contextlib.contextmanager
    def half_resting(self) -> Iterator[None]:
        """Half of the sessions are silent meanwhile, as sensors are most of the time."""
        self.say("rest")
        try:
            yield
        finally:
            self.say("go on")

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """End the sessions; the final report."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(END_WAIT_S)
        self._reader.join(END_WAIT_S)
        return self._latest


class Arrivals(_Workload):
    """New clients at an even rate until `finish`."""

    def __init__(
        self, lab: str, host: str, per_s: int, port: int, vips: list[str], **options: object
    ) -> None:
        arguments = ["limpet.lab.workload", "arrive", str(per_s), str(port), *vips]
        super().__init__(lab, host, [*arguments, *_options(options)])

    def wait(self) -> None:
        """Until as many as come in a second have been."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise LimpetError("no new clients come")

    def finish(self) -> list[tuple[float, str]]:
        """(when it began, Unix seconds; backend or "failed: ...") of each."""
        return [(at, backend) for at, backend in self._outcome()["rows"]]


class AckFlood(_Workload):
    """Packets that are the first of no flow, each of another client, as fast as the machine sends
    until `finish`."""

    def __init__(self, lab: str, host: str, vip: str, port: int) -> None:
        super().__init__(lab, host, ["limpet.lab.flood", vip, str(port), "--kind", "ack"])

    def finish(self) -> dict[str, Any]:
        """{"sent": packets, "seconds": duration}"""
        return self._outcome()


def _options(options: dict[str, object]) -> list[str]:
    """{"port_first": 7, "life": (1, 2)} as ["--port-first", "7", "--life", "1", "2"]."""
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def short_connections(
    lab: str, host: str, number: int, port: int, vips: list[str], **options: object
) -> dict[str, Any]:
    """{"by_backend": {name: connections}, "failed": {why: connections}}; see `workload.short`."""
    arguments = ["limpet.lab.workload", "short", str(number), str(port), *vips]
    return _run(lab, host, [*arguments, *_options(options)], timeout_s=300)


def returning_clients(
    lab: str, host: str, number: int, port: int, vips: list[str], **options: object
) -> dict[str, Any]:
    """{"visits": [3 lists of backends], "idle_s": [of each]}; see `workload.return_after`."""
    arguments = ["limpet.lab.workload", "return", str(number), str(port), *vips]
    return _run(lab, host, [*arguments, *_options(options)], timeout_s=120)


def syn_flood(
    lab: str, host: str, vip: str, port: int, count: int, *, first: int = 0
) -> dict[str, Any]:
    """{"sent": packets, "seconds": duration}; sources are numbered, these begin at `first`."""
    arguments = ["limpet.lab.flood", vip, str(port), str(count), "--first", str(first)]
    return _run(lab, host, arguments, timeout_s=300)
