# SPDX-License-Identifier: Apache-2.0
"""Places: where a director keeps its socket, its state and its part of the kernel, by its name.

One table for the daemon, the commands and the lab. Light to import.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import Conflict, NotFound, Unreachable

SOCKETS = Path("/run/limpet")
STATES = Path("/var/lib/limpet")
PINS = Path("/sys/fs/bpf/limpet")
STATE_FILE = "state.db"
DOT = "@"  # bpffs allows no dots, and no name has an @
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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

    @property
    def speaker(self) -> Path:
        """A folder. By the name alone: whoever takes the director down has to find it."""
        return SOCKETS / f"{self.name}.bgp"


def places(name: str, socket: Path | None = None, state: Path | None = None) -> Places:
    """The usual places of the director of that name, unless others are given."""
    pins = PINS / name.replace(".", DOT)
    return Places(name, socket or SOCKETS / f"{name}.sock", state or STATES / name, pins)


def director(name: str) -> str:
    """A name as a person gave it. NotFound if it would lead out of the folders here."""
    if not PLAIN_NAME.fullmatch(name):
        raise NotFound(f"{name!r} is not the name of a director{_there_are(directors())}")
    return name


def directors() -> list[str]:
    """Directors that have something in the kernel. Agents pin in the same folder: they have no maps
    in a folder of their own."""
    return sorted(path.parent.name.replace(DOT, ".") for path in PINS.glob("*/maps"))


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
    found = directors()
    if not found:
        raise NotFound(f"no director has anything in the kernel (none is in {PINS})")
    if len(found) > 1:
        raise Conflict(f"several directors are in the kernel, name one: {', '.join(found)}")
    return found[0]


def how_to_start() -> str:
    """What an operator should know who finds the daemon dead."""
    if directors():
        state = "Packets are still forwarded by the kernel, by what it last knew."
    else:
        state = "Nothing is forwarded: no director is in the kernel."
    return f"{state} Start the daemon: systemctl start limpet, or limpet run FILE"


def _there_are(names: list[str]) -> str:
    return f"; in the kernel: {', '.join(names)}" if names else ""
