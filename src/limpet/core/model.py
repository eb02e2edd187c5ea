# SPDX-License-Identifier: Apache-2.0
"""The nouns: what people want (Desired), and what the kernel should hold for it (Image).

`Desired` speaks in names and comes from the configuration file. `Image` speaks in ids, rows of
kernel maps, and is what `plan` makes of it. `Registry` holds which id a name has, so that ids and
slot tables last over reloads and restarts.

Addresses are `ipaddress` objects from here inward. Everything is frozen: a change is a new value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

import numpy as np
from numpy.typing import NDArray

SLOTS = 65_536
BACKENDS_MAX = 4_096  # ids 1..4095; id 0 means "no backend"
VIPS_MAX = 1_024  # ids 1..1023; id 0 means "no VIP"
POOLS_MAX = 1_024
WEIGHT_MAX = 65_535

SOURCE4 = IPv4Network("100.64.0.0/16")
SOURCE6 = IPv6Network("fd00:11be:7::/96")

Address = IPv4Address | IPv6Address
Slots = NDArray[np.uint16]  # shape (65536,): backend id that is the slot's home, 0 for none

BackendId = NewType("BackendId", int)
VipId = NewType("VipId", int)
PoolId = NewType("PoolId", int)


class Protocol(StrEnum):
    """Transport protocol of a VIP; `number` is its IANA protocol number."""

    TCP = "tcp"
    UDP = "udp"

    @property
    def number(self) -> int:
        return 6 if self is Protocol.TCP else 17


class Affinity(StrEnum):
    """Which part of a packet picks the slot."""

    CLIENT = "client"  # the client's address; IPv6: its /64
    FLOW = "flow"  # the whole 5-tuple


class Encapsulation(StrEnum):
    """How a packet travels from the director to the backend."""

    IPIP = "ipip"  # an outer IP header of the backend address's family
    L2 = "l2"  # MAC rewrite; the backend is on the director's segment


class XdpMode(StrEnum):
    """Where the XDP program runs."""

    AUTO = "auto"  # native where the driver can, else generic
    NATIVE = "native"
    GENERIC = "generic"


# --- Desired: what people want -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backend:
    """A machine that terminates sessions."""

    name: str
    address: Address
    encapsulation: Encapsulation = Encapsulation.IPIP


@dataclass(frozen=True, slots=True)
class Pool:
    """The weighted backends behind VIPs: backend name -> weight (0 to 65535)."""

    name: str
    weights: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Vip:
    """Address + protocol + port (None: all ports) that clients use."""

    name: str
    address: Address
    protocol: Protocol
    port: int | None
    pool: str
    affinity: Affinity = Affinity.CLIENT


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Idle seconds after which an entry of the connection table has expired.

    Defaults: RFC 5382 (TCP established 2 h 4 min, transitory 4 min) and RFC 4787 (UDP 5 min).
    """

    tcp_established_s: int = 7_440
    tcp_opening_s: int = 60
    tcp_closing_s: int = 240
    udp_s: int = 300


@dataclass(frozen=True, slots=True)
class Director:
    """This machine: where packets come in, and the sizes and limits of its data plane."""

    name: str
    interfaces: tuple[str, ...]
    pop: str = ""
    xdp: XdpMode = XdpMode.AUTO
    source4: IPv4Network = SOURCE4  # outer source; must be a /16
    source6: IPv6Network = SOURCE6  # outer source; must be a /96
    slot_key: bytes = b""  # 16 bytes, the same on every director; empty: made on first start
    flows_max: int = 1_000_000
    new_flows_per_s: int = 200_000  # above it new flows get no entry; 0: no limit
    icmp_per_s: int = 1_000  # ICMP answers; 0: no limit
    pools_max: int = 64
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that the configuration file says, validated."""

    director: Director
    backends: tuple[Backend, ...] = ()
    pools: tuple[Pool, ...] = ()
    vips: tuple[Vip, ...] = ()
    metrics_listen: str = ""  # "address:port"; empty: no metrics endpoint over TCP
    log_level: str = "info"


# --- Facts: what was measured ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NextHop:
    """How a frame leaves for a backend: resolved by the daemon from routes and neighbours."""

    ifindex: int
    mac: bytes  # 6 bytes; all zero: the neighbour has not answered yet
    source_mac: bytes  # 6 bytes
    mtu: int  # largest IP packet, outer header included


# --- Image: what the kernel should hold ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One row of the map `backends`."""

    id: BackendId
    address: Address
    encapsulation: Encapsulation
    next_hop: NextHop | None = None


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One row of the map `pools` and its slot table."""

    id: PoolId
    generation: int
    slots: Slots = field(compare=False)
    digest: str  # core.slots.digest of the slots; compared instead of them


@dataclass(frozen=True, slots=True)
class VipRow:
    """One row of the map `vips`, and its place in the VIP lookup."""

    id: VipId
    address: Address
    protocol: Protocol
    port: int | None
    pool: PoolId
    affinity: Affinity


@dataclass(frozen=True, slots=True)
class Image:
    """The kernel's whole content, but for flows and counters. Rows are sorted by id."""

    backends: tuple[BackendRow, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    vips: tuple[VipRow, ...] = ()
