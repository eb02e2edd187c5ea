# SPDX-License-Identifier: Apache-2.0
"""The image as the packet path looks at it: backends, slot tables, VIPs by destination.

Lookups are dictionaries here; the kernel's open-addressing tables (datapath.viptable) must give the
same answers. Also here: what is served at an address, and who takes a fragment without ports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from limpet.core import affinity
from limpet.core.diff import Changes
from limpet.core.hashing import words
from limpet.core.model import Address, Affinity, BackendRow, Encapsulation, Protocol, VipRow
from limpet.datapath.abi import Encapsulation as Code
from limpet.datapath.reference.packet import Words

OUTER_LENGTH = {Code.IPIP4: 20, Code.IPIP6: 40, Code.L2: 0}
UNKNOWN = bytes(6)


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of `backends`. `ifindex` 0: the next hop is not known yet."""

    address: bytes  # packed, 4 or 16 bytes
    encapsulation: Code
    ifindex: int = 0
    next_hop: bytes = UNKNOWN
    source_mac: bytes = UNKNOWN
    mtu: int = 0  # 0: not known, nothing is too big

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
        return Backend(row.address.packed, code)
    ifindex = 0 if hop.mac == UNKNOWN else hop.ifindex
    return Backend(row.address.packed, code, ifindex, hop.mac, hop.source_mac, hop.mtu)


@dataclass(frozen=True, slots=True)
class Vip:
    """A row of `vips`."""

    id: int
    pool: int
    affinity: Affinity
    mask: Words  # over the client's address: what of it counts


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
    if len({vip.pool for vip in vips}) > 1 or any(v.affinity is Affinity.FLOW for v in vips):
        return None
    return min(vips, key=lambda vip: vip.id)


def _vip(row: VipRow) -> Vip:
    mask = affinity.mask(row.affinity, row.address.version)
    return Vip(row.id, row.pool, row.affinity, mask)


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

    def __init__(self) -> None:
        self.backends: dict[int, Backend] = {}
        self.slots: dict[int, Sequence[int]] = {}  # pool id -> home of each slot
        self.addresses: dict[Words, Services] = {}

    def apply(self, changes: Changes) -> None:
        """Write rows, in the order of `Changes`."""
        self.backends |= {row.id: backend(row) for row in changes.backends_put}
        self.slots |= {row.id: row.slots.data for row in changes.pools_put}
        if changes.vips is not None:
            self._put_vips(changes.vips)
        for pool in changes.pools_removed:
            self.slots.pop(pool, None)
        for number in changes.backends_removed:
            self.backends.pop(number, None)

    def _put_vips(self, vips: tuple[VipRow, ...]) -> None:
        by_address: dict[Address, list[VipRow]] = {}
        for row in vips:
            by_address.setdefault(row.address, []).append(row)
        self.addresses = {
            words(address): _services(number, rows)
            for number, (address, rows) in enumerate(by_address.items(), 1)
        }
