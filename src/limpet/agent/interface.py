# SPDX-License-Identifier: Apache-2.0
"""Interface: what the kernel says of the interface that packets from directors come in on."""

from dataclasses import dataclass

from pyroute2 import IPRoute

from limpet.core.errors import NotFound, Unsupported

ARPHRD_ETHER = 1
LO = "lo"


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int
    mtu: int


def find(name: str) -> Interface:
    """Raises NotFound if there is none, Unsupported if it carries no Ethernet frames."""
    with IPRoute() as socket:
        indexes = socket.link_lookup(ifname=name)
        if not indexes:
            known = sorted(str(link.get_attr("IFLA_IFNAME")) for link in socket.get_links())
            raise NotFound(f"there is no interface {name!r} here; there are {', '.join(known)}")
        (link,) = socket.get_links(indexes[0])
    if link["ifi_type"] != ARPHRD_ETHER or name == LO:
        raise Unsupported(f"{name} carries no Ethernet frames; name the interface of the backbone")
    return Interface(name, int(link["index"]), int(link.get_attr("IFLA_MTU")))
