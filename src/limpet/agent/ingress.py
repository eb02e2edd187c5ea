# SPDX-License-Identifier: Apache-2.0
"""Ingress: the XDP program on the interface, held by a pinned bpf_link.

If the pinned link is still on the interface, its program is replaced, and no packet sees neither or
both. If not (first start, the interface was made anew, another mode is wanted), a new link is made.
The link outlives every process; only `detach` ends it.
"""

import errno
import os
from pathlib import Path

from limpet.agent.interface import Interface
from limpet.core.errors import Conflict, DatapathError, Unsupported
from limpet.core.model import XdpMode
from limpet.datapath import bpf

PIN = "ingress_link"
FLAGS = {XdpMode.NATIVE: bpf.XDP_NATIVE, XdpMode.GENERIC: bpf.XDP_GENERIC}


def attached_to(pins: Path) -> int:
    """Index of the interface that the pinned link is on; 0 if there is none."""
    if not (pins / PIN).exists():
        return 0
    link = bpf.get(pins / PIN)
    try:
        return bpf.link_ifindex(link)
    finally:
        os.close(link)


def replace(pins: Path, program: int) -> None:
    """Swap the program of the pinned link."""
    link = bpf.get(pins / PIN)
    try:
        bpf.link_update(link, program)
    finally:
        os.close(link)


def attach(pins: Path, program: int, interface: Interface, mode: XdpMode) -> XdpMode:
    """Make and pin a new link; returns the mode that it runs in. `auto` falls back to generic."""
    wanted = [XdpMode.NATIVE, XdpMode.GENERIC] if mode is XdpMode.AUTO else [mode]
    for attempt in wanted:
        try:
            link = bpf.link_create(program, interface.index, FLAGS[attempt])
        except DatapathError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise Conflict(
                    f"{interface.name} has another XDP program already; remove it first "
                    f"(`ip link show dev {interface.name}` names it)"
                ) from error
            if error.errno in (errno.EPERM, errno.ENODEV):
                raise
            failed = error
            continue
        try:
            bpf.pin(link, pins / PIN)
        finally:
            os.close(link)
        return attempt
    raise Unsupported(
        f"{interface.name} takes no XDP program in mode {mode.value}: {failed}"
        + ('; write xdp = "auto" to fall back to generic' if mode is XdpMode.NATIVE else "")
    )


def detach(pins: Path) -> None:
    """End the link; fine if there is none, or its interface is gone."""
    if not (pins / PIN).exists():
        return
    link = bpf.get(pins / PIN)
    (pins / PIN).unlink()
    try:
        bpf.link_detach(link)
    except DatapathError as error:
        if error.errno not in (errno.ENOENT, errno.ENOLINK, errno.ENODEV):
            raise
    finally:
        os.close(link)
