# SPDX-License-Identifier: Apache-2.0
"""Document: the shape of a configuration file, table by table and key by key.

Each model is one table of the file. A key has its type, default, range, description and an
example; the JSON Schema, the error messages and the documentation all come from here. Defaults
are those of core/model.py. Unknown keys are refused: a misspelt key must not be ignored.

Not here: the tables of a pool (core/pool_table.py) and those about other machines
(core/cluster_tables.py), what has to fit together across tables
(core/checks.py), and lines (core/source.py).
"""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from limpet.core.cluster_tables import BgpTable, ClusterTable, PopTable, RouteTable
from limpet.core.model import (
    POOLS_MAX,
    Affinity,
    ApiListen,
    Backend,
    Desired,
    Director,
    Encapsulation,
    Hooks,
    MegaProxy,
    Protocol,
    Timeouts,
    Vip,
    XdpMode,
)
from limpet.core.pool_table import PoolTable
from limpet.core.table import Table
from limpet.core.values import (
    TIMEOUT_MAX_S,
    AbsolutePath,
    AnyAddress,
    Argv,
    Interfaces,
    Listen,
    Mark,
    Name,
    NameOrEmpty,
    Network4,
    Network6,
    Port,
    PortRanges,
    Prefixes,
    Seconds,
    SlotKey,
    Webhook,
)

FLOWS_MIN, FLOWS_MAX = 1_024, 67_108_864  # 2 GiB of entries and 3 GiB of IPv6 clients
SESSIONS_MIN, SESSIONS_MAX = 1_024, 67_108_864  # 4.5 GiB
RATE_MAX_PER_S = 100_000_000
HOOK_S = (0.1, 300)

_DIRECTOR = Director(name="", interfaces=())
_TIMEOUTS = Timeouts()
_PROXY = MegaProxy()
_HOOKS = Hooks()
_PORT_RANGES = 16

SecondsOrNone = Annotated[
    int | None,
    Field(ge=1, le=TIMEOUT_MAX_S),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": TIMEOUT_MAX_S}),
]
PrefixOrNone = Annotated[
    int | None,
    Field(ge=1, le=128),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 128}),
]
Rate = Annotated[int, Field(ge=0, le=RATE_MAX_PER_S)]


class TimeoutsTable(Table):
    """Idle seconds after which an entry has expired, for VIPs that do not say theirs."""

    tcp_established_s: Seconds = Field(
        _TIMEOUTS.tcp_established_s,
        description="TCP after the second packet, and sessions over TCP",
    )
    tcp_opening_s: Seconds = Field(
        _TIMEOUTS.tcp_opening_s, description="TCP while only one packet was seen"
    )
    tcp_closing_s: Seconds = Field(
        _TIMEOUTS.tcp_closing_s, description="TCP after FIN or RST (RFC 5382)"
    )
    udp_s: Seconds = Field(_TIMEOUTS.udp_s, description="UDP, and sessions over UDP")


class VipTimeoutsTable(Table):
    """Idle seconds of this VIP; a key that is left out is that of [director.timeouts]."""

    tcp_established_s: SecondsOrNone = Field(None, description="as in [director.timeouts]")
    tcp_opening_s: SecondsOrNone = Field(None, description="as in [director.timeouts]")
    tcp_closing_s: SecondsOrNone = Field(None, description="as in [director.timeouts]")
    udp_s: SecondsOrNone = Field(None, description="as in [director.timeouts]")

    def to_timeouts(self, usual: Timeouts) -> Timeouts:
        return replace(usual, **self.model_dump(exclude_none=True))


class DirectorTable(Table):
    """This machine: where packets come in, and the limits of its data plane."""

    name: Name = Field(description="name of this director", examples=["fra-d1"])
    interfaces: Interfaces = Field(
        description="interfaces on which packets for VIPs come in", examples=[["eth0"]]
    )
    pop: NameOrEmpty = Field("", description="PoP that this director stands in", examples=["fra"])
    xdp: Literal["auto", "native", "generic"] = Field(
        "auto", description="where the XDP program runs; auto: native where the driver can"
    )
    source4: Network4 = Field(
        _DIRECTOR.source4,
        description="outer IPv4 sources, a /16 that nothing else uses",
        examples=["100.64.0.0/16"],
    )
    source6: Network6 = Field(
        _DIRECTOR.source6,
        description="outer IPv6 sources, a /96 that nothing else uses",
        examples=["fd00:11be:7::/96"],
    )
    slot_key: SlotKey = Field(
        b"",
        description="32 hexadecimal digits, the same on every director; empty: made on first start",
        examples=["000102030405060708090a0b0c0d0e0f"],
    )
    flows_max: int = Field(
        _DIRECTOR.flows_max, ge=FLOWS_MIN, le=FLOWS_MAX, description="size of the connection table"
    )
    new_flows_per_s: Rate = Field(
        _DIRECTOR.new_flows_per_s,
        description="above it new flows are placed by hash without an entry; 0: no limit",
    )
    icmp_per_s: Rate = Field(
        _DIRECTOR.icmp_per_s, description="ICMP answers of the director; 0: no limit"
    )
    pools_max: int = Field(
        _DIRECTOR.pools_max, ge=1, le=POOLS_MAX, description="pools that memory is reserved for"
    )
    sessions_max: int = Field(
        _DIRECTOR.sessions_max,
        ge=SESSIONS_MIN,
        le=SESSIONS_MAX,
        description="size of the session table",
    )
    hash_only: bool = Field(
        _DIRECTOR.hash_only,
        description="every packet goes by the hash of its client alone, as without limpet: "
        "sessions break; to compare, never for use",
        examples=[False],
    )
    mark: Mark = Field(
        _DIRECTOR.mark,
        description="firewall mark of the director's own packets to a backend, to which the "
        "backend's id is added (0x6c690000); nothing else here may use these 4,096 marks",
        examples=[_DIRECTOR.mark],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    timeouts: TimeoutsTable = Field(
        default_factory=lambda: TimeoutsTable.model_validate({}),
        description="idle timeouts of flows and sessions",
    )

    def to_director(self) -> Director:
        values = {key: getattr(self, key) for key in type(self).model_fields}
        del values["log_level"]
        values["xdp"] = XdpMode(self.xdp)
        values["timeouts"] = Timeouts(**self.timeouts.model_dump())
        return Director(**values)


class MetricsTable(Table):
    """Where Prometheus metrics are served."""

    listen: Listen = Field(
        "",
        description='"address:port" of the metrics endpoint; empty: none',
        examples=["127.0.0.1:9464"],
    )


class BackendTable(Table):
    """A machine that terminates sessions."""

    name: Name = Field(description="name of the backend", examples=["b1"])
    address: AnyAddress = Field(
        description="address that encapsulated packets are sent to", examples=["10.0.0.11"]
    )
    encapsulation: Literal["ipip", "l2"] = Field(
        "ipip",
        description="how packets travel to it: ipip, or l2 if it is on the director's segment",
    )
    pop: NameOrEmpty = Field(
        "", description="PoP that it stands in; empty: none in particular", examples=["fra"]
    )
    sessions_max: int = Field(
        0,
        ge=0,
        le=SESSIONS_MAX,
        description="live sessions with which it is full, for pools that prefer near backends; "
        "0: never",
    )

    def to_backend(self) -> Backend:
        kind = Encapsulation(self.encapsulation)
        return Backend(self.name, self.address, kind, self.pop, self.sessions_max)


class VipTable(Table):
    """Address + protocol + port that clients use."""

    name: Name = Field(description="name of the VIP", examples=["web4"])
    address: AnyAddress = Field(
        description="address that clients connect to", examples=["192.0.2.10"]
    )
    protocol: Literal["tcp", "udp"] = Field(description="transport protocol", examples=["tcp"])
    port: Port = Field(description='port from 1 to 65535, or "all"', examples=[443])
    pool: Name = Field(description="name of the pool that serves it", examples=["web"])
    affinity: Literal["client", "client+ports", "flow"] = Field(
        "client",
        description="what makes a session: the client's address, that and the range of its port, "
        "or the 5-tuple",
    )
    prefix: PrefixOrNone = Field(
        None,
        description="bits of the client's address that count; left out: 32 for IPv4, 64 for IPv6",
        examples=[56],
    )
    port_ranges: PortRanges = Field(
        _PORT_RANGES,
        description='ranges of the client\'s port for affinity = "client+ports", a power of two '
        "from 2 to 65536",
        examples=[_PORT_RANGES],
    )
    timeouts: VipTimeoutsTable = Field(
        default_factory=lambda: VipTimeoutsTable.model_validate({}),
        description="idle timeouts of this VIP's flows and sessions",
    )
    route: RouteTable = Field(
        default_factory=lambda: RouteTable.model_validate({}),
        description="how its address is announced",
    )

    def to_vip(self, timeouts: Timeouts) -> Vip:
        return Vip(
            name=self.name,
            address=self.address,
            protocol=Protocol(self.protocol),
            port=self.port,
            pool=self.pool,
            affinity=Affinity(self.affinity),
            prefix=self.prefix,
            port_ranges=self.port_ranges,
            timeouts=self.timeouts.to_timeouts(timeouts),
            route=self.route.to_route(),
        )


class MegaProxyTable(Table):
    """When a client counts as very many, and its sessions are split by ranges of its ports."""

    flows: int = Field(
        _PROXY.flows,
        ge=0,
        le=FLOWS_MAX,
        description="open flows of one client to one VIP from which on it is split; 0: never",
    )
    share: float = Field(
        _PROXY.share,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="or this share of all open flows of the VIP, in percent; 0: never",
    )
    port_ranges: PortRanges = Field(
        _PROXY.port_ranges,
        description="ranges of its ports that have sessions of their own, a power of two from 2 "
        "to 65536",
        examples=[_PROXY.port_ranges],
    )
    prefixes: Prefixes = Field(
        _PROXY.prefixes,
        description="clients that are split from their first flow on",
        examples=[["198.51.100.0/24", "2001:db8:7::/48"]],
    )

    def to_mega_proxy(self) -> MegaProxy:
        return MegaProxy(self.flows, self.share, self.port_ranges, self.prefixes)


class HooksTable(Table):
    """Who is told when a backend is drained, as JSON, at least once."""

    command: Argv = Field(
        _HOOKS.command,
        description="program and arguments; the event is on its standard input",
        examples=[["/usr/local/bin/limpet-event"]],
    )
    webhook: Webhook = Field(
        _HOOKS.webhook,
        description="URL that the event is posted to",
        examples=["https://ops.example.net/limpet"],
    )
    timeout_s: float = Field(
        _HOOKS.timeout_s,
        ge=HOOK_S[0],
        le=HOOK_S[1],
        allow_inf_nan=False,
        description="seconds that either may take, before it is tried again",
    )

    def to_hooks(self) -> Hooks:
        return Hooks(self.command, self.webhook, self.timeout_s)


class ApiTable(Table):
    """Where the API is served over TCP, beside its unix socket."""

    listen: Listen = Field(
        "", description='"address:port"; empty: nowhere', examples=["192.0.2.1:8443"]
    )
    certificate: AbsolutePath = Field(
        "", description="path of the certificate, PEM", examples=["/etc/limpet/tls.pem"]
    )
    key: AbsolutePath = Field(
        "", description="path of its key, PEM", examples=["/etc/limpet/tls.key"]
    )
    tokens: AbsolutePath = Field(
        "",
        description="path of a file of which each line has a role, a name and the SHA-256 of a "
        "token",
        examples=["/etc/limpet/tokens"],
    )

    def to_api(self) -> ApiListen:
        return ApiListen(self.listen, self.certificate, self.key, self.tokens)


class Document(Table):
    """Configuration of a limpet director."""

    director: DirectorTable = Field(description="this machine")
    metrics: MetricsTable = Field(
        default_factory=lambda: MetricsTable.model_validate({}), description="Prometheus metrics"
    )
    api: ApiTable = Field(
        default_factory=lambda: ApiTable.model_validate({}), description="the API over TCP"
    )
    hooks: HooksTable = Field(
        default_factory=lambda: HooksTable.model_validate({}),
        description="who is told of what happens",
    )
    mega_proxy: MegaProxyTable = Field(
        default_factory=lambda: MegaProxyTable.model_validate({}),
        description="clients behind which very many are",
    )
    cluster: ClusterTable = Field(
        default_factory=lambda: ClusterTable.model_validate({}),
        description="directors that share one state",
    )
    bgp: BgpTable = Field(
        default_factory=lambda: BgpTable.model_validate({}),
        description="who tells routers of the VIPs",
    )
    pop: list[PopTable] = Field([], description="places that announce VIPs")
    backend: list[BackendTable] = Field([], description="machines that terminate sessions")
    pool: list[PoolTable] = Field([], description="weighted backends behind VIPs")
    vip: list[VipTable] = Field([], description="addresses that clients use")

    def to_desired(self) -> Desired:
        director = self.director.to_director()
        return Desired(
            director=director,
            backends=tuple(table.to_backend() for table in self.backend),
            pools=tuple(table.to_pool() for table in self.pool),
            vips=tuple(table.to_vip(director.timeouts) for table in self.vip),
            metrics_listen=self.metrics.listen,
            log_level=self.director.log_level,
            mega_proxy=self.mega_proxy.to_mega_proxy(),
            hooks=self.hooks.to_hooks(),
            api=self.api.to_api(),
            pops=tuple(table.to_pop() for table in self.pop),
            bgp=self.bgp.to_bgp(),
            cluster=self.cluster.to_cluster(),
        )
