# SPDX-License-Identifier: Apache-2.0
"""Random frames: packets of every kind that the director knows, and damage to them.

A cast is small (few VIPs, clients and ports), so that packets meet the flows of those before.
"""

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    Raw,
)
from scapy.packet import Packet

from packets.case import LINK, family_of, ip
from packets.world import (
    CLIENT4,
    CLIENT6,
    EMPTY4,
    EMPTY6,
    FLOW4,
    FLOW6,
    FREE4,
    FREE6,
    IPIP4,
    LISTED4,
    LISTED6,
    MANY4,
    MANY6,
    MIXED4,
    NARROW4,
    NO_ROW4,
    NOT_VIP4,
    NOT_VIP6,
    PORTS4,
    RANGES4,
    RANGES6,
    ROUND4,
    VIP4,
    VIP6,
    WIDE6,
)

SESSIONS = [VIP4[IPIP4], VIP6[IPIP4], ROUND4, FREE4, FREE6, RANGES4, RANGES6, NARROW4, WIDE6]
PROXIES = [MANY4, MANY6, LISTED4, LISTED6]
SERVED = [*VIP4.values(), *VIP6.values(), FLOW4, FLOW6, MIXED4, PORTS4, *SESSIONS, *PROXIES]
OTHERS = [NO_ROW4, EMPTY4, EMPTY6, NOT_VIP4, NOT_VIP6]
CLIENTS = {4: [CLIENT4, "198.51.100.8"], 6: [CLIENT6, "2001:db8:c::8", "2001:db8:d::7"]}
FLAGS = ["S", "S", "S", "A", "A", "A", "PA", "FA", "R", "SA", "SF", ""]
SIZES = [0, 1, 4, 300, 463, 1219, 1420, 1452, 1460, 1480, 1600, 5000]
ERRORS4 = [(3, 4), (3, 1), (11, 0), (12, 0), (5, 0)]
ERRORS6 = [ICMPv6PacketTooBig, ICMPv6DestUnreach, ICMPv6TimeExceeded]
QUOTED = [20, 27, 28, 40, 47, 48, 60, 1400]
LINKS = [LINK, LINK, LINK, LINK / Dot1Q(vlan=5), LINK / Dot1AD(vlan=9) / Dot1Q(vlan=5)]
KINDS = ["flow"] * 9 + ["odd"] * 3 + ["fragment"] * 4 + ["error"] * 2 + ["echo"]

CROWD = ["stream"] * 9 + ["flow"]
MANY_CLIENTS = {
    4: [f"198.51.100.{n}" for n in range(20, 40)],
    6: [f"2001:db8:{n:x}::7" for n in range(0x100, 0x114)],
}
MANY_PORTS = list(range(1000, 60_000, 4099))
LISTED = {4: [CLIENT4, "203.0.113.5"], 6: [CLIENT6, "2001:db8:b:5::7"]}


@dataclass(frozen=True)
class Cast:
    """Who plays in a history."""

    vips: list[str]
    clients: dict[int, list[str]]  # by family
    client_ports: list[int]
    vip_ports: list[int]
    kinds: list[str]


def cast(rng: Random) -> Cast:
    """A few of all, mostly of what is served; now and then a crowd of flows or of clients, which
    fills a bucket, or a mega-proxy.
    """
    kind = rng.random()
    if kind < 0.2:
        vip = rng.choice(SERVED)
        return Cast([vip], {4: [CLIENT4], 6: [CLIENT6]}, list(range(1000, 1010)), [80], CROWD)
    if kind < 0.4:
        return Cast(rng.sample(SESSIONS, 2), MANY_CLIENTS, [1000, 1001], [80], CROWD)
    if kind < 0.55:
        return Cast([rng.choice(PROXIES)], LISTED, MANY_PORTS, [80], CROWD)
    return Cast(
        vips=[
            *rng.sample(SERVED, rng.choice([1, 3])),
            *rng.sample(OTHERS, rng.choice([0, 0, 0, 1])),
        ],
        clients={family: rng.sample(CLIENTS[family], rng.choice([1, 2])) for family in CLIENTS},
        client_ports=list(range(1000, 1000 + rng.choice([1, 2, 20]))),
        vip_ports=rng.choice([[53], [80], [53, 54, 80]]),
        kinds=KINDS,
    )


def frame(rng: Random, cast: Cast) -> bytes:
    """One frame; every third is damaged, of a stream every thirtieth."""
    kind = rng.choice(cast.kinds)
    whole = _stream(rng, cast) if kind == "stream" else bytes(_packet(rng, cast, kind))
    is_damaged = rng.random() < (0.03 if kind == "stream" else 0.3)
    return _damaged(rng, bytearray(whole)) if is_damaged else whole


def _stream(rng: Random, cast: Cast) -> bytes:
    """A segment of one of few flows."""
    vip, port = rng.choice(cast.vips), rng.choice(cast.client_ports)
    client = rng.choice(cast.clients[family_of(vip)])
    return _plain(vip, client, port, rng.choice("SSSAAAAAAAAAAAF"))


@lru_cache(maxsize=4096)
def _plain(vip: str, client: str, port: int, flags: str) -> bytes:
    return bytes(LINK / ip(vip, client) / TCP(sport=port, dport=80, flags=flags))


def _packet(rng: Random, cast: Cast, kind: str) -> Packet:
    vip = rng.choice(cast.vips)
    client = rng.choice(cast.clients[family_of(vip)])
    link = rng.choice(LINKS)
    if kind == "flow":
        return link / ip(vip, client) / _segment(rng, cast, 4)
    if kind == "fragment":
        return link / _fragment(rng, vip, client) / _segment(rng, cast, rng.choice(SIZES))
    if kind == "error":
        return link / ip(vip, client, hops=rng.choice([64, 64, 1])) / _error(rng, cast, vip, client)
    header = _header(rng, vip, client)
    if kind == "echo":
        return link / header / (ICMP() if family_of(vip) == 4 else ICMPv6EchoRequest())
    return link / header / _segment(rng, cast, rng.choice(SIZES))


def _segment(rng: Random, cast: Cast, size: int) -> Packet:
    """TCP or UDP, and data."""
    ports = {"sport": rng.choice(cast.client_ports), "dport": rng.choice(cast.vip_ports)}
    if rng.random() < 0.6:
        return TCP(flags=rng.choice(FLAGS), **ports) / Raw(bytes(size))
    return UDP(**ports) / Raw(bytes(size))


def _header(rng: Random, vip: str, client: str) -> Packet:
    """An IP header with a class, a hop limit, options or extension headers."""
    traffic_class, hops = rng.choice([0, 0xB9]), rng.choice([64, 64, 64, 2, 1, 0, 255])
    if family_of(vip) == 4:
        options = [IPOption_NOP()] * rng.choice([0, 0, 4, 40])
        return ip(vip, client, tos=traffic_class, hops=hops, options=options)
    header = ip(vip, client, tc=traffic_class, hops=hops)
    for _ in range(rng.choice([0, 0, 1, 2, 6, 7])):
        padding = [PadN(optdata=bytes(rng.choice([4, 12])))]
        header /= rng.choice([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])(options=padding)
    return header


def _fragment(rng: Random, vip: str, client: str) -> Packet:
    """A header of a fragment, first or later; of three datagrams."""
    offset, more, number = rng.choice([0, 0, 1, 185]), rng.choice([1, 1, 0]), rng.randint(1, 3)
    if family_of(vip) == 4:
        other = {"proto": rng.choice([1, 6, 17])} if rng.random() < 0.2 else {}
        return ip(vip, client, id=number, frag=offset, flags=more, **other)
    if rng.random() < 0.8:
        return ip(vip, client) / IPv6ExtHdrFragment(offset=offset, m=more, id=number)
    following = rng.choice([6, 17, 58, 60])
    return ip(vip, client) / IPv6ExtHdrFragment(nh=following, offset=offset, m=more, id=number)


def _error(rng: Random, cast: Cast, vip: str, client: str) -> Packet:
    """An ICMP error that quotes what the VIP sent to the client, or something near it."""
    source = rng.choice([vip, vip, vip, client])
    ports = {"sport": rng.choice(cast.vip_ports), "dport": rng.choice(cast.client_ports)}
    transport, length = rng.choice([TCP, UDP])(**ports), rng.choice(QUOTED)
    if family_of(vip) == 4:
        quote = bytes(IP(src=source, dst=client) / transport / Raw(bytes(1400)))
        kind, code = rng.choice(ERRORS4)
        return ICMP(type=kind, code=code, nexthopmtu=1400) / Raw(quote[:length])
    quote = bytes(IPv6(src=source, dst=client) / transport / Raw(bytes(1400)))
    return rng.choice(ERRORS6)() / Raw(quote[:length])


def _damaged(rng: Random, whole: bytearray) -> bytes:
    """The frame with bytes changed, cut off, or padded."""
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        whole[rng.randrange(12, min(len(whole), 100))] = rng.choice([0, 255, rng.randrange(256)])
    how = rng.choice(["as it is", "cut", "padded"])
    if how == "cut":
        return bytes(whole[: rng.randrange(14, min(len(whole), 130))])
    return bytes(whole) + bytes(rng.randrange(1, 20) if how == "padded" else 0)
