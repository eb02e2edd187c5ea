# SPDX-License-Identifier: Apache-2.0
"""The tables about other machines: the cluster, the routers that are told of VIPs, the PoPs.

As in core/document.py, of which they are a part: a key has its type, default, range, description
and an example, and its default is that of core/model.py.

Not here: what has to fit together (core/cluster_checks.py).
"""

from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from limpet.core.model import Bgp, Cluster, Peer, Pop, Route, Speaker
from limpet.core.table import Table
from limpet.core.values import (
    AbsolutePath,
    AnyAddress,
    Listen,
    Name,
    NameOrEmpty,
    broken,
    toml,
)

ASN_MAX = 4_294_967_294
COST_MAX = 1_000_000
PREPEND_MAX = 10
COMMUNITIES_MAX = 32
SERVERS_MAX = 16
PEERS_MAX = 32
QUERIES_MAX_PER_S = 1_000_000
EXCEPTIONS_MIN, EXCEPTIONS_MAX = 1_024, 16_777_216
BGP_SECONDS_MAX = 604_800
TABLE_MAX = 4_294_967_295
RESERVED_TABLES = (253, 254, 255)  # default, main, local

_BGP = Bgp()
_CLUSTER = Cluster()
_ROUTE = Route()


def _servers(value: object) -> tuple[str, ...]:
    mend = (
        'list the URLs of NATS servers, as ["nats://10.9.0.1:4222"]; leave it out for one machine'
    )
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise broken(f"{toml(value)} is not a list of URLs", mend)
    if len(value) > SERVERS_MAX:
        raise broken(f"{len(value)} servers are more than {SERVERS_MAX}", "three are enough")
    for each in value:
        scheme, _, rest = each.partition("://")
        host, _, port = rest.rpartition(":")
        good = port.isdecimal() and 1 <= int(port) <= 65_535 and host and "/" not in host
        if scheme not in ("nats", "tls") or not good or not each.isprintable() or " " in each:
            raise broken(f"{toml(each)} is not the URL of a NATS server", mend)
        if value.count(each) > 1:
            raise broken(f"{toml(each)} is listed {value.count(each)} times", "list it once")
    return tuple(value)


def _communities(value: object) -> tuple[tuple[int, int], ...]:
    mend = 'list communities (RFC 1997) as ["64500:100"]'
    if not isinstance(value, list):
        raise broken(f"{toml(value)} is not a list of communities", mend)
    if len(value) > COMMUNITIES_MAX:
        raise broken(f"{len(value)} communities are more than {COMMUNITIES_MAX}", "leave some out")
    return tuple(_community(each, mend) for each in value)


def _community(value: object, mend: str) -> tuple[int, int]:
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) != 2 or not all(each.isascii() and each.isdecimal() for each in parts):
        raise broken(f"{toml(value)} is not a community", mend)
    high, low = int(parts[0]), int(parts[1])
    if high > 65_535 or low > 65_535:
        raise broken(f"{toml(value)} has a part beyond 65535", mend)
    return high, low


def _router_id(value: object) -> IPv4Address | None:
    mend = 'write an IPv4 address, as "10.0.0.1"; left out: the speaker takes one of the machine\'s'
    if value is None:
        return None
    try:
        return IPv4Address(value) if isinstance(value, str) else IPv4Address("")
    except ValueError:
        raise broken(f"{toml(value)} is not an IPv4 address", mend) from None


def _costs(value: object) -> dict[str, int]:
    mend = "write the costs of the way to other PoPs, as { par = 10, ams = 25 }"
    if not isinstance(value, dict):
        raise broken(f"{toml(value)} is not a table of costs", mend)
    for name, cost in value.items():
        if isinstance(cost, bool) or not isinstance(cost, int) or not 0 <= cost <= COST_MAX:
            why = f"the cost {toml(cost)} to {name!r} is not a whole number from 0 to {COST_MAX}"
            raise broken(why, mend)
    return dict(value)


def _kernel_table(value: object) -> int:
    mend = "write the number of a routing table that nothing else uses, as 117"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TABLE_MAX:
        raise broken(f"{toml(value)} is not a routing table", mend)
    if value in RESERVED_TABLES:
        raise broken(f"{value} is a table of the kernel's own", mend)
    return value


Servers = Annotated[
    tuple[str, ...],
    BeforeValidator(_servers),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": SERVERS_MAX}),
]
Communities = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(_communities),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": COMMUNITIES_MAX}),
]
RouterId = Annotated[
    IPv4Address | None,
    BeforeValidator(_router_id),
    WithJsonSchema({"type": "string", "format": "ipv4"}),
]
Costs = Annotated[
    dict[str, int],
    BeforeValidator(_costs),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 0, "maximum": COST_MAX},
        }
    ),
]
KernelTable = Annotated[
    int,
    BeforeValidator(_kernel_table),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": TABLE_MAX}),
]
Asn = Annotated[int, Field(ge=0, le=ASN_MAX)]
MedOrNone = Annotated[
    int | None,
    Field(ge=0, le=4_294_967_295),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 4_294_967_295}),
]


class RouteTable(Table):
    """How a VIP's address is announced. VIPs with the same address have the same."""

    communities: Communities = Field(
        _ROUTE.communities,
        description="communities on the route",
        examples=[["64500:100", "64500:200"]],
    )
    med: MedOrNone = Field(
        None, description="multi-exit discriminator; left out: none", examples=[100]
    )
    prepend: int = Field(
        _ROUTE.prepend,
        ge=0,
        le=PREPEND_MAX,
        description="times that the own AS number is put before the path once more",
    )

    def to_route(self) -> Route:
        return Route(self.communities, self.med, self.prepend)


class PopTable(Table):
    """A place that announces VIPs, and what the way from it to others costs."""

    name: Name = Field(description="name of the PoP", examples=["fra"])
    costs: Costs = Field(
        default_factory=dict,
        description="cost of the way to other PoPs, for pools that prefer near backends; one that "
        "is not here comes last",
        examples=[{"par": 10}],
    )

    def to_pop(self) -> Pop:
        return Pop(self.name, dict(self.costs))


class PeerTable(Table):
    """A router that is told of the VIPs."""

    name: Name = Field(description="name of the router", examples=["fra-r1"])
    address: AnyAddress = Field(description="its address", examples=["10.1.0.1"])
    asn: int = Field(ge=1, le=ASN_MAX, description="its AS number", examples=[64_500])
    password_file: AbsolutePath = Field(
        "",
        description="path of a file with the password of TCP MD5 (RFC 2385); empty: none",
        examples=["/etc/limpet/bgp-fra-r1"],
    )
    bfd: bool = Field(False, description="whether BFD watches the way to it")
    multihop: bool = Field(False, description="whether it is not on a segment of this machine")

    def to_peer(self) -> Peer:
        values = {key: getattr(self, key) for key in type(self).model_fields}
        return Peer(**values)


class BgpTable(Table):
    """Who tells the routers of the VIPs of this director; without `speaker` nobody."""

    speaker: Literal["", "bird", "kernel"] = Field(
        "",
        description="bird: a BIRD 2 of the director's own; kernel: routes in a table of the "
        "kernel, which the operator's own speaker reads; empty: nobody",
    )
    asn: Asn = Field(_BGP.asn, description="AS number of this director", examples=[64_512])
    router_id: RouterId = Field(
        None,
        description="router id; left out: the lowest IPv4 address of the machine",
        examples=["10.0.0.1"],
    )
    peer: list[PeerTable] = Field([], description="routers that are told")
    table: KernelTable = Field(
        _BGP.table, description="routing table, for speaker kernel", examples=[_BGP.table]
    )
    hold_s: int = Field(
        _BGP.hold_s,
        ge=0,
        le=BGP_SECONDS_MAX,
        description="seconds that routes stay when the daemon has died; the kernel forwards",
    )
    needs: Literal["any", "all"] = Field(
        "any", description="how many VIPs of an address have to be able to serve"
    )
    drain_s: int = Field(
        _BGP.drain_s,
        ge=0,
        le=BGP_SECONDS_MAX,
        description="seconds at most between the sign of a PoP's drain and the withdrawal",
    )

    def to_bgp(self) -> Bgp:
        return Bgp(
            speaker=Speaker(self.speaker) if self.speaker else None,
            asn=self.asn,
            router_id=self.router_id,
            peers=tuple(each.to_peer() for each in self.peer),
            table=self.table,
            hold_s=self.hold_s,
            needs=self.needs,
            drain_s=self.drain_s,
        )


class ClusterTable(Table):
    """The directors that this one shares its state with; without `name` it stands alone."""

    name: NameOrEmpty = Field("", description="name of the cluster", examples=["edge"])
    servers: Servers = Field(
        _CLUSTER.servers,
        description="URLs of NATS servers; none: a file, for directors of one machine",
        examples=[["nats://10.9.0.1:4222", "nats://10.9.0.2:4222"]],
    )
    listen: Listen = Field(
        "",
        description='"address:port" for queries of other directors (UDP); they reach it there',
        examples=["10.9.0.11:7117"],
    )
    key_file: AbsolutePath = Field(
        "",
        description="path of the cluster's secret, 32 bytes or more, the same on every director",
        examples=["/etc/limpet/cluster.key"],
    )
    tls_ca: AbsolutePath = Field(
        "",
        description="path of the CA of the servers, PEM; empty: no TLS",
        examples=["/etc/limpet/nats-ca.pem"],
    )
    tls_certificate: AbsolutePath = Field(
        "",
        description="path of this director's certificate for the servers, PEM",
        examples=["/etc/limpet/nats.pem"],
    )
    tls_key: AbsolutePath = Field(
        "", description="path of its key, PEM", examples=["/etc/limpet/nats.key"]
    )
    queries_per_s: int = Field(
        _CLUSTER.queries_per_s,
        ge=0,
        le=QUERIES_MAX_PER_S,
        description="packets a second that are held until other directors have answered",
    )
    client_queries: int = Field(
        _CLUSTER.client_queries,
        ge=1,
        le=QUERIES_MAX_PER_S,
        description="the same of one client",
    )
    exceptions_max: int = Field(
        _CLUSTER.exceptions_max,
        ge=EXCEPTIONS_MIN,
        le=EXCEPTIONS_MAX,
        description="sessions and flows away from home that are known here",
    )

    def to_cluster(self) -> Cluster:
        values: dict[str, Any] = {key: getattr(self, key) for key in type(self).model_fields}
        return Cluster(**values)
