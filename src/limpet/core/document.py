# SPDX-License-Identifier: Apache-2.0
"""Document: the shape of a configuration file, table by table and key by key.

Each model is one table of the file. A key has its type, default, range, description and an
example; the JSON Schema, the error messages and the documentation all come from here. Defaults
are those of core/model.py. Unknown keys are refused: a misspelt key must not be ignored.

Not here: what has to fit together across tables (core/checks.py), and lines (core/source.py).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from limpet.core.model import (
    POOLS_MAX,
    Affinity,
    Backend,
    Desired,
    Director,
    Encapsulation,
    Pool,
    Protocol,
    Timeouts,
    Vip,
    XdpMode,
)
from limpet.core.values import (
    TIMEOUT_MAX_S,
    AnyAddress,
    Interfaces,
    Listen,
    Name,
    NameOrEmpty,
    Network4,
    Network6,
    Port,
    SlotKey,
    Weight,
)

FLOWS_MIN, FLOWS_MAX = 1_024, 67_108_864  # 2 GiB of entries and 3 GiB of IPv6 clients
RATE_MAX_PER_S = 100_000_000

_DIRECTOR = Director(name="", interfaces=())
_TIMEOUTS = Timeouts()

Seconds = Annotated[int, Field(ge=1, le=TIMEOUT_MAX_S)]
Rate = Annotated[int, Field(ge=0, le=RATE_MAX_PER_S)]


class Table(BaseModel):
    """Base of all tables: strict, and closed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TimeoutsTable(Table):
    """Idle seconds after which an entry of the connection table has expired."""

    tcp_established_s: Seconds = Field(
        _TIMEOUTS.tcp_established_s, description="TCP after the second packet (RFC 5382)"
    )
    tcp_opening_s: Seconds = Field(
        _TIMEOUTS.tcp_opening_s, description="TCP while only one packet was seen"
    )
    tcp_closing_s: Seconds = Field(
        _TIMEOUTS.tcp_closing_s, description="TCP after FIN or RST (RFC 5382)"
    )
    udp_s: Seconds = Field(_TIMEOUTS.udp_s, description="UDP (RFC 4787)")


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
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    timeouts: TimeoutsTable = Field(
        default_factory=lambda: TimeoutsTable.model_validate({}),
        description="idle timeouts of the connection table",
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

    def to_backend(self) -> Backend:
        return Backend(self.name, self.address, Encapsulation(self.encapsulation))


class PoolTable(Table):
    """The weighted backends behind VIPs."""

    name: Name = Field(description="name of the pool", examples=["web"])
    backends: dict[Name, Weight] = Field(
        description="weight of each backend, by name; none: new sessions are refused",
        examples=[{"b1": 1, "b2": 1}],
    )

    def to_pool(self) -> Pool:
        return Pool(self.name, dict(self.backends))


class VipTable(Table):
    """Address + protocol + port that clients use."""

    name: Name = Field(description="name of the VIP", examples=["web4"])
    address: AnyAddress = Field(
        description="address that clients connect to", examples=["192.0.2.10"]
    )
    protocol: Literal["tcp", "udp"] = Field(description="transport protocol", examples=["tcp"])
    port: Port = Field(description='port from 1 to 65535, or "all"', examples=[443])
    pool: Name = Field(description="name of the pool that serves it", examples=["web"])
    affinity: Literal["client", "flow"] = Field(
        "client",
        description="what picks the slot: the client's address (IPv6: its /64), or the 5-tuple",
    )

    def to_vip(self) -> Vip:
        protocol, affinity = Protocol(self.protocol), Affinity(self.affinity)
        return Vip(self.name, self.address, protocol, self.port, self.pool, affinity)


class Document(Table):
    """Configuration of a limpet director."""

    director: DirectorTable = Field(description="this machine")
    metrics: MetricsTable = Field(
        default_factory=lambda: MetricsTable.model_validate({}), description="Prometheus metrics"
    )
    backend: list[BackendTable] = Field([], description="machines that terminate sessions")
    pool: list[PoolTable] = Field([], description="weighted backends behind VIPs")
    vip: list[VipTable] = Field([], description="addresses that clients use")

    def to_desired(self) -> Desired:
        return Desired(
            director=self.director.to_director(),
            backends=tuple(table.to_backend() for table in self.backend),
            pools=tuple(table.to_pool() for table in self.pool),
            vips=tuple(table.to_vip() for table in self.vip),
            metrics_listen=self.metrics.listen,
            log_level=self.director.log_level,
        )
