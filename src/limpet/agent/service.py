# SPDX-License-Identifier: Apache-2.0
"""Service: the agent's process. It puts things into the kernel, and then only waits.

SIGHUP reads the file again; a file that is wrong, or does not fit the running agent, is logged and
changes nothing. SIGTERM and SIGINT end the process and leave the data path as it is: packets keep
flowing, and the next start adopts them. `limpet agent down` is what takes things away.
"""

import os
import signal
import time
from pathlib import Path

import sdnotify
import structlog

from limpet.agent import config, installation, state
from limpet.agent.config import Config
from limpet.agent.signals import Signals
from limpet.agent.state import State
from limpet.core.errors import Conflict, LimpetError, unreadable

log = structlog.get_logger("limpet.agent")


def read(path: Path) -> Config:
    """Read and check a file. Raises ConfigError."""
    try:
        return config.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def require_root() -> None:
    if os.geteuid() != 0:
        raise LimpetError("the agent loads BPF programs, which needs root: use sudo")


def run(path: Path) -> None:
    """Install, then wait for signals until told to end."""
    wanted = read(path)
    require_root()
    notifier = sdnotify.SystemdNotifier()
    with state.locked(wanted.name), Signals() as signals:
        _log_applied("ready", installation.apply(wanted))
        notifier.notify(f"READY=1\nSTATUS=decapsulating on {wanted.interface}")
        while signals.wait() == signal.SIGHUP:
            notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            _reload(path, wanted.name)
            notifier.notify("READY=1")
        notifier.notify("STOPPING=1")
        log.info("stopped, packets keep flowing", name=wanted.name)


def _reload(path: Path, name: str) -> None:
    try:
        wanted = read(path)
        if wanted.name != name:
            raise Conflict(f"{path}: the name changed from {name} to {wanted.name}: restart for it")
        _log_applied("reloaded", installation.apply(wanted))
    except LimpetError as error:
        log.error("reload refused, nothing changed", reason=str(error))


def _log_applied(event: str, now: State) -> None:
    log.info(
        event,
        name=now.name,
        interface=now.interface,
        xdp=now.xdp.value if now.xdp else None,
        vips=[str(vip) for vip in now.vips],
        directors=now.directors,
        mss4=now.mss4,
        mss6=now.mss6,
        exits=now.exits,
    )


def down(name: str) -> None:
    """Take everything away that the agent has put there."""
    require_root()
    with state.locked(name):
        installation.remove(name)
