# SPDX-License-Identifier: Apache-2.0
"""bpf/affinity.h and core/affinity.py pick the same slot."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from host.library import U8, U16, U64, Library
from limpet.core import affinity, hashing
from limpet.core.model import Address, Affinity, Protocol
from limpet.datapath import abi

WORD = st.integers(0, (1 << 64) - 1)
PORT = st.integers(0, 0xFFFF)
ADDRESS4 = st.integers(0, (1 << 32) - 1).map(IPv4Address)
ADDRESS6 = st.integers(0, (1 << 128) - 1).map(IPv6Address)
PAIRS = st.one_of(st.tuples(ADDRESS4, ADDRESS4), st.tuples(ADDRESS6, ADDRESS6))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a VIP is balanced; `is_split`: of a mega-proxy."""

    affinity: Affinity
    bits: int | None = None
    port_ranges: int = 16
    split_ranges: int = 16
    is_split: bool = False

    @property
    def ranges(self) -> int:
        """Ranges that the slot depends on; 0: none."""
        if self.is_split:
            return self.split_ranges
        return self.port_ranges if self.affinity is Affinity.CLIENT_PORTS else 0


RANGES = st.integers(1, 16).map(lambda bits: 1 << bits)
RULES = st.builds(
    Rule,
    affinity=st.sampled_from(Affinity),
    bits=st.sampled_from([None, 1, 8, 24, 32]),
    port_ranges=RANGES,
    split_ranges=RANGES,
).flatmap(
    lambda rule: st.booleans().map(
        lambda is_split: replace(rule, is_split=is_split and rule.affinity is Affinity.CLIENT)
    )
)


def slot_in_c(
    library: Library, rule: Rule, flow: affinity.Tuple, client: Address, key: tuple[int, int]
) -> int:
    """The slot that the data plane picks."""
    assert library.call.host_slot_key(*key) == 0
    keep = affinity.mask(rule.affinity, flow.vip.version, rule.bits)
    words = (U64 * 6)(*keep, *hashing.words(client), *hashing.words(flow.vip))
    ports = (U16 * 2)(int(np.asarray(flow.client_port)), int(np.asarray(flow.vip_port)))
    shifts = (U8 * 2)(affinity.shift(rule.port_ranges), affinity.shift(rule.split_ranges))
    slot: int = library.call.host_slot(
        words,
        abi.Affinity[rule.affinity.name],
        *(flow.protocol.number, ports, shifts, rule.is_split),
    )
    return slot


@given(
    rule=RULES,
    addresses=PAIRS,
    ports=st.tuples(PORT, PORT),
    protocol=st.sampled_from(Protocol),
    key=st.tuples(WORD, WORD),
)
def test_slot_is_the_same_in_c_and_in_python(
    library: Library,
    rule: Rule,
    addresses: tuple[Address, Address],
    ports: tuple[int, int],
    protocol: Protocol,
    key: tuple[int, int],
) -> None:
    client, vip = addresses
    flow = affinity.Tuple(hashing.words(client), ports[0], vip, ports[1], protocol)
    expected = affinity.slots(rule.affinity, flow, key, bits=rule.bits, port_ranges=rule.ranges)
    assert slot_in_c(library, rule, flow, client, key) == int(expected)


@given(client=ADDRESS6, other=WORD, ports=st.tuples(PORT, PORT))
def test_client_affinity_keeps_a_whole_ipv6_64_together(
    library: Library, client: IPv6Address, other: int, ports: tuple[int, int]
) -> None:
    vip = IPv6Address("2001:db8::10")
    neighbour = IPv6Address(int(client) >> 64 << 64 | other)
    slots = set()
    for address, port in ((client, ports[0]), (neighbour, ports[1])):
        flow = affinity.Tuple(hashing.words(address), port, vip, 443, Protocol.TCP)
        slots.add(slot_in_c(library, Rule(Affinity.CLIENT), flow, address, (1, 2)))
    assert len(slots) == 1
