# SPDX-License-Identifier: Apache-2.0
"""Parts of a topology: hosts, segments, links between routers, PoPs, VIPs.

Each is one table of a topology file, with its keys, defaults and ranges; and `Wire`, which is what
joins two hosts' interfaces. What has to fit together across parts is said in `topology`.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from limpet.core.model import Address, Encapsulation

MTU = 1500
ROUTER_NUMBER = 1  # of the router on every segment
HOST_NUMBER_FIRST = 2
INTERFACE = "eth0"  # of every host but those that own segments
BACKBONE_INTERFACE = "eth1"

# An interface name has at most 15 characters, and a bridge's here begins with "br-".
HostName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,14}$")]
SegmentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,11}$")]
Weight = Annotated[int, Field(ge=0, le=65_535)]


class Role(StrEnum):
    CLIENT = "client"
    ROUTER = "router"
    DIRECTOR = "director"
    BACKEND = "backend"
    STORE = "store"  # a node of the store, on the backbone
    BACKBONE = "backbone"  # what carries the backbone; no limpet runs on it


OWNERS = (Role.ROUTER, Role.BACKBONE)  # of segments
IN_POP = (Role.DIRECTOR, Role.BACKEND)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Vip(Strict):
    """An address on which TCP and UDP are balanced over all backends: every port, or just one."""

    address: Address
    port: int | Literal["all"] = "all"
    affinity: Literal["client", "client+ports", "flow"] = "client"
    settings: dict[str, JsonValue] = {}  # more keys of the director's [[vip]] tables


class Pop(Strict):
    name: SegmentName
    costs: dict[str, int] = {}  # of the way to other PoPs
    source4: IPv4Network | None = None  # outer sources of its director; None: as everywhere
    source6: IPv6Network | None = None


class Segment(Strict):
    """A link between a router and one host, or a bridge in the router with many hosts."""

    name: SegmentName
    kind: Literal["link", "bridge"] = "link"
    router: str | None = None  # whose it is; None: of the only router
    ipv4: IPv4Network
    ipv6: IPv6Network
    mtu: int = Field(default=1500, ge=1280, le=9000)

    def interface4(self, number: int) -> IPv4Interface:
        return IPv4Interface((self.ipv4[number], self.ipv4.prefixlen))

    def interface6(self, number: int) -> IPv6Interface:
        return IPv6Interface((self.ipv6[number], self.ipv6.prefixlen))


@dataclass(frozen=True, slots=True)
class End:
    """One end of a wire: a host's interface."""

    host: str
    interface: str


@dataclass(frozen=True, slots=True)
class Wire:
    """Two interfaces that are joined. `near` is the router's, or of what carries the backbone."""

    near: End
    far: End
    mtu: int
    segment: Segment | None  # None: between two routers
    link: int = 0  # number of the link between two routers

    def ends(self) -> tuple[End, End]:
        return self.near, self.far

    def end_at(self, host: str) -> End:
        return self.near if self.near.host == host else self.far


class Internet(Strict):
    """Routers with BGP: which are linked. Link i has the i-th /30 and /64 of the prefixes."""

    ipv4: IPv4Network
    ipv6: IPv6Network
    links: tuple[tuple[str, str], ...] = Field(min_length=1)

    def interface4(self, link: int, second: bool) -> IPv4Interface:
        return IPv4Interface((self.ipv4[4 * link + 1 + second], 30))

    def interface6(self, link: int, second: bool) -> IPv6Interface:
        return IPv6Interface((self.ipv6[(link << 64) + 1 + second], 64))


class Host(Strict):
    """A machine. `number` is its place in the address range of its segment."""

    name: HostName
    role: Role
    pop: str | None = None
    segment: str | None = None
    number: int | None = Field(default=None, ge=HOST_NUMBER_FIRST)
    sources: int = Field(default=1, ge=1, le=4096)
    sources4: IPv4Network | None = None
    sources6: IPv6Network | None = None
    reached_by: Literal["ipv4", "ipv6"] = "ipv4"
    encapsulation: Encapsulation = Encapsulation.IPIP
    backbone: int | None = Field(default=None, ge=HOST_NUMBER_FIRST)  # its place there, on eth1
    asn: int | None = Field(default=None, ge=1, le=4_294_967_294)
    prefers: str | None = None  # router: PoP that its clients' packets go to
    weight: Weight = 1
    pooled: bool = True  # False: the machine runs, but is in no pool

    def extra_sources(self) -> list[Address]:
        """Addresses to speak from besides the one on the segment: IPv4 first, IPv6 one per /64."""
        extra: list[Address] = []
        if self.sources4 is not None:
            extra += [self.sources4[index] for index in range(self.sources - 1)]
        if self.sources6 is not None:
            extra += [self.sources6[(index << 64) + 1] for index in range(self.sources - 1)]
        return extra


def number(host: Host) -> int:
    assert host.number is not None, f"topology was not numbered: {host.name}"
    return host.number
