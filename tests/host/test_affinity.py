# SPDX-License-Identifier: Apache-2.0
"""bpf/affinity.h and core/affinity.py pick the same slot."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from host.library import U64, Library
from limpet.core import affinity, hashing
from limpet.core.model import Address, Affinity, Protocol
from limpet.datapath import abi

WORD = st.integers(0, (1 << 64) - 1)
PORT = st.integers(0, 0xFFFF)
ADDRESS4 = st.integers(0, (1 << 32) - 1).map(IPv4Address)
ADDRESS6 = st.integers(0, (1 << 128) - 1).map(IPv6Address)
PAIRS = st.one_of(st.tuples(ADDRESS4, ADDRESS4), st.tuples(ADDRESS6, ADDRESS6))


def slot_in_c(
    library: Library, rule: Affinity, flow: affinity.Tuple, client: Address, key: tuple[int, int]
) -> int:
    """The slot that the data plane picks."""
    assert library.call.host_slot_key(*key) == 0
    keep = affinity.mask(rule, flow.vip.version)
    words = (U64 * 6)(*keep, *hashing.words(client), *hashing.words(flow.vip))
    code = abi.Affinity[rule.name]
    slot: int = library.call.host_slot(
        words, code, flow.protocol.number, flow.client_port, flow.vip_port
    )
    return slot


@given(
    rule=st.sampled_from(Affinity),
    addresses=PAIRS,
    ports=st.tuples(PORT, PORT),
    protocol=st.sampled_from(Protocol),
    key=st.tuples(WORD, WORD),
)
def test_slot_is_the_same_in_c_and_in_python(
    library: Library,
    rule: Affinity,
    addresses: tuple[Address, Address],
    ports: tuple[int, int],
    protocol: Protocol,
    key: tuple[int, int],
) -> None:
    client, vip = addresses
    flow = affinity.Tuple(hashing.words(client), ports[0], vip, ports[1], protocol)
    expected = int(affinity.slots(rule, flow, key))
    assert slot_in_c(library, rule, flow, client, key) == expected


@given(client=ADDRESS6, other=WORD, ports=st.tuples(PORT, PORT))
def test_client_affinity_keeps_a_whole_ipv6_64_together(
    library: Library, client: IPv6Address, other: int, ports: tuple[int, int]
) -> None:
    vip = IPv6Address("2001:db8::10")
    neighbour = IPv6Address(int(client) >> 64 << 64 | other)
    slots = set()
    for address, port in ((client, ports[0]), (neighbour, ports[1])):
        flow = affinity.Tuple(hashing.words(address), port, vip, 443, Protocol.TCP)
        slots.add(slot_in_c(library, Affinity.CLIENT, flow, address, (1, 2)))
    assert len(slots) == 1
