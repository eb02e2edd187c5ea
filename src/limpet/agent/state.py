# SPDX-License-Identifier: Apache-2.0
"""State: what an agent has changed on its machine, remembered so that `down` undoes just that.

One JSON file a name in /run/limpet, which is empty after a reboot, as the kernel is. It is written
before a change is made, so that a crash in between leaves nothing that nobody knows of. The file of
another network namespace is not believed. A lock beside it keeps two processes of one name apart;
the kernel frees it when the process dies.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from limpet.core.errors import Conflict
from limpet.core.model import Address, XdpMode

FOLDER = Path("/run/limpet")


class State(BaseModel):
    """What was changed, and the configuration that was applied."""

    model_config = ConfigDict(extra="forbid")

    name: str
    namespace: int  # inode of the network namespace
    interface: str
    ifindex: int
    xdp: XdpMode | None = None  # mode that the link runs in; None: not attached yet
    made_qdisc: bool = False
    addresses: list[Address] = []  # VIPs that were not there before
    sysctls: dict[str, str] = {}  # path below net/ipv4/conf -> value of before
    vips: list[Address] = []
    directors: list[str] = []
    mtu: int = 0
    mss4: int = 0
    mss6: int = 0
    is_exit: bool = False
    exits: list[str] = []  # addresses by which replies may leave; none: directly
    ways: str = ""  # what the numbers of exits and VIPs stand for, in the kernel's maps


def namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def path(name: str) -> Path:
    return FOLDER / f"agent-{name}.json"


def load(name: str) -> State | None:
    """None if there is none, or it is not of this network namespace."""
    try:
        state = State.model_validate_json(path(name).read_text())
    except (FileNotFoundError, ValidationError):
        return None
    return state if state.namespace == namespace() else None


def save(state: State) -> None:
    """Replace the file as a whole."""
    fresh = path(state.name).with_suffix(".new")
    fresh.write_text(state.model_dump_json(indent=2) + "\n")
    fresh.rename(path(state.name))


def forget(name: str) -> None:
    path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the agent's lock. Raises Conflict if another process does."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = path(name).with_suffix(".lock")
    fd = _lock(file, name)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if not path(name).exists():
            file.unlink(missing_ok=True)  # nothing of this agent is left to guard
        os.close(fd)


def _lock(file: Path, name: str) -> int:
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 16, 0).decode().strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"agent {name} is running (process {owner}); stop that process first"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(file.stat(), os.fstat(fd)):
                return fd
        os.close(fd)  # its owner has removed it meanwhile
