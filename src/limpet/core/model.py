# SPDX-License-Identifier: Apache-2.0
"""The nouns: what people want (Desired), and what the kernel should hold for it (Image).

`Desired` speaks in names and comes from the configuration file. `Image` speaks in ids, rows of
kernel maps, and is what `plan` makes of it. `Registry` holds which id a name has, so that ids and
slot tables last over reloads and restarts.

Addresses are `ipaddress` objects from here inward. Everything is frozen: a change is a new value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

import numpy as np
from numpy.typing import NDArray

SLOTS = 65_536
BACKENDS_MAX = 4_096  # ids 1..4095; id 0 means "no backend"
VIPS_MAX = 1_024  # ids 1..1023; id 0 means "no VIP"
POOLS_MAX = 1_024
WEIGHT_MAX = 65_535
PROXIES_MAX = 16_384  # prefixes of known mega-proxies

SLOT_BACKEND, SLOT_TELL, SLOT_UNSURE = 0x0FFF, 0x4000, 0x8000  # enum slot of bpf/abi.h

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
    CLIENT_PORTS = "client+ports"  # the client's address and the range of its port


class Policy(StrEnum):
    """How the backend of a new session is chosen."""

    HASH = "hash"  # the home of its slot
    ROUND_ROBIN = "round-robin"  # weighted, smooth
    LEAST_SESSIONS = "least-sessions"  # the freest: fewest live sessions per weight


class DrainRule(StrEnum):
    """Who may stay on a draining backend."""

    SESSIONS = "sessions"  # live sessions, with the new flows that they begin
    FLOWS = "flows"  # open flows only


class AtDeadline(StrEnum):
    """What becomes of those that are still there when a drain's time is up."""

    KEEP = "keep"
    RESET = "reset"  # TCP RST to both ends


class OnDown(StrEnum):
    """What becomes of the sessions of a backend that stays down."""

    HOLD = "hold"  # they are sent there, come what may
    RESET = "reset"  # TCP RST to the client, so that it connects anew at once
    REHASH = "rehash"  # its flows are placed anew, without a word


class Standing(IntFlag):
    """What sessions of a pool do with a backend of it; bits as in enum standing of bpf/abi.h."""

    NORMAL = 0
    LEFT_BY_SESSIONS = 1  # new flows of its sessions go elsewhere: down, or draining by flows
    LEFT_BY_FLOWS = 2  # its flows go elsewhere as well: down, on-down rehash
    RESET = 4  # its TCP flows are reset: at a deadline, or on-down reset


class CheckKind(StrEnum):
    """What a health check asks of a backend."""

    TCP = "tcp"  # a connection
    TLS = "tls"  # a TLS handshake
    HTTP = "http"  # an answer with a wanted status, and text in it
    HTTPS = "https"
    COMMAND = "command"  # exit status 0


class CheckPath(StrEnum):
    """How a health check travels."""

    VIP = "vip"  # to the VIP, encapsulated, as packets of clients do
    DIRECT = "direct"  # to the backend's own address


class Prefer(StrEnum):
    """Which of a pool's backends new sessions go to first."""

    ANY = "any"  # all alike
    NEAR = "near"  # those of the director's PoP, then by the cost to other PoPs


class Speaker(StrEnum):
    """Who tells the routers of the VIPs."""

    BIRD = "bird"  # a BIRD 2 of our own
    KERNEL = "kernel"  # routes in a table of the kernel, which the operator's own speaker reads


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
    pop: str = ""  # where it stands; empty: nowhere in particular
    sessions_max: int = 0  # live sessions with which it is full, for `prefer`; 0: never


@dataclass(frozen=True, slots=True)
class Pop:
    """A place that announces VIPs."""

    name: str
    costs: Mapping[str, int] = field(default_factory=dict)  # of the way to other PoPs, by name


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a pool asks whether a backend is up."""

    kind: CheckKind = CheckKind.TCP
    path: CheckPath = CheckPath.VIP
    vip: str = ""  # name of the VIP that is asked; empty: the pool's first over TCP
    port: int | None = None  # None: the VIP's; must be given for a VIP with all ports
    interval_s: float = 2.0
    timeout_s: float = 1.0
    rise: int = 2  # good answers in a row that make it up
    fall: int = 3  # bad ones that make it down
    http_path: str = "/"
    http_host: str = ""  # also the name in TLS; empty: the address
    http_status: tuple[int, int] = (200, 399)  # first and last that is good
    http_body: str = ""  # text that must be in the first 64 KiB; empty: any
    verify: bool = False  # TLS: the certificate has to be valid
    command: tuple[str, ...] = ()  # argv; "{backend}", "{address}", "{vip}" and "{port}" are filled


@dataclass(frozen=True, slots=True)
class Pool:
    """The weighted backends behind VIPs: backend name -> weight (0 to 65535)."""

    name: str
    weights: Mapping[str, int]
    policy: Policy = Policy.HASH
    reassign: Policy = Policy.LEAST_SESSIONS  # for a client whose session has expired
    drain: DrainRule = DrainRule.SESSIONS
    slow_start_s: int = 0  # over which the weight of a backend that comes rises
    health: HealthCheck | None = None  # None: backends count as up
    hold_s: int = 30  # that sessions of a down backend are held, before
    on_down: OnDown = OnDown.RESET  # happens to them
    fail_open: bool = False  # with every backend down, use them all
    prefer: Prefer = Prefer.ANY


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Idle seconds after which an entry has expired.

    A session lives as long as an established flow of its VIP's protocol. RFC 5382 has 2 h 4 min for
    established TCP; an expired TCP flow is still remembered here, and wakes up where it was.
    """

    tcp_established_s: int = 1_800
    tcp_opening_s: int = 60
    tcp_closing_s: int = 240
    udp_s: int = 1_800


@dataclass(frozen=True, slots=True)
class Route:
    """How a VIP's address is announced."""

    communities: tuple[tuple[int, int], ...] = ()
    med: int | None = None
    prepend: int = 0  # times that our AS number is put before the path once more


@dataclass(frozen=True, slots=True)
class Vip:
    """Address + protocol + port (None: all ports) that clients use."""

    name: str
    address: Address
    protocol: Protocol
    port: int | None
    pool: str
    affinity: Affinity = Affinity.CLIENT
    prefix: int | None = None  # bits of the client's address that count; None: 32, or 64 for IPv6
    port_ranges: int = 16  # of affinity client+ports; a power of two, 2 to 65,536
    timeouts: Timeouts = field(default_factory=Timeouts)
    route: Route = field(default_factory=Route)


@dataclass(frozen=True, slots=True)
class Peer:
    """A router that we tell of the VIPs."""

    name: str
    address: Address
    asn: int
    password_file: str = ""  # TCP MD5 (RFC 2385); empty: none
    bfd: bool = False
    multihop: bool = False


@dataclass(frozen=True, slots=True)
class Bgp:
    """Who tells whom of the VIPs of this director; without `speaker` nobody."""

    speaker: Speaker | None = None
    asn: int = 0
    router_id: IPv4Address | None = None
    peers: tuple[Peer, ...] = ()
    table: int = 117  # of the kernel, for the speaker `kernel`
    hold_s: int = 600  # that routes stay without a daemon
    needs: str = "any"  # "any" or "all" VIPs of an address have to be able to serve
    drain_s: int = 60  # at most between the sign of a PoP's drain and the withdrawal


@dataclass(frozen=True, slots=True)
class Cluster:
    """The directors that this one shares its state with; without `name` it stands alone."""

    name: str = ""
    servers: tuple[str, ...] = ()  # URLs of NATS servers
    listen: str = ""  # "address:port" for queries of other directors (UDP)
    key_file: str = ""  # secret of the cluster, 32 bytes or more; signs what directors tell
    tls_ca: str = ""  # paths of PEM files; empty: no TLS to the store
    tls_certificate: str = ""
    tls_key: str = ""
    queries_per_s: int = 20_000  # packets held for an answer, at most
    client_queries: int = 100  # and of one client, in a second
    exceptions_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class MegaProxy:
    """When a client counts as very many, and its affinity is split by ranges of its ports."""

    flows: int = 1_000  # open flows of one client to one VIP; 0: never
    share: float = 0.0  # or this share of all open flows of the VIP, in percent; 0: never
    port_ranges: int = 4_096  # a power of two, 2 to 65,536
    prefixes: tuple[IPv4Network | IPv6Network, ...] = ()  # known ones


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told of what happens. Each gets the event as JSON; delivered at least once."""

    command: tuple[str, ...] = ()  # argv; the event on standard input
    webhook: str = ""  # URL, POST
    timeout_s: float = 10.0


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
    sessions_max: int = 1_000_000
    timeouts: Timeouts = field(default_factory=Timeouts)  # of VIPs that do not say theirs
    mark: int = 0x6C69_0000  # of packets of ours to a backend, plus its id; the low 12 bits are 0
    hash_only: bool = False  # every packet goes by the hash: for comparisons


@dataclass(frozen=True, slots=True)
class ApiListen:
    """Where the API is served over TCP; empty `listen`: nowhere."""

    listen: str = ""  # "address:port"
    certificate: str = ""  # path of a PEM file
    key: str = ""  # path of a PEM file
    tokens: str = ""  # path of a file: a line has a role, a name and the SHA-256 of a token


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that the configuration file says, validated."""

    director: Director
    backends: tuple[Backend, ...] = ()
    pools: tuple[Pool, ...] = ()
    vips: tuple[Vip, ...] = ()
    metrics_listen: str = ""  # "address:port"; empty: no metrics endpoint over TCP
    log_level: str = "info"
    mega_proxy: MegaProxy = field(default_factory=MegaProxy)
    hooks: Hooks = field(default_factory=Hooks)
    api: ApiListen = field(default_factory=ApiListen)
    pops: tuple[Pop, ...] = ()
    bgp: Bgp = field(default_factory=Bgp)
    cluster: Cluster = field(default_factory=Cluster)


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
    has_standing: bool = False  # in some pool its standing is not 0


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One row of the map `pools`, its slot table, and how its new sessions are placed."""

    id: PoolId
    generation: int
    slots: Slots = field(compare=False)  # with the marks of enum slot of bpf/abi.h
    digest: str  # core.slots.digest of the slots; compared instead of them
    members: tuple[tuple[BackendId, int], ...] = ()  # eligible backends and their weights, by id
    policy: Policy = Policy.HASH
    reassign: Policy = Policy.LEAST_SESSIONS
    standing: tuple[tuple[BackendId, Standing], ...] = ()  # of those where it is not 0, by id


@dataclass(frozen=True, slots=True)
class VipRow:
    """One row of the map `vips`, and its place in the VIP lookup."""

    id: VipId
    address: Address
    protocol: Protocol
    port: int | None
    pool: PoolId
    affinity: Affinity
    prefix: int | None = None
    port_ranges: int = 16
    split_flows: int = 0  # 0: never
    split_ranges: int = 4_096
    looks_at_list: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True, slots=True)
class Image:
    """The kernel's whole content, but for flows and counters. Rows are sorted by id."""

    backends: tuple[BackendRow, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    vips: tuple[VipRow, ...] = ()
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()  # known mega-proxies, sorted
