# SPDX-License-Identifier: Apache-2.0
"""Interface: what the kernel says of the interface that packets from directors come in on."""

from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute

from limpet.core.errors import NotFound, Unsupported
from limpet.core.model import Address

ARPHRD_ETHER = 1
LO = "lo"
SCOPE_UNIVERSE = 0


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int
    mtu: int
    addresses: tuple[Address, ...] = ()  # of global scope, in the kernel's order


def find(name: str) -> Interface:
    """Raises NotFound if there is none, Unsupported if it carries no Ethernet frames."""
    with IPRoute() as socket:
        indexes = socket.link_lookup(ifname=name)
        if not indexes:
            known = sorted(str(link.get_attr("IFLA_IFNAME")) for link in socket.get_links())
            raise NotFound(f"there is no interface {name!r} here; there are {', '.join(known)}")
        (link,) = socket.get_links(indexes[0])
        addresses = tuple(
            ip_address(str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")))
            for message in socket.get_addr(index=indexes[0])
            if message["scope"] == SCOPE_UNIVERSE
        )
    if link["ifi_type"] != ARPHRD_ETHER or name == LO:
        raise Unsupported(f"{name} carries no Ethernet frames; name the interface of the backbone")
    return Interface(name, int(link["index"]), int(link.get_attr("IFLA_MTU")), addresses)
