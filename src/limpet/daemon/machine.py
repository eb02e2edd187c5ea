# SPDX-License-Identifier: Apache-2.0
"""Machine: what of this machine does not fit a configuration. For `limpet check`; changes nothing.

Warnings only: a file may be checked on another machine than the one it is for.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

from limpet.core.model import Desired
from limpet.daemon.forwarding import SWITCHES

NET = Path("/proc/sys/net")
STRICT = 1  # rp_filter


def warnings(desired: Desired) -> list[str]:
    """Each with what it means and how to mend it."""
    return [
        *_missing_interfaces(desired),
        *_forwarding(),
        *_reverse_path(desired),
    ]


def _missing_interfaces(desired: Desired) -> Iterator[str]:
    # Not /sys/class/net: that is of the network namespace in which it was mounted.
    known = sorted(name for _, name in socket.if_nameindex())
    for name in desired.director.interfaces:
        if name not in known:
            yield (
                f"director.interfaces: this machine has no interface {name!r} "
                f"(it has {', '.join(known)})"
            )


def _forwarding() -> Iterator[str]:
    for name in SWITCHES:
        path = NET / name
        if path.exists() and path.read_text().strip() == "0":
            yield f"net.{name.replace('/', '.')} is 0; `limpet run` will set it to 1"


def _reverse_path(desired: Desired) -> Iterator[str]:
    """The stricter of `all` and the interface's own counts."""
    for name in desired.director.interfaces:
        paths = [NET / "ipv4/conf" / which / "rp_filter" for which in ("all", name)]
        found = [int(path.read_text()) for path in paths if path.exists()]
        if STRICT in found and max(found) == STRICT:
            yield (
                f"rp_filter is strict on {name!r}: packets to a backend whose next hop is not "
                f"known yet are lost. Set net.ipv4.conf.{name}.rp_filter and .all.rp_filter to 0"
            )
