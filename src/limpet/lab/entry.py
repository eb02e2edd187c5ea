# SPDX-License-Identifier: Apache-2.0
"""Turns this process into a command on a host of a lab.

The network namespace is entered by the process itself, which then becomes the command: pid,
terminal, signals and status are the command's own, and file systems stay those outside, bpffs
among them. Scripts call this many times, so it imports neither pyroute2 nor pydantic (0.3 s
together); that is why setns comes from libc here (os.setns needs Python 3.12).
"""

import ctypes
import json
import os
from typing import NoReturn

from limpet.core.errors import LimpetError, NotFound
from limpet.lab import folder

CLONE_NEWNET = 0x40000000


def become(lab: str, host: str, command: list[str]) -> NoReturn:
    """Raises NotFound for an unknown lab or host, OSError if the command cannot be run."""
    hosts = [known["name"] for known in json.loads(folder.read_state(lab))["topology"]["host"]]
    if host not in hosts:
        raise NotFound(f"no host '{host}' in this lab; there are {', '.join(hosts)}")
    _enter(folder.netns_of(lab, host))
    os.execvp(command[0], command)


def _enter(netns: str) -> None:
    try:
        fd = os.open(folder.NETNS_FOLDER / netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no network namespace {netns}") from error
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise LimpetError(f"cannot enter network namespace {netns}: {why}; a lab needs root")
