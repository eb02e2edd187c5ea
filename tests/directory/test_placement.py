# SPDX-License-Identifier: Apache-2.0
"""Slots of many sessions at once are those of core.affinity, and every table has a say."""

from dataclasses import replace
from ipaddress import ip_address

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from limpet.core import affinity, hashing
from limpet.core.model import SLOTS, Affinity, PoolId, Protocol, VipId, VipRow
from limpet.daemon.directory.placement import Lookup, Placement
from limpet.datapath.abi import Slot
from limpet.datapath.flows import FLOW

SLOT_KEY = bytes(range(16))
KEY = hashing.key_words(SLOT_KEY)
HOMES = np.arange(SLOTS, dtype=np.uint16) % 5 + 1
word, port = st.integers(0, (1 << 64) - 1), st.integers(0, 65_535)


def vip(number: int, rule: Affinity, address: str = "192.0.2.1", **more: object) -> VipRow:
    row = VipRow(VipId(number), ip_address(address), Protocol.TCP, None, PoolId(1), rule)
    return replace(row, **more)  # type: ignore[arg-type]


VIPS = (
    vip(1, Affinity.CLIENT),
    vip(2, Affinity.CLIENT_PORTS, port_ranges=64),
    vip(3, Affinity.FLOW),
    vip(4, Affinity.FLOW, "2001:db8::1", protocol=Protocol.UDP),
    vip(5, Affinity.CLIENT, "2001:db8::2", prefix=48),
)


def lookup(*tables: object) -> Lookup:
    return Lookup(Placement(1, SLOT_KEY, VIPS, {PoolId(1): tables or (HOMES,)}))  # type: ignore[dict-item]


@given(word, word, port)
def test_slots_of_sessions_are_those_of_packets(high: int, low: int, client_port: int) -> None:
    found = lookup()
    for row, ranges in ((VIPS[0], 0), (VIPS[0], 4_096), (VIPS[1], 64), (VIPS[4], 0)):
        flow = affinity.Tuple((high, low), client_port, row.address, 80, row.protocol)
        wanted = affinity.slots(row.affinity, flow, KEY, bits=row.prefix, port_ranges=ranges)
        masked = found.mask[row.id] & np.array([high, low], np.uint64)
        number = affinity.port_range(client_port, ranges) if ranges else np.uint64(0)
        numbers = np.array([number], np.uint64)
        assert found.session_slots(masked[:1], masked[1:], numbers)[0] == wanted


@given(word, word, port, port)
def test_slots_of_flows_are_those_of_packets(high: int, low: int, ours: int, theirs: int) -> None:
    flows = np.zeros(2, FLOW)
    flows["client_high"], flows["client_low"] = high, low
    flows["client_port"], flows["vip_port"], flows["vip"] = theirs, ours, (3, 4)
    slots = lookup().flow_slots(flows)
    for row, slot in zip(VIPS[2:4], slots, strict=True):
        flow = affinity.Tuple((high, low), theirs, row.address, ours, row.protocol)
        assert slot == affinity.slots(row.affinity, flow, KEY)


def test_a_session_is_told_of_if_any_table_has_it_elsewhere() -> None:
    moved = HOMES.copy()
    moved[:100] = 9
    marked = HOMES.copy()
    marked[200:300] |= np.uint16(Slot.TELL)
    marked[300:400] |= np.uint16(Slot.UNSURE)
    slots, vips = np.arange(SLOTS), np.ones(SLOTS, np.uint16)
    assert not lookup(HOMES).is_told(vips, slots, HOMES).any()
    told = lookup(HOMES, moved, marked).is_told(vips, slots, HOMES)
    assert np.flatnonzero(told).tolist() == [*range(100), *range(200, 300)]
    assert lookup(HOMES).is_told(vips, slots, moved)[:100].all()


def test_vips_of_pools_without_a_table_are_not_known() -> None:
    placement = Placement(1, SLOT_KEY, (*VIPS, vip(6, Affinity.CLIENT, pool=PoolId(2))), {})
    assert not Lookup(placement).is_known.any()
    more = placement.with_tables({PoolId(2): (HOMES,)})
    assert np.flatnonzero(Lookup(more).is_known).tolist() == [6]
    assert np.flatnonzero(Lookup(more.of_pools({PoolId(1): 0})).is_known).tolist() == []
