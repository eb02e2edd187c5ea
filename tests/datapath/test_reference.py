# SPDX-License-Identifier: Apache-2.0
"""Parts of the reference by themselves, against other ways to know what is right."""

from functools import partial
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import ICMP

from datapath.benches import ReferenceBench, kernel_benches
from limpet.core import affinity
from limpet.core import hashing as arrays
from limpet.core.model import Affinity, Protocol
from limpet.datapath.reference import hash as plain
from limpet.datapath.reference.checksum import checksum, fold
from limpet.datapath.reference.choice import slot
from limpet.datapath.reference.packet import Packet
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.rows import Vip
from limpet.datapath.reference.settings import read
from packets.case import LINK, ip
from packets.world import FLOW4, FLOW6, IPIP4, SLOT_KEY, USUAL, VIP4, VIP6, settings

WORDS = st.integers(0, (1 << 64) - 1)
PORTS = st.integers(0, 65535)
VIPS = st.sampled_from([VIP4[IPIP4], VIP6[IPIP4], FLOW4, FLOW6])


@given(WORDS, WORDS, WORDS, WORDS)
def test_plain_hashes_are_those_of_core(high: int, low: int, key0: int, key1: int) -> None:
    """One hash, whether of integers or of arrays."""
    assert plain.mix(high) == int(arrays.mix(high))
    assert plain.pair(high, low, (key0, key1)) == int(arrays.pair(high, low, (key0, key1)))


@given(
    st.sampled_from(Affinity),
    st.sampled_from(Protocol),
    VIPS,
    st.integers(0),
    st.tuples(PORTS, PORTS),
    st.integers(1, 16),
)
def test_slots_are_those_of_core(
    rule: Affinity,
    protocol: Protocol,
    address: str,
    number: int,
    ports: tuple[int, int],
    range_bits: int,
) -> None:
    """The director and whoever predicts it place a packet in the same slot."""
    vip = ip_address(address)
    client = arrays.words(type(vip)(number % (1 << vip.max_prefixlen)))
    packet = Packet(0, client=client, vip_address=arrays.words(vip), protocol=protocol.number)
    packet.client_port, packet.vip_port = ports
    port_ranges = 1 << range_bits
    shift = affinity.shift(port_ranges)
    row = Vip(1, 1, rule, affinity.mask(rule, vip.version), shift, split_shift=shift)
    names = affinity.Tuple(client, ports[0], vip, ports[1], protocol)
    own, split = row.own_range(ports[0]), row.split_range(ports[0])
    slots = partial(affinity.slots, rule, names, SLOT_KEY)
    wanted = slots(port_ranges=port_ranges if rule is Affinity.CLIENT_PORTS else 0)
    assert slot(read(settings(USUAL)), row, packet, own) == int(wanted)
    assert slot(read(settings(USUAL)), row, packet, split) == int(slots(port_ranges=port_ranges))


PING = bytes(LINK / ip(VIP4[IPIP4]) / ICMP(id=0, seq=7))


def echo_with_checksum(wanted: int) -> bytes:
    """A ping whose ICMP checksum is `wanted`, by its identification."""
    frame = bytearray(PING)
    rest = int.from_bytes(frame[36:38], "big") ^ 0xFFFF
    identification = ((wanted ^ 0xFFFF) - rest) % 0xFFFF
    frame[38:40] = identification.to_bytes(2, "big")
    frame[36:38] = wanted.to_bytes(2, "big")
    return bytes(frame)


def is_valid(frame: bytes) -> bool:
    """Whether the checksums of a ping hold, as a receiver tests them."""
    return checksum(frame[14:34]) == 0 and checksum(frame[34:]) == 0


def test_every_checksum_of_a_ping_gives_a_valid_reply() -> None:
    """All 65,536 of them, those that carry included."""
    bench = ReferenceBench(USUAL)
    wrong = []
    for wanted in range(65536):
        request = echo_with_checksum(wanted)
        reply = bench.run(request).frame
        if reply is None or is_valid(request) != is_valid(reply):
            wrong.append(wanted)
    assert not wrong


@pytest.mark.kernel
def test_every_checksum_of_a_ping_gives_a_valid_reply_in_the_kernel() -> None:
    """The same in the kernel."""
    with kernel_benches() as benches:
        bench = benches.get(USUAL)
        replies = [bench.reply(echo_with_checksum(wanted)) for wanted in range(65536)]
    wrong = [wanted for wanted, reply in enumerate(replies) if not is_valid(reply)]
    assert not wrong


def test_a_token_bucket_starts_full_and_refills_slowly() -> None:
    """Half a token a jiffy, three at once."""
    bucket = TokenBucket(per_jiffy_16=8, burst=3)
    assert [bucket.allow(1000) for _ in range(4)] == [True, True, True, False]
    assert [bucket.allow(jiffies) for jiffies in (1001, 1002, 1003, 1004)] == [False, True] * 2
    assert [bucket.allow(2000) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 64), st.integers(1, 5))
def test_a_token_bucket_never_allows_more_than_rate_and_burst(
    waits: list[int], per_jiffy_16: int, burst: int
) -> None:
    """Over any time: burst + rate * time."""
    bucket, now, allowed = TokenBucket(per_jiffy_16, burst), 10_000, 0
    for wait in waits:
        now += wait
        allowed += bucket.allow(now)
    assert allowed <= burst + (now - 10_000) * per_jiffy_16 / 16


def test_no_rate_is_no_limit() -> None:
    """A rate of 0 allows everything."""
    assert all(TokenBucket(0, 0).allow(5) for _ in range(100))


@given(st.binary(max_size=80).filter(lambda data: len(data) % 2 == 0))
def test_checksum_is_the_folded_sum_of_words(data: bytes) -> None:
    """RFC 1071, word by word."""
    words = (int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    assert checksum(data) == fold(sum(words)) ^ 0xFFFF
