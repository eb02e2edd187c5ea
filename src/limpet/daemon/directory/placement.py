# SPDX-License-Identifier: Apache-2.0
"""Placement: where sessions would be looked for, by what this director and the others know.

A session is an exception where any of its pool's tables says another home, or marks the slot with
SLOT_TELL: the table that is agreed, the local one where it differs, and while a change is under way
the one to come. Pools whose new sessions are not placed by hash have the mark on every slot.

Also how long an exception holds after its session was last seen: as long as the session may stay
idle, and `GRACE_S` more, half of which is for stores that are down and for scans. One that has just
begun holds for `GRACE_S`, a single flow for `FLOW_S`: most end soon, and whoever is still there is
told of again by the next scan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limpet.core import affinity, hashing
from limpet.core.model import SLOTS, VIPS_MAX, Affinity, PoolId, Protocol, Slots, VipRow
from limpet.datapath.abi import Slot

GRACE_S = 1_500
FLOW_S = 300


@dataclass(frozen=True)
class Placement:
    """Facts of one generation. `tables` have the marks of enum slot of bpf/abi.h."""

    generation: int
    slot_key: bytes
    vips: Sequence[VipRow]
    tables: Mapping[PoolId, Sequence[Slots]] = field(repr=False)

    def with_tables(self, more: Mapping[PoolId, Sequence[Slots]]) -> "Placement":
        """The same with more tables of some pools."""
        pools = {**self.tables}
        for pool, tables in more.items():
            pools[pool] = (*pools.get(pool, ()), *tables)
        return Placement(self.generation, self.slot_key, self.vips, pools)

    def of_pools(self, pools: Mapping[PoolId, object]) -> "Placement":
        """Only the VIPs of some pools."""
        vips = [vip for vip in self.vips if vip.pool in pools]
        return Placement(self.generation, self.slot_key, vips, self.tables)


class Lookup:
    """A placement as arrays by VIP id, for whole tables at once."""

    def __init__(self, placement: Placement) -> None:
        self.key = hashing.key_words(placement.slot_key)
        self.is_known = np.zeros(VIPS_MAX, np.bool_)
        self.is_by_flow = np.zeros(VIPS_MAX, np.bool_)
        self.is_by_ports = np.zeros(VIPS_MAX, np.bool_)
        self.shift = np.zeros(VIPS_MAX, np.uint64)  # of a client's port, to its range
        self.mask = np.zeros((VIPS_MAX, 2), np.uint64)
        self.vip = np.zeros(VIPS_MAX, np.uint64)  # what of it is hashed with a flow
        self.idle_ms = np.zeros(VIPS_MAX, np.uint64)
        self._pool = np.zeros(VIPS_MAX, np.intp)
        wanted = [vip for vip in placement.vips if placement.tables.get(vip.pool)]
        pools = sorted({vip.pool for vip in wanted})
        self._tables = _stacked([placement.tables[pool] for pool in pools])
        for vip in wanted:
            self._describe(vip, pools.index(vip.pool))

    def _describe(self, vip: VipRow, pool: int) -> None:
        self.is_known[vip.id], self._pool[vip.id] = True, pool
        self.is_by_flow[vip.id] = vip.affinity is Affinity.FLOW
        self.is_by_ports[vip.id] = vip.affinity is Affinity.CLIENT_PORTS
        ranges = vip.port_ranges if self.is_by_ports[vip.id] else vip.split_ranges
        self.shift[vip.id] = affinity.shift(ranges)
        self.mask[vip.id] = affinity.mask(vip.affinity, vip.address.version, vip.prefix)
        high, low = hashing.words(vip.address)
        self.vip[vip.id] = high ^ low ^ (vip.protocol.number << 32)
        times, is_tcp = vip.timeouts, vip.protocol is Protocol.TCP
        self.idle_ms[vip.id] = 1_000 * (times.tcp_established_s if is_tcp else times.udp_s)

    def session_slots(
        self, high: NDArray[np.uint64], low: NDArray[np.uint64], ranges: NDArray[np.uint64]
    ) -> NDArray[np.intp]:
        """Slots of sessions, by client under the mask, and range (0: the whole client)."""
        hashed = hashing.pair(high, low, self.key)
        turned = (self.key[1], self.key[0])
        split = np.flatnonzero(ranges)
        hashed[split] = hashing.pair(hashed[split], ranges[split], turned)
        return (hashed & np.uint64(SLOTS - 1)).astype(np.intp)

    def flow_slots(self, flows: NDArray[np.void]) -> NDArray[np.intp]:
        """Slots of FLOW records of VIPs whose affinity is `flow`."""
        hashed = hashing.pair(flows["client_high"], flows["client_low"], self.key)
        port = flows["client_port"].astype(np.uint64) << np.uint64(16)
        ports = port | flows["vip_port"].astype(np.uint64)
        turned = (self.key[1], self.key[0])
        hashed = hashing.pair(hashed, self.vip[flows["vip"]] ^ ports, turned)
        return (hashed & np.uint64(SLOTS - 1)).astype(np.intp)

    def is_told(
        self, vips: NDArray[np.uint16], slots: NDArray[np.intp], backends: NDArray[np.uint16]
    ) -> NDArray[np.bool_]:
        """Whether somebody would look elsewhere than at these backends."""
        told = np.zeros(len(slots), np.bool_)
        pools = self._pool[vips]
        for table in self._tables:
            told |= table[pools, slots] != backends  # a mark of SLOT_TELL is no backend either
        return told


def _stacked(pools: Sequence[Sequence[Slots]]) -> list[NDArray[np.uint16]]:
    """Tables by number and pool, with SLOT_TELL left in; pools with fewer repeat their last."""
    most = max((len(tables) for tables in pools), default=0)
    return [
        np.stack([_told(tables[min(number, len(tables) - 1)]) for tables in pools])
        for number in range(most)
    ]


def _told(slots: Slots) -> NDArray[np.uint16]:
    return slots & np.uint16(Slot.BACKEND | Slot.TELL)
