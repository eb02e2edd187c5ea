# SPDX-License-Identifier: Apache-2.0
"""The small world that packet cases play in: backends, pools, VIPs, and the director's constants.

Every slot of a pool has the same home, so that a case can say where its packet goes without
computing a hash: pool n has backend n. SPLIT and SHIFTED are the pools whose slots differ.
"""

from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from limpet.core.hashing import mix, pair, words
from limpet.core.model import (
    SLOTS,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    Image,
    NextHop,
    PoolId,
    PoolRow,
    Protocol,
    VipId,
    VipRow,
)
from limpet.core.slots import digest
from limpet.datapath.abi import SETTINGS, Life

DIRECTOR, ROUTER, GATEWAY = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
INGRESS = 1  # a test run's packets come from there
ELSEWHERE = 7  # another interface
MTU = 1500

CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8:c::7"
IPIP4, IPIP6, L2, NO_HOP, L2_NO_HOP, REDIRECTED, SILENT_HOP, NO_ROW = 1, 2, 3, 4, 5, 6, 7, 9
EMPTY, SPLIT, SHIFTED = 10, 11, 12  # pools
BACKENDS = {
    IPIP4: "10.0.0.1",
    IPIP6: "fd00::2",
    L2: "10.0.0.3",
    NO_HOP: "10.0.0.4",
    L2_NO_HOP: "10.0.0.5",
    REDIRECTED: "10.0.0.6",
    SILENT_HOP: "fd00::7",
}
# VIP addresses, by the pool that all their ports lead to.
VIP4 = {n: f"192.0.2.{n}" for n in (IPIP4, IPIP6, L2, NO_HOP, L2_NO_HOP, REDIRECTED, SILENT_HOP)}
VIP6 = {n: f"2001:db8:0:{n}::1" for n in VIP4}
NO_ROW4, EMPTY4, EMPTY6 = "192.0.2.9", "192.0.2.10", "2001:db8:0:10::1"
PORTS4 = "192.0.2.40"  # tcp/80 has a pool of its own, all other TCP ports another; no UDP
FLOW4, FLOW6 = "192.0.2.50", "2001:db8:0:50::1"  # affinity: the whole 5-tuple
MIXED4 = "192.0.2.51"  # udp/53 and udp/54: two pools
NOT_VIP4, NOT_VIP6 = "192.0.2.200", "2001:db8:ffff::1"

SLOT_KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
FLOW_KEY = (0x1122334455667788, 0x99AABBCCDDEEFF00)
SOURCE4, SOURCE6 = "100.64.0.0", "fd00:11be:7::"
LIFE_TICKS = {
    Life.EMPTY: 0xFFFF_FFFF,
    Life.OPENING: 10,
    Life.ESTABLISHED: 1000,
    Life.DATAGRAM: 100,
    Life.CLOSING: 20,
    Life.FRAGMENT: 15,
}
TICK_SHIFT = 31  # a tick is months: time stands still, and entries are aged instead


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _backend(number: int, ifindex: int | None, gateway: str, is_l2: bool = False) -> BackendRow:
    hop = ifindex and NextHop(ifindex, _mac(gateway), _mac(DIRECTOR), MTU)
    return BackendRow(
        BackendId(number),
        ip_address(BACKENDS[number]),
        Encapsulation.L2 if is_l2 else Encapsulation.IPIP,
        hop or None,
    )


ROWS = (
    _backend(IPIP4, INGRESS, GATEWAY),
    _backend(IPIP6, INGRESS, GATEWAY),
    _backend(L2, INGRESS, GATEWAY, is_l2=True),
    _backend(NO_HOP, None, GATEWAY),
    _backend(L2_NO_HOP, None, GATEWAY, is_l2=True),
    _backend(REDIRECTED, ELSEWHERE, GATEWAY),
    _backend(SILENT_HOP, INGRESS, "00:00:00:00:00:00"),
)


def pool(number: int, *homes: int, generation: int = 1) -> PoolRow:
    """A pool whose slots are homes in turn: slot i has homes[i % n]."""
    slots = np.resize(np.array(homes, np.uint16), SLOTS)
    slots.setflags(write=False)
    return PoolRow(PoolId(number), generation, slots, digest(slots))


POOLS = (
    *(pool(number, number) for number in (1, 2, 3, 4, 5, 6, 7, NO_ROW)),
    pool(EMPTY, 0),
    pool(SPLIT, IPIP4, REDIRECTED),
    pool(SHIFTED, IPIP4),
)


def _vips() -> tuple[VipRow, ...]:
    tcp, udp, client, flow = Protocol.TCP, Protocol.UDP, Affinity.CLIENT, Affinity.FLOW
    rows: list[tuple[str, Protocol, int | None, int, Affinity]] = []
    for number in VIP4:
        for address in (VIP4[number], VIP6[number]):
            rows += [(address, protocol, None, number, client) for protocol in (tcp, udp)]
    rows += [(NO_ROW4, tcp, None, NO_ROW, client), (EMPTY4, tcp, None, EMPTY, client)]
    rows += [(EMPTY6, udp, None, EMPTY, client)]
    rows += [(PORTS4, tcp, 80, IPIP4, client), (PORTS4, tcp, None, REDIRECTED, client)]
    rows += [(FLOW4, udp, None, SPLIT, flow), (FLOW6, udp, None, SPLIT, flow)]
    rows += [(FLOW4, tcp, None, SHIFTED, flow)]
    rows += [(MIXED4, udp, 53, IPIP4, client), (MIXED4, udp, 54, REDIRECTED, client)]
    return tuple(
        VipRow(VipId(i), ip_address(address), protocol, port, PoolId(to), affinity)
        for i, (address, protocol, port, to, affinity) in enumerate(rows, 1)
    )


IMAGE = Image(ROWS, POOLS, _vips())


def address_id(address: str) -> int:
    """Number of a VIP address, in the order of the VIPs."""
    return list(dict.fromkeys(str(vip.address) for vip in IMAGE.vips)).index(address) + 1


@dataclass(frozen=True, slots=True)
class Switches:
    """What of the director's constants a case changes."""

    buckets: int = 64
    flows_are_refused: bool = False
    flows_first: int = 0  # so many are not refused
    answers_are_refused: bool = False
    icmp_source4: str = "0.0.0.0"
    icmp_source6: str = "::"
    redirect_always: bool = False


USUAL = Switches()
Settings = np.ndarray[tuple[()], np.dtype[np.void]]


def settings(switches: Switches) -> Settings:
    """SETTINGS record."""
    record = np.zeros((), SETTINGS)
    record["slot_key"], record["flow_key"] = SLOT_KEY, FLOW_KEY
    record["bucket_mask"], record["tick_shift"] = switches.buckets - 1, TICK_SHIFT
    for life, ticks in LIFE_TICKS.items():
        record["life_ticks"][life] = ticks
    record["flows_per_jiffy_16"] = 1 if switches.flows_are_refused else 0
    record["flows_burst"] = switches.flows_first
    record["icmp_per_jiffy_16"] = 1 if switches.answers_are_refused else 0
    record["outer_source4"] = list(ip_address(SOURCE4).packed)
    record["outer_source6"] = list(ip_address(SOURCE6).packed)
    record["icmp_source4"] = list(ip_address(switches.icmp_source4).packed)
    record["icmp_source6"] = list(ip_address(switches.icmp_source6).packed)
    record["redirect_always"] = switches.redirect_always
    return record


def flow_hash(client: str, ports: tuple[int, int]) -> int:
    """The hash that places a flow in the connection table; bits of it are the outer source."""
    high, low = words(ip_address(client))
    rest = ports[0] << 16 | ports[1]
    if ip_address(client).version == 4:
        number = (low & 0xFFFF_FFFF) << 32 | rest
    else:
        number = int(mix(int(pair(high, low, FLOW_KEY)) ^ rest))
    return int(mix(number ^ FLOW_KEY[0]))


def fragment_hash(client: str, address: str, protocol: int, datagram: int) -> int:
    """The same for a fragmented datagram."""
    high, low = words(ip_address(client))
    rest = datagram << 16 | address_id(address) << 5 | protocol
    if ip_address(client).version == 4:
        number = (low & 0xFFFF_FFFF) << 32 | rest
    else:
        number = int(mix(int(pair(high, low, FLOW_KEY)) ^ rest))
    return int(mix(number ^ FLOW_KEY[0] ^ int.from_bytes(b"fragment", "big")))
