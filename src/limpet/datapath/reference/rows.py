# SPDX-License-Identifier: Apache-2.0
"""The image as the packet path looks at it: backends, pools, VIPs by destination, mega-proxies.

Lookups are dictionaries here; the kernel's open-addressing tables (datapath.viptable) must give the
same answers. Also here: what is served at an address, who takes a fragment without ports, and how
long an entry of a VIP may be idle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from limpet.core import affinity
from limpet.core.diff import Changes
from limpet.core.hashing import words
from limpet.core.model import (
    Address,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    Policy,
    PoolRow,
    Protocol,
    Standing,
    VipRow,
)
from limpet.core.slots import inverses, turns
from limpet.datapath.abi import Encapsulation as Code
from limpet.datapath.abi import Life
from limpet.datapath.reference.packet import Words

OUTER_LENGTH = {Code.IPIP4: 20, Code.IPIP6: 40, Code.L2: 0}
UNKNOWN = bytes(6)
CLIENT_PORTS = Affinity.CLIENT_PORTS
# Idle limits of a VIP in ticks, by life; None: of fragments, which have no VIP.
IdleTicks = Callable[[VipRow | None], Mapping[Life, int]]


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of `backends`. `ifindex` 0: the next hop is not known yet."""

    address: bytes  # packed, 4 or 16 bytes
    encapsulation: Code
    ifindex: int = 0
    next_hop: bytes = UNKNOWN
    source_mac: bytes = UNKNOWN
    mtu: int = 0  # 0: not known, nothing is too big
    has_standing: bool = False  # in some pool its standing is not 0

    @property
    def outer_length(self) -> int:
        """Bytes that encapsulation adds."""
        return OUTER_LENGTH[self.encapsulation]


def backend(row: BackendRow) -> Backend:
    """What the packet path needs of a row of the image."""
    if row.encapsulation is Encapsulation.L2:
        code = Code.L2
    else:
        code = Code.IPIP4 if row.address.version == 4 else Code.IPIP6
    hop = row.next_hop
    if hop is None:
        return Backend(row.address.packed, code, has_standing=row.has_standing)
    ifindex = 0 if hop.mac == UNKNOWN else hop.ifindex
    return Backend(
        row.address.packed, code, ifindex, hop.mac, hop.source_mac, hop.mtu, row.has_standing
    )


@dataclass(frozen=True, slots=True)
class Vip:
    """A row of `vips`."""

    id: int
    pool: int
    affinity: Affinity
    mask: Words  # over the client's address: what of it counts
    range_shift: int = 0  # client port >> range_shift is its range, for client+ports
    split_flows: int = 0  # open flows with which a client becomes a mega-proxy; 0: never
    split_shift: int = 0
    looks_at_list: bool = False  # clients under a listed prefix are mega-proxies at once

    def own_range(self, client_port: int) -> int:
        """The part of a session's key that its ports make; 0: none, the whole client."""
        return 1 + (client_port >> self.range_shift) if self.affinity is CLIENT_PORTS else 0

    def split_range(self, client_port: int) -> int:
        """The same for a mega-proxy."""
        return 1 + (client_port >> self.split_shift)


@dataclass(frozen=True, slots=True)
class Pool:
    """A row of `pools`, and its tables."""

    slots: Sequence[int]  # home of each slot
    turns: Sequence[int]  # backends in the order of round robin
    members: tuple[tuple[int, int], ...]  # eligible backends, and what one session more weighs
    policy: Policy
    reassign: Policy
    standing: Mapping[int, Standing]


@dataclass(slots=True)
class Services:
    """What is served at one VIP address."""

    address_id: int
    ports: dict[tuple[int, int], Vip]  # by protocol and port
    all_ports: dict[int, Vip]  # by protocol
    fragments: dict[int, Vip]  # by protocol: where a fragment without ports has but one home

    def find(self, protocol: int, port: int) -> Vip | None:
        """One port wins over all ports."""
        return self.ports.get((protocol, port)) or self.all_ports.get(protocol)


def _fragment_vip(vips: list[VipRow]) -> VipRow | None:
    """The VIP that takes fragments: only if there is one pool, and the client alone decides."""
    if len({vip.pool for vip in vips}) > 1 or any(v.affinity is not Affinity.CLIENT for v in vips):
        return None
    return min(vips, key=lambda vip: vip.id)


def _vip(row: VipRow) -> Vip:
    return Vip(
        id=row.id,
        pool=row.pool,
        affinity=row.affinity,
        mask=affinity.mask(row.affinity, row.address.version, row.prefix),
        range_shift=affinity.shift(row.port_ranges),
        split_flows=row.split_flows,
        split_shift=affinity.shift(row.split_ranges),
        looks_at_list=row.looks_at_list,
    )


@lru_cache(maxsize=256)
def _turns(members: tuple[tuple[BackendId, int], ...]) -> Sequence[int]:
    return turns(members).data


def pool(row: PoolRow) -> Pool:
    """What the packet path needs of a row of the image."""
    weights = inverses(row.members)
    return Pool(
        slots=row.slots.data,
        turns=_turns(row.members),
        members=tuple((m[0], inverse) for m, inverse in zip(row.members, weights, strict=True)),
        policy=row.policy,
        reassign=row.reassign,
        standing=dict(row.standing),
    )


def _prefix(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    high, low = words(network.network_address)
    free = network.max_prefixlen - network.prefixlen
    return (high << 64 | low) >> free, free


def _services(address_id: int, vips: list[VipRow]) -> Services:
    found = Services(address_id, {}, {}, {})
    for row in vips:
        if row.port is None:
            found.all_ports[row.protocol.number] = _vip(row)
        else:
            found.ports[row.protocol.number, row.port] = _vip(row)
    for protocol in Protocol:
        same = [row for row in vips if row.protocol is protocol]
        taker = _fragment_vip(same) if same else None
        if taker is not None:
            found.fragments[protocol.number] = _vip(taker)
    return found


class Rows:
    """All rows. Address ids are given in the order in which addresses first appear among the
    VIPs.
    """

    def __init__(self, idle_ticks: IdleTicks) -> None:
        self._idle_ticks = idle_ticks
        self._limits = {0: idle_ticks(None)}  # by VIP id
        self.backends: dict[int, Backend] = {}
        self.pools: dict[int, Pool] = {}
        self.vips: dict[int, Vip] = {}  # also those that nobody asks for any more: flows name them
        self.addresses: dict[Words, Services] = {}
        self._proxies: tuple[tuple[int, int], ...] = ()  # prefix, and bits that do not count

    def apply(self, changes: Changes) -> None:
        """Write rows, in the order of `Changes`."""
        self.backends |= {row.id: backend(row) for row in changes.backends_put}
        self.pools |= {row.id: pool(row) for row in changes.pools_put}
        if changes.proxies is not None:
            self._proxies = tuple(_prefix(network) for network in changes.proxies)
        if changes.vips is not None:
            self._put_vips(changes.vips)
        for gone in changes.pools_removed:
            self.pools.pop(gone, None)
        for number in changes.backends_removed:
            self.backends.pop(number, None)

    def _put_vips(self, vips: tuple[VipRow, ...]) -> None:
        by_address: dict[Address, list[VipRow]] = {}
        for row in vips:
            by_address.setdefault(row.address, []).append(row)
            self.vips[row.id] = _vip(row)
            self._limits[row.id] = self._idle_ticks(row)
        self.addresses = {
            words(address): _services(number, rows)
            for number, (address, rows) in enumerate(by_address.items(), 1)
        }

    def idle_limit(self, vip: int, life: Life) -> int:
        """Ticks without a packet after which an entry of a VIP has expired."""
        return self._limits[vip][life]

    def standing(self, pool: int, number: int) -> Standing:
        """What a pool's sessions do with a backend."""
        row = self.backends.get(number)
        if row is None or not row.has_standing:
            return Standing.NORMAL
        return self.pools[pool].standing.get(number, Standing.NORMAL)

    def takes(self, pool: int, number: int, refusals: Standing) -> bool:
        """Whether a backend is there, and no bit of its standing speaks against it."""
        row = self.backends.get(number)
        if row is None or not row.has_standing:
            return row is not None
        return not self.standing(pool, number) & refusals

    def is_listed(self, client: Words) -> bool:
        """Whether a client is under a prefix of known mega-proxies."""
        whole = client[0] << 64 | client[1]
        return any(whole >> free == prefix for prefix, free in self._proxies)
