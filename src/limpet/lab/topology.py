# SPDX-License-Identifier: Apache-2.0
"""Topology: which hosts a lab has, how they are connected, and what is balanced.

One value describes the whole network and is all that the rest of the lab reads: the built-in file,
a file of the user's, or the copy in a running lab's state, in which a host was added or a weight
changed. Every change gives a new value, so a change that fails half-way leaves the old one.

Promises that a value which exists is consistent: references resolve, names fit an interface name,
addresses exist and do not collide. Not here: reading files (`source`), making anything real.

Two shapes: one PoP around one router; or, with an [internet], routers that speak BGP with each
other, and several PoPs that a backbone of its own connects. In both, a PoP has one director.
"""

from collections import Counter
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
)
from itertools import count
from typing import Self

from pydantic import Field, JsonValue, model_validator

from limpet.core.errors import Conflict, NotFound
from limpet.core.model import Address
from limpet.lab.machine import (
    BACKBONE_INTERFACE,
    HOST_NUMBER_FIRST,
    IN_POP,
    INTERFACE,
    MTU,
    OWNERS,
    ROUTER_NUMBER,
    End,
    Host,
    Internet,
    Pop,
    Role,
    Segment,
    SegmentName,
    Strict,
    Vip,
    Wire,
    number,
)

CLUSTER_KEYS = ("name", "servers", "listen", "key_file")
BGP_KEYS = ("speaker", "asn", "router_id", "peer")
VIP_KEYS = ("name", "address", "protocol", "port", "pool", "affinity")  # that the lab writes

__all__ = [
    "BACKBONE_INTERFACE",
    "INTERFACE",
    "OWNERS",
    "ROUTER_NUMBER",
    "End",
    "Host",
    "Internet",
    "Pop",
    "Role",
    "Segment",
    "Topology",
    "Vip",
    "Wire",
]


class Topology(Strict):
    """A whole network. Lists are spelled in the singular, as TOML writes arrays of tables."""

    name: str
    vip: tuple[Vip, ...] = Field(min_length=1)
    director: dict[str, JsonValue] = Field(default_factory=dict)
    pool: dict[str, JsonValue] = Field(default_factory=dict)
    mega_proxy: dict[str, JsonValue] = Field(default_factory=dict)
    hooks: dict[str, JsonValue] = Field(default_factory=dict)
    internet: Internet | None = None
    cluster: dict[str, JsonValue] | None = None  # None: each director stands alone
    bgp: dict[str, JsonValue] | None = None  # None: a BIRD of the lab's tells of the VIPs
    exits: bool = False  # replies leave by the PoP that their client's packets come in by
    backbone: SegmentName | None = None  # the segment that connects PoPs and store
    pop: tuple[Pop, ...]
    segment: tuple[Segment, ...]
    host: tuple[Host, ...]

    @model_validator(mode="after")
    def check(self) -> Self:
        self._check_names()
        for host in self.host:
            self._check_host(host)
        self._check_roles()
        if self.internet is not None:
            self._check_internet(self.internet)
            self._check_exits()
        elif self.cluster is not None or self.bgp is not None:
            raise ValueError("[cluster] and [bgp] need an [internet]")
        self._check_numbers()
        for vip in self.vip:
            self._check_own("vip.settings", vip.settings, VIP_KEYS)
        self._check_own("director", self.director, ("name", "interfaces", "pop"))
        self._check_own("pool", self.pool, ("name", "backends"))
        self._check_own("cluster", self.cluster or {}, CLUSTER_KEYS)
        self._check_own("bgp", self.bgp or {}, BGP_KEYS)
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
        routers = len(self.hosts(Role.ROUTER))
        if self.internet is None and routers != 1:
            raise ValueError(
                f"{routers} hosts of role router; exactly 1 works without an [internet]"
            )
        for pop in self.pop:
            directors = [host for host in self.hosts(Role.DIRECTOR) if host.pop == pop.name]
            if len(directors) != 1:
                raise ValueError(
                    f"pop '{pop.name}': {len(directors)} hosts of role director; exactly 1 works"
                )
        if not self.pop:
            raise ValueError("no [[pop]]; at least 1 is needed")
        if self.internet is None and len(self.pop) != 1:
            raise ValueError(f"{len(self.pop)} PoPs; exactly 1 works without an [internet]")
        if not self.hosts(Role.CLIENT):
            raise ValueError("no host of role client; at least 1 is needed")

    def _check_internet(self, internet: Internet) -> None:
        routers = {host.name: host for host in self.hosts(Role.ROUTER)}
        for name in (name for link in internet.links for name in link):
            if name not in routers:
                raise ValueError(f"internet.links: there is no host '{name}' of role router")
        for host in (*routers.values(), *self.hosts(Role.DIRECTOR)):
            if host.asn is None:
                raise ValueError(f"host '{host.name}' speaks BGP: give it an 'asn'")
            if host.prefers is not None and host.prefers not in {pop.name for pop in self.pop}:
                raise ValueError(f"host '{host.name}': there is no pop '{host.prefers}' to prefer")
        carriers = {host.name for host in self.hosts(Role.BACKBONE)}
        for segment in self.segment:
            wanted = carriers if segment.name == self.backbone else set(routers)
            if segment.router not in wanted:
                raise ValueError(
                    f"segment '{segment.name}': 'router' has to be one of "
                    f"{', '.join(sorted(wanted))}"
                )
        if self.cluster is not None and not self.hosts(Role.STORE):
            raise ValueError("a [cluster] needs a store: at least 1 host of role store")
        if self.backbone is None or len(carriers) != 1:
            raise ValueError("several PoPs need 1 host of role backbone, and 'backbone', a segment")

    def _check_exits(self) -> None:
        if self.exits and not all(pop.source4 and pop.source6 for pop in self.pop):
            raise ValueError("exits: give each [[pop]] a 'source4' and 'source6' of its own")

    def _check_host(self, host: Host) -> None:
        where = f"host '{host.name}'"
        if host.role in OWNERS:
            if host.segment is not None:
                raise ValueError(f"{where}: a {host.role} owns segments; leave 'segment' out")
            return
        if host.segment not in {segment.name for segment in self.segment}:
            raise ValueError(f"{where}: there is no segment '{host.segment}'")
        if host.role in IN_POP and host.pop not in {pop.name for pop in self.pop}:
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
            taken = (self.number_on(host, segment) for host in hosts)
            for place, times in Counter(each for each in taken if each is not None).items():
                if times > 1:
                    raise ValueError(f"segment '{segment.name}': {times} hosts of number {place}")
                if place >= segment.ipv4.num_addresses - 1:
                    raise ValueError(f"segment '{segment.name}': no address of number {place}")

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
        """The only one, where there is no internet."""
        return self.hosts(Role.ROUTER)[0]

    def owner(self, segment: Segment) -> Host:
        """The router that the segment belongs to."""
        return self.router() if segment.router is None else self.find(segment.router)

    def segments_of(self, owner: Host) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segment if self.owner(segment) == owner)

    def hosts_on(self, segment: Segment) -> tuple[Host, ...]:
        return tuple(
            host
            for host in self.host
            if host.segment == segment.name
            or (segment.name == self.backbone and self.is_on_backbone(host))
        )

    def is_on_backbone(self, host: Host) -> bool:
        return self.backbone is not None and (host.role in IN_POP or host.segment == self.backbone)

    def segment_of(self, host: Host) -> Segment:
        return next(segment for segment in self.segment if segment.name == host.segment)

    def number_on(self, host: Host, segment: Segment) -> int | None:
        return host.number if host.segment == segment.name else host.backbone

    def backbone_segment(self) -> Segment | None:
        return next((each for each in self.segment if each.name == self.backbone), None)

    def interface4(self, host: Host) -> IPv4Interface:
        return self.segment_of(host).interface4(number(host))

    def interface6(self, host: Host) -> IPv6Interface:
        return self.segment_of(host).interface6(number(host))

    def on_backbone(self, host: Host) -> tuple[IPv4Address, IPv6Address]:
        """Its addresses there."""
        segment = self.backbone_segment()
        assert segment is not None
        place = self.number_on(host, segment)
        assert place is not None, f"topology was not numbered: {host.name}"
        return segment.interface4(place).ip, segment.interface6(place).ip

    def addresses(self, host: Host) -> list[Address]:
        """Every address of the host, IPv4 first, its own on the segment first in each family."""
        every: list[Address] = []
        if host.role is Role.ROUTER:
            every += [segment.interface4(ROUTER_NUMBER).ip for segment in self.segments_of(host)]
            every += [segment.interface6(ROUTER_NUMBER).ip for segment in self.segments_of(host)]
            every += [address for wire in self.wires_of(host) for address in self._at(wire, host)]
        elif host.role is not Role.BACKBONE:
            every += [self.interface4(host).ip, self.interface6(host).ip, *host.extra_sources()]
            if host.backbone is not None:
                every += self.on_backbone(host)
        return sorted(every, key=lambda address: address.version)

    def backend_address(self, host: Host) -> Address:
        """Where the director sends what it encapsulates for this backend."""
        if self.backbone is not None:
            return self.on_backbone(host)[host.reached_by == "ipv6"]
        chosen = self.interface4 if host.reached_by == "ipv4" else self.interface6
        return chosen(host).ip

    def director_of(self, pop: str) -> Host:
        return next(host for host in self.hosts(Role.DIRECTOR) if host.pop == pop)

    def pop_of(self, host: Host) -> Pop:
        return next(pop for pop in self.pop if pop.name == host.pop)

    def border_of(self, pop: str) -> Host:
        """The router that the PoP's director speaks BGP with."""
        return self.owner(self.segment_of(self.director_of(pop)))

    def may_announce_nothing(self) -> bool:
        """Directors that tell of the VIPs themselves withdraw them without an eligible backend."""
        return self.bgp is not None and "health" in self.pool

    # --- Wires ----------------------------------------------------------------------------------

    def wires(self) -> list[Wire]:
        found = [
            Wire(
                End(self.owner(segment).name, host.name),
                End(host.name, INTERFACE if host.segment == segment.name else BACKBONE_INTERFACE),
                segment.mtu,
                segment,
            )
            for segment in self.segment
            for host in self.hosts_on(segment)
        ]
        for index, (first, second) in enumerate(self.internet.links if self.internet else ()):
            found.append(Wire(End(first, second), End(second, first), MTU, None, index))
        return found

    def wires_of(self, host: Host) -> list[Wire]:
        return [wire for wire in self.wires() if host.name in (wire.near.host, wire.far.host)]

    def link_interfaces(self, wire: Wire, host: Host) -> tuple[IPv4Interface, IPv6Interface]:
        """The router's own, on a link to another router."""
        assert self.internet is not None
        assert wire.segment is None
        second = wire.far.host == host.name
        link = wire.link
        return self.internet.interface4(link, second), self.internet.interface6(link, second)

    def _at(self, wire: Wire, host: Host) -> list[Address]:
        if wire.segment is not None:
            return []
        return [interface.ip for interface in self.link_interfaces(wire, host)]

    # --- Changes --------------------------------------------------------------------------------

    def numbered(self) -> Self:
        """Every host with its numbers: those without get the lowest free ones, in their order."""
        numbered = self
        for host in self.host:
            if host.number is None and host.role not in OWNERS:
                place = numbered._free(self.segment_of(host))
                numbered = numbered.with_host(host.model_copy(update={"number": place}))
        segment = self.backbone_segment()
        for host in numbered.host:
            if segment and host.backbone is None and host.role in IN_POP:
                place = numbered._free(segment)
                numbered = numbered.with_host(host.model_copy(update={"backbone": place}))
        return numbered

    def _free(self, segment: Segment) -> int:
        taken = {self.number_on(peer, segment) for peer in self.hosts_on(segment)}
        return next(n for n in count(HOST_NUMBER_FIRST) if n not in taken)

    def with_slot_key(self, key: str) -> Self:
        """The key set, unless the file has one: a director must keep it, also over its death.

        A cluster makes its own.
        """
        if self.cluster is not None:
            return self
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
