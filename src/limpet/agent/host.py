# SPDX-License-Identifier: Apache-2.0
"""Host: VIP addresses and sysctls of the machine that the agent runs on.

A VIP stands on `lo` as /32 or /128, so that the application just listens, and that nobody on the
segment learns of it: with arp_ignore and arp_announce the machine neither answers nor asks for it,
which is what mode `l2` needs as well. Reverse path filters would drop what is decapsulated, since
the route back to a client may be another interface.

Functions say what they changed, so that exactly this can be undone.
"""

import errno
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from limpet.agent.interface import LO
from limpet.core.errors import DatapathError, Unsupported
from limpet.core.model import Address

SYSCTLS = Path("/proc/sys/net/ipv4/conf")
NO_DAD = 0x02  # IFA_F_NODAD


def _index(socket: IPRoute) -> int:
    return int(socket.link_lookup(ifname=LO)[0])


def present() -> set[Address]:
    """All addresses of this machine."""
    with IPRoute() as socket:
        return {
            ip_address(str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")))
            for message in socket.get_addr()
        }


def add(addresses: Iterable[Address]) -> None:
    """Put addresses on lo; fine if they are there."""
    with IPRoute() as socket:
        for address in addresses:
            options = {"flags": NO_DAD} if address.version == 6 else {}
            try:
                socket.addr(
                    "replace",
                    index=_index(socket),
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                    **options,
                )
            except NetlinkError as error:
                detail = str(error)
                if error.code in (errno.EACCES, errno.EPERM, errno.EOPNOTSUPP):
                    detail += f"; is IPv{address.version} disabled on {LO}?"
                raise DatapathError(f"put {address} on {LO}", error.code, detail) from error


def remove(addresses: Iterable[Address]) -> None:
    """Take addresses off lo; fine if they are not there."""
    with IPRoute() as socket:
        for address in addresses:
            try:
                socket.addr(
                    "del",
                    index=_index(socket),
                    address=str(address),
                    prefixlen=address.max_prefixlen,
                )
            except NetlinkError as error:
                if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise DatapathError(
                        f"take {address} off {LO}", error.code, str(error)
                    ) from error


def wanted_sysctls(interface: str, *, has_vips: bool = True) -> dict[str, str]:
    """Path below net/ipv4/conf -> value. Where VIPs are not on lo, ARP is nobody's business."""
    filters = {f"{scope}/rp_filter": "0" for scope in ("all", "default", interface)}
    return {**filters, "all/arp_ignore": "1", "all/arp_announce": "2"} if has_vips else filters


def check_forwarding(interface: str, versions: set[int]) -> None:
    """Raises Unsupported if this machine does not forward what comes in on the interface."""
    keys = {4: f"ipv4/conf/{interface}/forwarding", 6: "ipv6/conf/all/forwarding"}
    for version in sorted(versions):
        path = SYSCTLS.parents[1] / keys[version]
        if not path.exists() or path.read_text().strip() == "0":
            raise Unsupported(
                f"an exit forwards replies, and IPv{version} is not forwarded here: "
                f"`sysctl -w net.{keys[version].replace('/', '.')}=1`"
            )


def read_sysctls(keys: Iterable[str]) -> dict[str, str]:
    return {key: _read(key) for key in keys}


def restore_sysctls(interface: str, before: dict[str, str]) -> None:
    """Write the values of before, but where somebody else has changed them since.

    What was never written is not in `before`.
    """
    ours = wanted_sysctls(interface).items()
    kept = [key for key, value in ours if (SYSCTLS / key).exists() and _read(key) == value]
    write_sysctls({key: value for key, value in before.items() if key in kept})


def _read(key: str) -> str:
    return (SYSCTLS / key).read_text().strip()


def write_sysctls(values: dict[str, str]) -> None:
    """Write what differs; fine if an interface is gone."""
    for key, value in values.items():
        path = SYSCTLS / key
        if path.exists() and _read(key) != value:
            try:
                path.write_text(value)
            except OSError as error:
                raise DatapathError(f"write {path}", error.errno or 0, str(error)) from error
