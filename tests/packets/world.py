# SPDX-License-Identifier: Apache-2.0
"""The small world that packet cases play in: backends, pools, VIPs, and the director's constants.

Every slot of a pool has the same home, so that a case can say where its packet goes without
computing a hash: pool n has backend n. SPLIT and SHIFTED are the pools whose slots differ.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import numpy as np

from limpet.core import affinity
from limpet.core.hashing import mix, pair, words
from limpet.core.model import (
    SLOTS,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    Image,
    NextHop,
    Policy,
    PoolId,
    PoolRow,
    Protocol,
    Timeouts,
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
ROUND, FREE = 13, 14  # pools of IPIP4 and REDIRECTED, once and twice, by turn and by load; home L2
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
ALONE4, ALONE6 = "192.0.2.52", "2001:db8:0:52::1"  # the same affinity, pool IPIP4
MIXED4 = "192.0.2.51"  # udp/53 and udp/54: two pools
ROUND4, FREE4, FREE6 = "192.0.2.60", "192.0.2.61", "2001:db8:0:61::1"
RANGES4, RANGES6 = "192.0.2.62", "2001:db8:0:62::1"  # affinity client+ports: 4 ranges
NARROW4, WIDE6 = "192.0.2.63", "2001:db8:0:63::1"  # affinity: the client's /24, the client's /128
MANY4, MANY6 = "192.0.2.64", "2001:db8:0:64::1"  # four open flows make a mega-proxy; 16 ranges
LISTED4, LISTED6 = "192.0.2.65", "2001:db8:0:65::1"  # the same, and known ones are listed
PROXIES = (IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8:b::/48"))
SPLIT_FLOWS = 4
NOT_VIP4, NOT_VIP6 = "192.0.2.200", "2001:db8:ffff::1"

SLOT_KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
FLOW_KEY = (0x1122334455667788, 0x99AABBCCDDEEFF00)
SOURCE4, SOURCE6 = "100.64.0.0", "fd00:11be:7::"
TICK_SHIFT = 31  # a tick is months: time stands still, and entries are aged instead
# Ticks after which an entry has expired: the timeouts of VIPs are counted in ticks here.
TIMEOUTS = Timeouts(tcp_established_s=1000, tcp_opening_s=10, tcp_closing_s=20, udp_s=100)
FRAGMENT_TICKS, LATE_TICKS = 15, 200_000


def idle_ticks(row: VipRow | None) -> dict[Life, int]:
    """Idle limits of a VIP by life; None: of fragments."""
    times = TIMEOUTS if row is None else row.timeouts
    is_udp = row is not None and row.protocol is Protocol.UDP
    return {
        Life.EMPTY: 0xFFFF_FFFF,
        Life.OPENING: times.tcp_opening_s,
        Life.ESTABLISHED: times.tcp_established_s,
        Life.DATAGRAM: times.udp_s,
        Life.CLOSING: times.tcp_closing_s,
        Life.FRAGMENT: FRAGMENT_TICKS,
        Life.LATE: LATE_TICKS,
        Life.SESSION: times.udp_s if is_udp else times.tcp_established_s,
    }


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


def pool(number: int, *homes: int, generation: int = 1, **more: Any) -> PoolRow:
    """A pool whose slots are homes in turn: slot i has homes[i % n], all with the same
    `mark`. Its members are the same, once each, unless told otherwise.
    """
    mark = more.pop("mark", 0)
    slots = np.resize(np.array(homes, np.uint16), SLOTS) | np.uint16(mark)
    slots.setflags(write=False)
    members = tuple((BackendId(home), 1) for home in sorted(set(homes)) if home)
    fields: dict[str, Any] = {"members": members} | more
    return PoolRow(PoolId(number), generation, slots, digest(slots), **fields)


ONE_TO_TWO = ((BackendId(IPIP4), 1), (BackendId(REDIRECTED), 2))
POOLS = (
    *(pool(number, number) for number in (1, 2, 3, 4, 5, 6, 7, NO_ROW)),
    pool(EMPTY, 0),
    pool(SPLIT, IPIP4, REDIRECTED),
    pool(SHIFTED, IPIP4),
    pool(ROUND, L2, members=ONE_TO_TWO, policy=Policy.ROUND_ROBIN, reassign=Policy.HASH),
    pool(FREE, L2, members=ONE_TO_TWO, policy=Policy.LEAST_SESSIONS, reassign=Policy.ROUND_ROBIN),
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
    for address in (ALONE4, ALONE6):
        rows += [(address, protocol, None, IPIP4, flow) for protocol in (tcp, udp)]
    rows += [(ROUND4, tcp, None, ROUND, client)]
    rows += [(address, tcp, None, FREE, client) for address in (FREE4, FREE6)]
    ranges = Affinity.CLIENT_PORTS
    rows += [(address, tcp, None, SPLIT, ranges) for address in (RANGES4, RANGES6)]
    rows += [(address, tcp, None, IPIP4, client) for address in (NARROW4, WIDE6)]
    rows += [(address, tcp, None, SPLIT, client) for address in (MANY4, MANY6, LISTED4, LISTED6)]
    return tuple(
        VipRow(
            *(VipId(i), ip_address(address), protocol, port, PoolId(to), affinity),
            **PARTICULAR.get(address, {}),
            timeouts=TIMEOUTS,
        )
        for i, (address, protocol, port, to, affinity) in enumerate(rows, 1)
    )


MANY: dict[str, Any] = {"split_flows": SPLIT_FLOWS, "split_ranges": 16}
PARTICULAR: dict[str, dict[str, Any]] = {
    RANGES4: {"port_ranges": 4},
    RANGES6: {"port_ranges": 4},
    NARROW4: {"prefix": 24},
    WIDE6: {"prefix": 128},
    MANY4: MANY,
    MANY6: MANY,
    LISTED4: MANY | {"looks_at_list": True},
    LISTED6: MANY | {"looks_at_list": True},
}
IMAGE = Image(ROWS, POOLS, _vips(), PROXIES)


def address_id(address: str) -> int:
    """Number of a VIP address, in the order of the VIPs."""
    return list(dict.fromkeys(str(vip.address) for vip in IMAGE.vips)).index(address) + 1


@dataclass(frozen=True, slots=True)
class Switches:
    """What of the director's constants a case changes."""

    buckets: int = 64
    session_buckets: int = 64
    flows_are_refused: bool = False
    flows_first: int = 0  # so many are not refused
    answers_are_refused: bool = False
    icmp_source4: str = "0.0.0.0"
    icmp_source6: str = "::"
    redirect_always: bool = False
    is_member: bool = False
    hash_only: bool = False
    queries_are_refused: bool = False
    client_queries: int = 0  # of one client until it has to wait; 0: no limit


USUAL = Switches()
Settings = np.ndarray[tuple[()], np.dtype[np.void]]


def settings(switches: Switches) -> Settings:
    """SETTINGS record."""
    record = np.zeros((), SETTINGS)
    record["slot_key"], record["flow_key"] = SLOT_KEY, FLOW_KEY
    record["bucket_mask"], record["tick_shift"] = switches.buckets - 1, TICK_SHIFT
    record["session_mask"] = switches.session_buckets - 1
    record["flows_per_jiffy_16"] = 1 if switches.flows_are_refused else 0
    record["flows_burst"] = switches.flows_first
    record["icmp_per_jiffy_16"] = 1 if switches.answers_are_refused else 0
    record["outer_source4"] = list(ip_address(SOURCE4).packed)
    record["outer_source6"] = list(ip_address(SOURCE6).packed)
    record["icmp_source4"] = list(ip_address(switches.icmp_source4).packed)
    record["icmp_source6"] = list(ip_address(switches.icmp_source6).packed)
    record["redirect_always"] = switches.redirect_always
    record["is_member"] = switches.is_member
    record["hash_only"] = switches.hash_only
    record["queries_per_jiffy_16"] = 1 if switches.queries_are_refused else 0
    record["client_queries_burst"] = switches.client_queries
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


def vip_id(address: str, protocol: str = "tcp") -> int:
    """Id of the first VIP of an address and protocol."""
    wanted = ip_address(address), Protocol(protocol)
    return next(int(row.id) for row in IMAGE.vips if (row.address, row.protocol) == wanted)


def client_under(address: str, client: str, protocol: str = "tcp") -> tuple[int, int]:
    """What counts of a client at that VIP."""
    row = next(row for row in IMAGE.vips if row.id == vip_id(address, protocol))
    mask = affinity.mask(row.affinity, row.address.version, row.prefix)
    high, low = words_of(client)
    return high & mask[0], low & mask[1]


def words_of(address: str) -> tuple[int, int]:
    """The two words of an address."""
    return words(ip_address(address))


def session_buckets(client: str, vip: str, buckets: int) -> tuple[int, int]:
    """The two buckets of the session table that a client's session at a VIP address may lie in."""
    vip_id = next(row.id for row in IMAGE.vips if row.address == ip_address(vip))
    hashed = int(mix(int(pair(*words(ip_address(client)), FLOW_KEY)) ^ vip_id << 17))
    first, second = hashed % buckets, (hashed >> 24) % buckets
    return first, second if second != first else first ^ 1


def range_home(client: str, port: int, vip: str, port_ranges: int) -> int:
    """The backend that the pool SPLIT gives a session of a range of a client's ports."""
    at = affinity.Tuple(words(ip_address(client)), port, ip_address(vip), 80, Protocol.TCP)
    slot = affinity.slots(Affinity.CLIENT, at, SLOT_KEY, port_ranges=port_ranges)
    return (IPIP4, REDIRECTED)[int(slot) % 2]
