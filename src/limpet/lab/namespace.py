# SPDX-License-Identifier: Apache-2.0
"""A network namespace per host: made, entered, searched for processes, removed.

Named `<lab>-<host>` in /run/netns, so that the tools people know (`ip netns`, `nsenter`) see them.
A process enters by setns of the network namespace alone: `ip netns exec` also mounts a /sys of its
own, which hides bpffs. Only the calling thread enters, so callers have one thread.

Promises that `remove` is fine with what is not there or was half made.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute, netns

from limpet.core.errors import Conflict, NotFound
from limpet.lab.folder import NETNS_FOLDER

KILL_WAIT_S = 5.0


def create(name: str) -> None:
    if (NETNS_FOLDER / name).exists():
        raise Conflict(f"network namespace {name} exists already, and is not of this lab")
    netns.create(name)


def remove(name: str) -> None:
    # Unmounting fails where a crash came between making the file and mounting on it.
    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def exists(name: str) -> bool:
    return (NETNS_FOLDER / name).exists()


def names(prefix: str) -> list[str]:
    return sorted(name for name in netns.listnetns() if name.startswith(prefix))


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Be in the namespace for a while. Sockets and children made meanwhile stay in it."""
    fd = _open(name)
    try:
        netns.pushns(fd)
        try:
            yield
        finally:
            netns.popns()
    finally:
        os.close(fd)


@contextlib.contextmanager
def netlink(name: str) -> Iterator[IPRoute]:
    """A netlink socket of the namespace; the caller itself stays outside."""
    with inside(name):
        socket = IPRoute()
    with socket:
        yield socket


def sysctl(name: str, settings: dict[str, str]) -> None:
    """Write keys below net/, with dots or slashes, of this namespace."""
    with inside(name):
        for key, value in settings.items():
            Path("/proc/sys/net", key.replace(".", "/")).write_text(value)


def processes(name: str) -> list[int]:
    """Ids of all processes in the namespace."""
    try:
        wanted = (NETNS_FOLDER / name).stat()
    except FileNotFoundError:
        return []
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_in(entry, wanted)
    ]


def _is_in(process: Path, wanted: os.stat_result) -> bool:
    """Any of its threads: while a process ends, its first is a zombie and in no namespace."""
    # Processes and threads may end while we look.
    with contextlib.suppress(OSError):
        for thread in (process / "task").iterdir():
            with contextlib.suppress(OSError):
                its = (thread / "ns" / "net").stat()
                return (its.st_dev, its.st_ino) == (wanted.st_dev, wanted.st_ino)
    return False


def kill_processes(name: str) -> None:
    """SIGKILL to all in the namespace, also to those that they start meanwhile."""
    deadline = time.monotonic() + KILL_WAIT_S
    while pids := [pid for pid in processes(name) if pid != os.getpid()]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Conflict(f"processes {pids} in namespace {name} do not end after SIGKILL")
        time.sleep(0.005)


def _open(name: str) -> int:
    try:
        return os.open(NETNS_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no network namespace {name}") from error
