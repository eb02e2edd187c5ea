# SPDX-License-Identifier: Apache-2.0
"""What a packet case is, and the expressions that cases are written in.

Input and expected output are scapy expressions. `sent` writes the expected outer header out in
layers, with lengths and checksums by scapy, so that nothing of the code under test has a say in it.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from scapy.all import (
    IP,
    TCP,
    UDP,
    Dot1Q,
    Ether,
    IPv6,
    Raw,
)
from scapy.packet import Packet
from scapy.utils import checksum

from limpet.core import affinity
from limpet.core.diff import Changes
from limpet.core.hashing import words
from limpet.core.model import Affinity, Image, Protocol
from limpet.datapath.abi import Event, Rung, Verdict
from limpet.datapath.reference import Held, Name, News, Reset
from packets.world import (
    ALONE4,
    ALONE6,
    BACKENDS,
    CLIENT4,
    CLIENT6,
    DIRECTOR,
    FLOW4,
    FLOW6,
    GATEWAY,
    IMAGE,
    IPIP4,
    L2,
    NO_HOP,
    REDIRECTED,
    ROUTER,
    SILENT_HOP,
    SLOT_KEY,
    USUAL,
    Switches,
    flow_hash,
    fragment_hash,
)

Expression = Any  # a scapy packet, which has no types, or bytes


@dataclass(frozen=True, slots=True)
class Age:
    """Flows and sessions grow older."""

    ticks: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """The sweeper looks at both tables."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Another director tells of an exception, or answers. Ticks are counted from now."""

    name: Name
    backend: int
    flags: int = 0
    since: int = 0
    until: int = 1000


Step = Expression | Changes | Age | Sweep | Tell


@dataclass(frozen=True)
class Case:
    """A law, and a packet that shows it."""

    name: str
    packet: Expression
    verdict: Verdict
    out: Expression = None  # None: unchanged if passed, none if dropped
    rung: Rung | None = None
    events: tuple[Event, ...] = ()
    reset: Reset | None = None  # what the daemon is told
    held: Held | None = None  # the packet as it waits
    news: tuple[News, ...] = ()  # what others are told
    before: tuple[Step, ...] = ()  # in order; their outcomes are not looked at
    switches: Switches = USUAL
    image: Image = IMAGE


LINK = Ether(src=ROUTER, dst=DIRECTOR)


def family_of(address: str) -> int:
    return ip_address(address).version


def ip(vip: str, client: str = "", **fields: Any) -> Packet:
    """IP header of a packet from a client to a VIP; `hops` is TTL or hop limit in either family."""
    hops = fields.pop("hops", 64)
    if family_of(vip) == 4:
        return IP(src=client or CLIENT4, dst=vip, ttl=hops, **fields)
    return IPv6(src=client or CLIENT6, dst=vip, hlim=hops, **fields)


def tcp(vip: str, flags: str = "S", sport: int = 1234, dport: int = 80, **fields: Any) -> Packet:
    """A TCP segment from a client to a VIP."""
    return LINK / ip(vip, **fields) / TCP(sport=sport, dport=dport, flags=flags)


def udp(vip: str, size: int = 4, sport: int = 5353, dport: int = 53, **fields: Any) -> Packet:
    """A UDP datagram from a client to a VIP."""
    return LINK / ip(vip, **fields) / UDP(sport=sport, dport=dport) / Raw(b"x" * size)


def cut(packet: Packet, length: int) -> bytes:
    """The first bytes of a frame."""
    return bytes(packet)[:length]


def patched(packet: Packet, **at: int) -> bytes:
    """A frame with bytes replaced: `b14=0x54` sets byte 14. Checksums are not mended."""
    frame = bytearray(bytes(packet))
    for name, value in at.items():
        frame[int(name[1:])] = value
    return bytes(frame)


def link_length(frame: bytes) -> int:
    length = 14
    while frame[length - 2 : length] in (b"\x81\x00", b"\x88\xa8") and length < 22:
        length += 4
    return length


def after_hop(frame: bytes) -> bytes:
    """The IP packet of a frame with its hop limit lowered, checksum made anew."""
    packet = bytearray(frame[link_length(frame) :])
    if packet[0] >> 4 == 6:
        packet[7] -= 1
        return bytes(packet)
    packet[8] -= 1
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(bytes(packet[: (packet[0] & 15) * 4])).to_bytes(2, "big")
    return bytes(packet)


def entropy(named: Packet) -> int:
    """Bits of the hash of the flow that a TCP or UDP packet from a client names."""
    network = named[IP] if IP in named else named[IPv6]
    transport = named[TCP] if TCP in named else named[UDP]
    return flow_hash(network.src, (transport.sport, transport.dport)) >> 20 & 0xFFFF_FFFF


def entropy_of_fragment(address: str, protocol: int, datagram: int) -> int:
    """The same for a later fragment."""
    client = CLIENT4 if family_of(address) == 4 else CLIENT6
    return fragment_hash(client, address, protocol, datagram) >> 20 & 0xFFFF_FFFF


def sent(packet: Expression, to: int, named: Packet = None, bits: int | None = None) -> Expression:
    """The frame that carries `packet` to backend `to`.

    `named` is a packet of the flow if `packet` itself does not name it, or `bits` its entropy.
    """
    frame = bytes(packet)
    inner, link = after_hop(frame), Ether(frame[: link_length(frame)])
    link[Ether].src, link[Ether].dst = DIRECTOR, GATEWAY
    if to in (NO_HOP, SILENT_HOP):
        link[Ether].src, link[Ether].dst = ROUTER, DIRECTOR
    if to == L2:
        return bytes(link) + inner
    if bits is None:
        bits = entropy(packet if named is None else named)
    last = link[Dot1Q] if Dot1Q in link else link[Ether]
    while isinstance(last.payload, Dot1Q):
        last = last.payload
    last.type = 0x0800 if family_of(BACKENDS[to]) == 4 else 0x86DD
    return bytes(link) + bytes(outer(inner, BACKENDS[to], bits) / Raw(inner))


def home(packet: Packet) -> int:
    """The backend that the pool SPLIT gives a packet, by the slot of its 5-tuple."""
    network = packet[IP] if IP in packet else packet[IPv6]
    transport = packet[TCP] if TCP in packet else packet[UDP]
    names = affinity.Tuple(
        words(ip_address(network.src)),
        transport.sport,
        ip_address(network.dst),
        transport.dport,
        Protocol.TCP if TCP in packet else Protocol.UDP,
    )
    return (IPIP4, REDIRECTED)[int(affinity.slots(Affinity.FLOW, names, SLOT_KEY)) % 2]


def outer(inner: bytes, backend: str, bits: int) -> Packet:
    """The outer header; lengths are those that the inner header says, without padding."""
    family = inner[0] >> 4
    if family == 4:
        length, traffic_class = int.from_bytes(inner[2:4], "big"), inner[1]
    else:
        length = 40 + int.from_bytes(inner[4:6], "big")
        traffic_class = (inner[0] << 4 | inner[1] >> 4) & 0xFF
    protocol, own = {4: 4, 6: 41}[family], bits.to_bytes(4, "little")
    if family_of(backend) == 4:
        source = f"100.64.{own[0]}.{own[1]}"
        return IP(
            src=source,
            dst=backend,
            proto=protocol,
            tos=traffic_class,
            flags="DF",
            id=0,
            ttl=64,
            len=length + 20,
        )
    source = f"fd00:11be:7::{own.hex()[:4]}:{own.hex()[4:]}"
    return IPv6(
        src=source,
        dst=backend,
        nh=protocol,
        tc=traffic_class,
        fl=bits & 0xFFFFF,
        hlim=64,
        plen=length,
    )


# --- Cases that come often ------------------------------------------------------------------------

HOW = {NO_HOP: Verdict.VIA_KERNEL, SILENT_HOP: Verdict.VIA_KERNEL, REDIRECTED: Verdict.REDIRECT}


def begun(packet: Expression) -> tuple[Event, ...]:
    """What happens when a new flow of a client without a session is recorded."""
    whole = Ether(bytes(packet))
    network = whole.getlayer(IP) or whole.getlayer(IPv6)
    if network.dst in (FLOW4, FLOW6, ALONE4, ALONE6):
        return (Event.FLOW_CREATED,)
    return (Event.FLOW_CREATED, Event.SESSION_CREATED)


def forwarded(name: str, packet: Expression, to: int = IPIP4, **more: Any) -> Case:
    """A packet that goes to a backend: of a new flow and a new session, each of which gets an
    entry, unless told otherwise.
    """
    expected = {
        "out": sent(packet, to, more.pop("named", None), more.pop("bits", None)),
        "verdict": HOW.get(to, Verdict.TRANSMIT),
        "rung": Rung.HOME_NEW,
        "events": more["events"] if "events" in more else begun(packet),
    }
    return Case(name, packet, **(expected | more))


def existing(name: str, packet: Expression, to: int = IPIP4, **more: Any) -> Case:
    """A packet whose flow the connection table knows."""
    return forwarded(name, packet, to, **({"rung": Rung.TABLE, "events": ()} | more))


def dropped(name: str, packet: Expression, verdict: Verdict, **more: Any) -> Case:
    """A packet that nobody gets."""
    return Case(name, packet, verdict, **more)


def passed(name: str, packet: Expression, verdict: Verdict = Verdict.NOT_VIP) -> Case:
    """A packet that the kernel gets unchanged."""
    return Case(name, packet, verdict)
