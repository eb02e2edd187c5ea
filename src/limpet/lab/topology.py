# SPDX-License-Identifier: Apache-2.0
"""Topology: which hosts a lab has, how they are connected, and what is balanced.

One value describes the whole network and is all that the rest of the lab reads: the built-in file,
a file of the user's, or the copy in a running lab's state, in which a host was added or a weight
changed. Every change gives a new value, so a change that fails half-way leaves the old one.

Promises that a value which exists is consistent: references resolve, names fit an interface name,
addresses exist and do not collide. Not here: reading files (`source`), making anything real.
One router, one PoP and one director so far; hosts, segments and VIPs as many as fit.
"""

from collections import Counter
from enum import StrEnum
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
)
from itertools import count
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from limpet.core.errors import Conflict, NotFound
from limpet.core.model import Address, Encapsulation

ROUTER_NUMBER = 1  # of the router on every segment
HOST_NUMBER_FIRST = 2
VIP_KEYS = ("name", "address", "protocol", "port", "pool", "affinity")  # that the lab writes

# An interface name has at most 15 characters, and a bridge's here begins with "br-".
HostName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,14}$")]
SegmentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,11}$")]
Weight = Annotated[int, Field(ge=0, le=65_535)]


class Role(StrEnum):
    CLIENT = "client"
    ROUTER = "router"
    DIRECTOR = "director"
    BACKEND = "backend"


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


class Segment(Strict):
    """A link between the router and one host, or a bridge in the router with many hosts."""

    name: SegmentName
    kind: Literal["link", "bridge"] = "link"
    ipv4: IPv4Network
    ipv6: IPv6Network
    mtu: int = Field(default=1500, ge=1280, le=9000)

    def interface4(self, number: int) -> IPv4Interface:
        return IPv4Interface((self.ipv4[number], self.ipv4.prefixlen))

    def interface6(self, number: int) -> IPv6Interface:
        return IPv6Interface((self.ipv6[number], self.ipv6.prefixlen))


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


class Topology(Strict):
    """A whole network. Lists are spelled in the singular, as TOML writes arrays of tables."""

    name: str
    vip: tuple[Vip, ...] = Field(min_length=1)
    director: dict[str, JsonValue] = {}
    pool: dict[str, JsonValue] = {}
    mega_proxy: dict[str, JsonValue] = {}
    hooks: dict[str, JsonValue] = {}
    pop: tuple[Pop, ...]
    segment: tuple[Segment, ...]
    host: tuple[Host, ...]

    @model_validator(mode="after")
    def check(self) -> Self:
        self._check_names()
        self._check_roles()
        for host in self.host:
            self._check_host(host)
        self._check_numbers()
        for vip in self.vip:
            self._check_own("vip.settings", vip.settings, VIP_KEYS)
        self._check_own("director", self.director, ("name", "interfaces", "pop"))
        self._check_own("pool", self.pool, ("name", "backends"))
        return self

    def _check_own(self, table: str, given: dict[str, JsonValue], own: tuple[str, ...]) -> None:
        for key in own:
            if key in given:
                raise ValueError(f"{table}.{key} is set by the lab itself; leave it out")

    def _check_names(self) -> None:
        for kind, names in (
            ("host", [host.name for host in self.host]),
            ("segment", [segment.name for segment in self.segment]),
            ("pop", [pop.name for pop in self.pop]),
            ("vip", [str(vip.address) for vip in self.vip]),
        ):
            for name, times in Counter(names).items():
                if times > 1:
                    raise ValueError(f"{kind} '{name}' appears {times} times; once is allowed")

    def _check_roles(self) -> None:
        for role in (Role.ROUTER, Role.DIRECTOR):
            if len(self.hosts(role)) != 1:
                raise ValueError(f"{len(self.hosts(role))} hosts of role {role}; exactly 1 works")
        if len(self.pop) != 1:
            raise ValueError(f"{len(self.pop)} PoPs; exactly 1 works")
        if not self.hosts(Role.CLIENT):
            raise ValueError("no host of role client; at least 1 is needed")

    def _check_host(self, host: Host) -> None:
        where = f"host '{host.name}'"
        if host.role is Role.ROUTER:
            if host.segment is not None:
                raise ValueError(f"{where}: the router is on every segment; leave 'segment' out")
            return
        if host.segment not in {segment.name for segment in self.segment}:
            raise ValueError(f"{where}: there is no segment '{host.segment}'")
        if host.role is not Role.CLIENT and host.pop not in {pop.name for pop in self.pop}:
            raise ValueError(f"{where}: there is no pop '{host.pop}'")
        if host.sources > 1 and (host.sources4 is None or host.sources6 is None):
            raise ValueError(f"{where}: 'sources' above 1 needs 'sources4' and 'sources6'")
        if host.sources4 is not None and host.sources4.num_addresses < host.sources - 1:
            raise ValueError(f"{where}: sources4 has fewer than {host.sources - 1} addresses")
        if host.sources6 is not None and host.sources6.num_addresses >> 64 < host.sources - 1:
            raise ValueError(f"{where}: sources6 has fewer than {host.sources - 1} /64 networks")

    def _check_numbers(self) -> None:
        for segment in self.segment:
            hosts = self.hosts_on(segment)
            if segment.kind == "link" and len(hosts) != 1:
                raise ValueError(f"segment '{segment.name}' is a link: it needs exactly 1 host")
            numbers = Counter(host.number for host in hosts if host.number is not None)
            for number, times in numbers.items():
                if times > 1:
                    raise ValueError(f"segment '{segment.name}': {times} hosts of number {number}")
                if number >= segment.ipv4.num_addresses - 1:
                    raise ValueError(f"segment '{segment.name}': no address of number {number}")

    # --- Questions ------------------------------------------------------------------------------

    def hosts(self, role: Role) -> tuple[Host, ...]:
        return tuple(host for host in self.host if host.role is role)

    def find(self, name: str) -> Host:
        for host in self.host:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.host)
        raise NotFound(f"no host '{name}' in this lab; there are {known}")

    def router(self) -> Host:
        return self.hosts(Role.ROUTER)[0]

    def hosts_on(self, segment: Segment) -> tuple[Host, ...]:
        return tuple(host for host in self.host if host.segment == segment.name)

    def segment_of(self, host: Host) -> Segment:
        return next(segment for segment in self.segment if segment.name == host.segment)

    def interface4(self, host: Host) -> IPv4Interface:
        return self.segment_of(host).interface4(number(host))

    def interface6(self, host: Host) -> IPv6Interface:
        return self.segment_of(host).interface6(number(host))

    def addresses(self, host: Host) -> list[Address]:
        """Every address of the host, IPv4 first, its own on the segment first in each family."""
        every: list[Address] = []
        if host.role is Role.ROUTER:
            every += [segment.interface4(ROUTER_NUMBER).ip for segment in self.segment]
            every += [segment.interface6(ROUTER_NUMBER).ip for segment in self.segment]
        else:
            every += [self.interface4(host).ip, self.interface6(host).ip, *host.extra_sources()]
        return sorted(every, key=lambda address: address.version)

    def backend_address(self, host: Host) -> Address:
        """Where the director sends what it encapsulates for this backend."""
        chosen = self.interface4 if host.reached_by == "ipv4" else self.interface6
        return chosen(host).ip

    # --- Changes --------------------------------------------------------------------------------

    def numbered(self) -> Self:
        """Every host with a number: those without one get the lowest free ones, in their order."""
        numbered = self
        for host in self.host:
            if host.number is None and host.role is not Role.ROUTER:
                taken = {peer.number for peer in numbered.hosts_on(self.segment_of(host))}
                free = next(n for n in count(HOST_NUMBER_FIRST) if n not in taken)
                numbered = numbered.with_host(host.model_copy(update={"number": free}))
        return numbered

    def with_slot_key(self, key: str) -> Self:
        """The key set, unless the file has one: a director must keep it, also over its death."""
        return self.model_copy(update={"director": {"slot_key": key, **self.director}})

    def with_host(self, host: Host) -> Self:
        """The host added, or in place of the one of its name."""
        if all(known.name != host.name for known in self.host):
            return self._with_hosts((*self.host, host))
        return self._with_hosts(
            tuple(host if known.name == host.name else known for known in self.host)
        )

    def without_host(self, name: str) -> Self:
        return self._with_hosts(tuple(host for host in self.host if host.name != name))

    def _with_hosts(self, hosts: tuple[Host, ...]) -> Self:
        try:
            # model_copy would not validate.
            return type(self).model_validate(self.model_dump() | {"host": hosts})
        except ValueError as error:
            raise Conflict(f"the lab's network does not allow this: {error}") from error
