# SPDX-License-Identifier: Apache-2.0
"""Places: where a director keeps its socket, its state and its part of the kernel, by its name.

One table for the daemon, the commands and the lab. Light to import.
"""

from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import Conflict, NotFound, Unreachable

SOCKETS = Path("/run/limpet")
STATES = Path("/var/lib/limpet")
PINS = Path("/sys/fs/bpf/limpet")
STATE_FILE = "state.db"


@dataclass(frozen=True, slots=True)
class Places:
    """The paths of one director."""

    name: str
    socket: Path
    state: Path  # a folder
    pins: Path

    @property
    def state_file(self) -> Path:
        return self.state / STATE_FILE


def places(name: str, socket: Path | None = None, state: Path | None = None) -> Places:
    """The usual places of the director of that name, unless others are given."""
    return Places(name, socket or SOCKETS / f"{name}.sock", state or STATES / name, PINS / name)


def find_socket() -> Path:
    """The socket of the only director on this machine.

    Raises Unreachable if there is none, Conflict if there are several.
    """
    found = sorted(SOCKETS.glob("*.sock"))
    if not found:
        raise Unreachable(f"no daemon: there is no socket in {SOCKETS}. {how_to_start()}")
    if len(found) > 1:
        raise Conflict(
            "several directors have a socket: name one with --socket or LIMPET_SOCKET: "
            + ", ".join(str(path) for path in found)
        )
    return found[0]


def find_name() -> str:
    """The only director that has something in the kernel. Raises NotFound or Conflict."""
    found = sorted(path.name for path in PINS.iterdir()) if PINS.is_dir() else []
    if not found:
        raise NotFound(f"no director has anything in the kernel ({PINS} is empty)")
    if len(found) > 1:
        raise Conflict(f"several directors are in the kernel, name one: {', '.join(found)}")
    return found[0]


def how_to_start() -> str:
    """What an operator should know who finds the daemon dead."""
    if PINS.is_dir() and any(PINS.iterdir()):
        state = "Packets are still forwarded by the kernel, by what it last knew."
    else:
        state = "Nothing is forwarded: no director is in the kernel."
    return f"{state} Start the daemon: systemctl start limpet, or limpet run FILE"
