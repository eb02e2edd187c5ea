# SPDX-License-Identifier: Apache-2.0
"""Links: the interfaces of this network namespace, and what of the machine goes into the program.

Read anew for every pass, because interfaces come and go. Not here: routes and neighbours
(daemon/nexthop.py), and forwarding by the kernel (daemon/forwarding.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2 import IPRoute

from limpet.core.model import Address

SCOPE_GLOBAL = 0
IFF_UP = 1
SENDS_FRAMES = ("", "veth", "tun")  # kinds whose driver takes redirected frames; "": hardware
MODES = {"xdp": "native", "xdpgeneric": "generic", "xdpoffload": "offloaded", "xdpmulti": "several"}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface."""

    index: int
    name: str
    kind: str  # "veth", "vlan", "bridge" ...; "" for hardware and the loopback
    mac: bytes  # empty if it has none
    mtu: int
    is_up: bool
    xdp: str  # "native", "generic" ..., "" without an XDP program

    @property
    def sends_frames(self) -> bool:
        """Whether frames that XDP redirects leave by it."""
        return self.kind in SENDS_FRAMES and len(self.mac) == 6


Links = Mapping[int, Link]  # by index


def read(netlink: IPRoute) -> dict[int, Link]:
    """All interfaces."""
    return {link.index: link for link in map(_link, netlink.get_links())}


def by_name(links: Links) -> dict[str, Link]:
    return {link.name: link for link in links.values()}


def _link(message: Any) -> Link:
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    xdp = message.get_nested("IFLA_XDP", "IFLA_XDP_ATTACHED") or ""
    mac = message.get("IFLA_ADDRESS") or ""
    return Link(
        index=int(message["index"]),
        name=str(message.get("IFLA_IFNAME")),
        kind=str(kind),
        mac=bytes.fromhex(mac.replace(":", "")),
        mtu=int(message.get("IFLA_MTU") or 0),
        is_up=bool(message["flags"] & IFF_UP),
        xdp=MODES.get(xdp, ""),
    )


def sources(
    netlink: IPRoute, links: Links, interfaces: Sequence[str]
) -> tuple[IPv4Address, IPv6Address]:
    """Where ICMP errors come from: the first global address per family of the first interface.

    An address of all zeros where it has none: then they come from the VIP.
    """
    index = next((i.index for i in links.values() if i.name in interfaces[:1]), None)
    found: dict[int, Address] = {}
    if index is not None:
        for message in netlink.get_addr(index=index):
            if message["scope"] == SCOPE_GLOBAL:
                text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
                address = ip_address(text)
                found.setdefault(address.version, address)
    four, six = found.get(4), found.get(6)
    return (
        four if isinstance(four, IPv4Address) else IPv4Address(0),
        six if isinstance(six, IPv6Address) else IPv6Address(0),
    )
