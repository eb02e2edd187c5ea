# SPDX-License-Identifier: Apache-2.0
"""Registry: which id a name has, and the slot table of each pool, over reloads and restarts.

Live flows name backends and VIPs by id, so an id must not change hands while flows may name it.
A removed backend first lingers: it keeps its row in the kernel while live flows name it. Then it
is only known: no row, but its id and its places in the slot histories, so that it gets both back
when it returns. The id of a known backend or VIP is given to somebody else only when all unused
ids are gone, the longest known first, and never in the very change that removed it.

Pure values; `plan` makes the next one, `store.state` keeps it. Not here: next hops, which belong
to one boot of one machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from limpet.core.model import (
    Address,
    BackendId,
    Encapsulation,
    PoolId,
    Protocol,
    VipId,
)
from limpet.core.slots import SlotTable

VipKey = tuple[Address, Protocol, int | None]


@dataclass(frozen=True, slots=True)
class KnownBackend:
    """A backend and its id. Name and address together are its identity."""

    id: BackendId
    name: str
    address: Address
    encapsulation: Encapsulation


@dataclass(frozen=True, slots=True)
class KnownVip:
    """A VIP and its id. Address, protocol and port together are its identity."""

    id: VipId
    name: str
    address: Address
    protocol: Protocol
    port: int | None

    @property
    def key(self) -> VipKey:
        return (self.address, self.protocol, self.port)


@dataclass(frozen=True, slots=True)
class Registry:
    """Ids and slot tables. Tuples are in the order of removal, the longest gone first."""

    backends: Mapping[str, KnownBackend] = field(default_factory=dict)  # in use, by name
    lingering: tuple[KnownBackend, ...] = ()  # removed, with a row: live flows may name them
    known_backends: tuple[KnownBackend, ...] = ()  # removed, without a row
    pools: Mapping[str, PoolId] = field(default_factory=dict)
    tables: Mapping[PoolId, SlotTable] = field(default_factory=dict)
    vips: Mapping[VipKey, KnownVip] = field(default_factory=dict)  # in use
    known_vips: tuple[KnownVip, ...] = ()  # removed

    def backend_names(self) -> dict[BackendId, str]:
        """Name of every id that a row, a flow or a slot history may hold.

        A removed backend whose name somebody else has now is told apart: "b1@10.0.0.11".
        """
        names = {backend.id: backend.name for backend in self.backends.values()}
        for backend in (*self.known_backends, *self.lingering):
            is_taken = backend.name in self.backends
            names[backend.id] = f"{backend.name}@{backend.address}" if is_taken else backend.name
        return names

    def pool_names(self) -> dict[PoolId, str]:
        return {pool: name for name, pool in self.pools.items()}

    def vip_names(self) -> dict[VipId, str]:
        everyone = (*self.known_vips, *self.vips.values())
        return {vip.id: vip.name for vip in everyone}

    def addresses(self) -> frozenset[Address]:
        """Addresses of the backends that have a row: those whose next hop is worth resolving."""
        return frozenset(b.address for b in (*self.backends.values(), *self.lingering))


def free_ids(first: int, limit: int, taken: Iterable[int], known: Iterable[int]) -> list[int]:
    """Ids that may be given out, the best first: unused ones, then the longest known."""
    known = list(known)
    occupied = {*taken, *known}
    return [i for i in range(first, limit) if i not in occupied] + known


def network_order(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    """Sort key over both families: IPv4 first, the longer prefix of an address last."""
    return (network.version, int(network.network_address), network.prefixlen)
