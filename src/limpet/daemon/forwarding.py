# SPDX-License-Identifier: Apache-2.0
"""Forwarding: makes the kernel route packets whose next hop the program does not know yet.

Such a packet is encapsulated and handed to the kernel, which resolves the neighbour and forwards
it, so forwarding must be on in this network namespace. Turning on IPv6 forwarding makes the kernel
ignore router advertisements, and a machine that lives by them would lose its default route; so
interfaces that listen to them are told to go on doing so. Never turned off again: the data plane
outlives this process. rp_filter is the operator's; `limpet check` looks at it.
"""

from pathlib import Path

import structlog

NET = Path("/proc/sys/net")
SWITCHES = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
RA_UNLESS_FORWARDING, RA_ALWAYS = "1", "2"
log = structlog.get_logger()


def enable() -> None:
    """Turn forwarding on where it is off, and say so."""
    for name in SWITCHES:
        path = NET / name
        if not path.exists() or _read(path) != "0":
            continue  # this kernel has no IPv6, or forwarding is on
        try:
            if name.startswith("ipv6"):
                _keep_router_advertisements()
            path.write_text("1")
        except OSError as error:
            log.warning(
                "forwarding is off and cannot be turned on; packets whose next hop is not known "
                "yet are lost",
                key=name,
                error=error.strerror,
            )
        else:
            log.info("turned forwarding on", key=name)


def _keep_router_advertisements() -> None:
    for path in sorted((NET / "ipv6/conf").glob("*/accept_ra")):
        if _read(path) == RA_UNLESS_FORWARDING:
            path.write_text(RA_ALWAYS)


def _read(path: Path) -> str:
    return path.read_text().strip()
