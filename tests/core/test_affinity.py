# SPDX-License-Identifier: Apache-2.0
"""Affinity sees of a packet what the rule says, and nothing else."""

from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core import affinity, hashing
from limpet.core.model import SLOTS, Address, Affinity, Protocol

KEY = (0x0001_0203_0405_0607, 0x0809_0A0B_0C0D_0E0F)
ALL = (1 << 64) - 1
VIP = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}

clients = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(2**64, 2**128 - 1).map(IPv6Address)
)
ports = st.integers(0, 65_535)
ranges = st.integers(1, 16).map(lambda bits: 1 << bits)


def slot(
    rule: Affinity, client: Address, port: int, bits: int | None = None, port_ranges: int = 0
) -> int:
    flow = affinity.Tuple(hashing.words(client), port, VIP[client.version], 443, Protocol.TCP)
    return int(affinity.slots(rule, flow, KEY, bits=bits, port_ranges=port_ranges))


@pytest.mark.parametrize(
    ("rule", "family", "bits", "expected"),
    [
        (Affinity.CLIENT, 4, None, (ALL, ALL)),
        (Affinity.CLIENT, 6, None, (ALL, 0)),
        (Affinity.CLIENT, 4, 24, (ALL, ALL ^ 0xFF)),
        (Affinity.CLIENT, 4, 1, (ALL, ALL ^ 0x7FFF_FFFF)),
        (Affinity.CLIENT_PORTS, 6, 56, (ALL ^ 0xFF, 0)),
        (Affinity.CLIENT_PORTS, 6, 65, (ALL, 1 << 63)),
        (Affinity.CLIENT, 6, 128, (ALL, ALL)),
        (Affinity.FLOW, 6, None, (ALL, ALL)),
    ],
)
def test_mask_keeps_the_prefix(
    rule: Affinity, family: int, bits: int | None, expected: tuple[int, int]
) -> None:
    assert affinity.mask(rule, family, bits) == expected


@given(st.sampled_from([4, 6]), st.data())
def test_prefix_is_read_back_from_its_mask(family: int, data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, affinity.ADDRESS_BITS[family]))
    mask = affinity.mask(Affinity.CLIENT, family, bits)
    assert affinity.mask_prefix(mask, family) == bits


@given(clients, ports, ports, st.data())
def test_client_sees_the_prefix_alone(
    client: Address, port: int, other_port: int, data: st.DataObject
) -> None:
    whole = affinity.ADDRESS_BITS[client.version]
    bits = data.draw(st.integers(1, whole))
    host = data.draw(st.integers(0, (1 << (whole - bits)) - 1))
    neighbour = type(client)(int(client) >> (whole - bits) << (whole - bits) | host)
    here = slot(Affinity.CLIENT, client, port, bits)
    assert slot(Affinity.CLIENT, neighbour, other_port, bits) == here


@given(clients, ports, ports, ranges)
def test_ports_of_one_range_meet(client: Address, port: int, other: int, count: int) -> None:
    """And the formula is that of bpf/affinity.h."""
    slots = [slot(Affinity.CLIENT_PORTS, client, p, port_ranges=count) for p in (port, other)]
    size = 65_536 // count
    if port // size == other // size:
        assert slots[0] == slots[1]
    high, low = hashing.words(client)
    mask = affinity.mask(Affinity.CLIENT, client.version)
    base = hashing.pair(high & mask[0], low & mask[1], KEY)
    expected = hashing.pair(base, 1 + port // size, (KEY[1], KEY[0]))
    assert slots[0] == int(expected) % SLOTS


@given(clients, ports, ranges)
def test_client_that_is_split_is_like_client_and_ports(
    client: Address, port: int, count: int
) -> None:
    """One hash for both: a split changes where new sessions go, not how that is computed."""
    split = slot(Affinity.CLIENT, client, port, port_ranges=count)
    assert split == slot(Affinity.CLIENT_PORTS, client, port, port_ranges=count)


def test_ranges_spread_one_client_over_the_slots() -> None:
    """4,096 ranges in 8 parts of the table: the fullest has at most 1.2 times the mean."""
    flow = affinity.Tuple(
        hashing.words(ip_address("198.51.100.7")),
        np.arange(0, 65_536, 16),
        VIP[4],
        443,
        Protocol.TCP,
    )
    parts = Counter((affinity.slots(Affinity.CLIENT, flow, KEY, port_ranges=4_096) >> 13).tolist())
    assert max(parts.values()) < 1.2 * 4_096 / 8


def test_range_counts_from_one_and_has_the_port_at_the_ends() -> None:
    assert affinity.port_range([0, 4_095, 4_096, 65_535], 16).tolist() == [1, 1, 2, 16]
    assert affinity.port_range([0, 65_535], 65_536).tolist() == [1, 65_536]
    assert affinity.port_range([0, 65_535], 2).tolist() == [1, 2]
