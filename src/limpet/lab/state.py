# SPDX-License-Identifier: Apache-2.0
"""What a running lab remembers between commands: its network as it should be, and its processes.

One folder per lab, /run/limpet/lab/<lab>: state.json, configurations and logs. The file is written
before anything is made and replaced atomically after each step, so that `down` knows at least
everything that exists. The lock is on the folder itself, so no lock file is left behind.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from limpet.core.errors import Conflict, Unsupported
from limpet.lab import folder
from limpet.lab.impairment import Impairment
from limpet.lab.process import Process
from limpet.lab.topology import Topology


class State(BaseModel):
    """One lab. `topology` is the network now, with hosts added and weights changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lab: str
    phase: Literal["building", "up"]
    topology: Topology
    numbers_used: dict[str, int]  # segment -> highest number given out; none is given out twice
    killed: frozenset[str] = frozenset()
    processes: dict[str, Process] = {}  # host -> its daemon or agent; host/program -> another one
    impairments: tuple[Impairment, ...] = ()  # links that are cut, slow or lossy

    def changed(self, **fields: object) -> "State":
        return self.model_copy(update=fields)


def save(state: State) -> None:
    path = folder.of(state.lab) / "state.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(state.model_dump_json(indent=1))
    fresh.replace(path)


def read(lab: str) -> State:
    """Raises NotFound if there is no such lab, Conflict if its state is unreadable."""
    try:
        return State.model_validate_json(folder.read_state(lab))
    except ValidationError as error:
        raise Conflict(
            f"lab '{lab}' was made by another version of limpet; `limpet lab down --lab {lab}`"
        ) from error


def forget(lab: str) -> None:
    """Remove the folder. Only while holding the lock."""
    shutil.rmtree(folder.of(lab), ignore_errors=True)


@contextlib.contextmanager
def locked(lab: str, *, create: bool = False) -> Iterator[None]:
    """Be the only command on this lab. Waits for another one to end.

    The folder that was locked may be one that `down` has just removed: then try again.
    """
    folder.check_name(lab)
    if os.geteuid() != 0:
        raise Unsupported("a lab is made of network namespaces, and these need root: use sudo")
    while True:
        if create:
            folder.of(lab).mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(folder.of(lab), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            read(lab)  # raises NotFound
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if folder.of(lab).stat().st_ino == os.fstat(fd).st_ino:
                    yield
                    return
        finally:
            os.close(fd)
