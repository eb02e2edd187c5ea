# SPDX-License-Identifier: Apache-2.0
"""Fragments: the first has ports and goes with its flow; later ones follow it, or go home."""

from typing import Any

from scapy.all import TCP, UDP, IPv6ExtHdrFragment, Raw
from scapy.packet import Packet

from limpet.core.diff import Changes
from limpet.core.model import BackendId
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import (
    LINK,
    Age,
    Case,
    dropped,
    entropy_of_fragment,
    family_of,
    forwarded,
    home,
    ip,
    passed,
)
from packets.world import (
    FLOW4,
    FLOW6,
    IPIP4,
    IPIP6,
    L2,
    MIXED4,
    PORTS4,
    RANGES4,
    REDIRECTED,
    VIP4,
    VIP6,
    Switches,
    pool,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
ID, OFFSET, DATA = 4711, 185, Raw(bytes(range(200)))
MOVED = Changes(pools_put=(pool(IPIP4, REDIRECTED, generation=2),))


def first(vip: str, dport: int = 53, datagram: int = ID, **fields: Any) -> Packet:
    """The first fragment of a datagram."""
    transport = UDP(sport=5353, dport=dport, len=1000, chksum=0xABCD) / Raw(bytes(64))
    if family_of(vip) == 4:
        return LINK / ip(vip, id=datagram, flags="MF", **fields) / transport
    return LINK / ip(vip, **fields) / IPv6ExtHdrFragment(m=1, id=datagram) / transport


def later(vip: str, datagram: int = ID, protocol: int = 17, **fields: Any) -> Packet:
    """A later one."""
    if family_of(vip) == 4:
        return LINK / ip(vip, id=datagram, frag=OFFSET, proto=protocol, **fields) / DATA
    header = IPv6ExtHdrFragment(nh=protocol, offset=OFFSET, id=datagram)
    return LINK / ip(vip, **fields) / header / DATA


def follows(name: str, packet: Packet, vip: str, to: int = IPIP4, **more: Any) -> Case:
    """A later fragment whose first was seen."""
    protocol = more.pop("protocol", 17)
    expected: dict[str, Any] = {
        "rung": Rung.FRAGMENT,
        "events": (),
        "bits": entropy_of_fragment(vip, protocol, more.pop("datagram", ID)),
        "before": (first(vip),),
    }
    return forwarded(name, packet, to, **(expected | more))


def goes_home(name: str, packet: Packet, vip: str, to: int = IPIP4, **more: Any) -> Case:
    """A later fragment whose first was not seen, of a VIP where the client alone decides."""
    return follows(name, packet, vip, to, **({"before": (), "rung": Rung.HOME_FRAGMENT} | more))


def lost(name: str, packet: Packet, **more: Any) -> Case:
    return dropped(name, packet, Verdict.DROP_FRAGMENT, **more)


BOTH = (Event.FLOW_CREATED, Event.FLOW_CREATED)  # the flow, and the datagram
WITH_SESSION = (*BOTH, Event.SESSION_CREATED)
REFUSED = (Event.REFUSED_RATE, Event.REFUSED_RATE)

FIRSTS = [
    forwarded("A first fragment opens a flow, and is remembered", first(V4), events=WITH_SESSION),
    forwarded(
        "A first IPv6 fragment opens a flow, and is remembered", first(V6), events=WITH_SESSION
    ),
    forwarded(
        "A first fragment of a flow with 5-tuple affinity is remembered",
        first(FLOW4),
        home(first(FLOW4)),
        events=BOTH,
    ),
    forwarded(
        "A first fragment of TCP is remembered",
        LINK / ip(V4, id=ID, flags="MF") / TCP(sport=5, dport=80, flags="A"),
        rung=Rung.HOME_EXISTING,
        events=WITH_SESSION,
    ),
    forwarded(
        "A first fragment that comes again renews what is remembered",
        first(V4),
        before=(first(V4),),
        rung=Rung.TABLE,
        events=(Event.FLOW_CREATED,),
    ),
    forwarded(
        "A first fragment over the rate limit goes home, and is not remembered",
        first(V4),
        events=REFUSED,
        switches=Switches(flows_are_refused=True),
    ),
]

FOLLOW = [
    follows("A later fragment follows its first", later(V4), V4),
    follows("A later IPv6 fragment follows its first", later(V6), V6),
    follows("A later fragment goes 4-in-6", later(VIP4[IPIP6]), VIP4[IPIP6], IPIP6),
    follows("A later IPv6 fragment goes 6-in-6", later(VIP6[IPIP6]), VIP6[IPIP6], IPIP6),
    follows("A later fragment goes by MAC rewrite", later(VIP4[L2]), VIP4[L2], L2),
    follows(
        "Affinity of the 5-tuple: a later fragment follows its first",
        later(FLOW4),
        FLOW4,
        home(first(FLOW4)),
    ),
    follows(
        "Affinity of the 5-tuple over IPv6: a later fragment follows its first",
        later(FLOW6),
        FLOW6,
        home(first(FLOW6)),
    ),
    follows(
        "Two pools at one address: a later fragment follows its first",
        later(MIXED4),
        MIXED4,
        REDIRECTED,
        before=(first(MIXED4, dport=54),),
    ),
    follows(
        "A later fragment follows its first although the slot has moved since",
        later(V4),
        V4,
        before=(first(V4), MOVED),
    ),
    follows(
        "Fragments of two datagrams at once stay apart",
        later(MIXED4, 8),
        MIXED4,
        REDIRECTED,
        datagram=8,
        before=(first(MIXED4, 53, 7), first(MIXED4, 54, 8)),
    ),
    follows("A memory of 15 ticks still holds", later(V4), V4, before=(first(V4), Age(15), MOVED)),
    follows(
        "A later fragment keeps the memory alive",
        later(V4),
        V4,
        before=(first(V4), MOVED, Age(9), later(V4), Age(9)),
    ),
]

HOME = [
    goes_home(
        "A later fragment before its first goes home, where its first will go too", later(V4), V4
    ),
    goes_home("A later IPv6 fragment before its first goes home", later(V6), V6),
    goes_home("A later fragment of TCP goes home", later(V4, protocol=6), V4, protocol=6),
    follows(
        "A later fragment of another datagram follows its client's session",
        later(V4, 4712),
        V4,
        datagram=4712,
        before=(first(V4), MOVED),
        rung=Rung.SESSION_EXISTING,
    ),
    follows(
        "A later IPv6 fragment of another datagram follows its client's session",
        later(V6, 4712),
        V6,
        datagram=4712,
        before=(first(V6), MOVED),
        rung=Rung.SESSION_EXISTING,
    ),
    lost(
        "Affinity of client and ports: a later fragment before its first",
        later(RANGES4, protocol=6),
    ),
    goes_home(
        "A later fragment of another protocol goes home",
        later(V4, protocol=6),
        V4,
        protocol=6,
        before=(first(V4),),
    ),
    goes_home(
        "A memory older than 15 ticks is no memory",
        later(V4),
        V4,
        REDIRECTED,
        before=(first(V4), Age(16), MOVED),
    ),
    goes_home(
        "A first over the rate limit was not remembered",
        later(V4),
        V4,
        before=(first(V4),),
        switches=Switches(flows_are_refused=True),
    ),
    goes_home(
        "A backend that is gone is not followed",
        later(V4),
        V4,
        REDIRECTED,
        before=(
            first(V4),
            Changes(pools_put=MOVED.pools_put, backends_removed=(BackendId(IPIP4),)),
        ),
    ),
    goes_home("A later fragment with MF set is a later fragment", later(V4, flags="MF"), V4),
]

LOST = [
    lost("Affinity of the 5-tuple: a later fragment before its first", later(FLOW4)),
    lost("Affinity of the 5-tuple over IPv6: a later fragment before its first", later(FLOW6)),
    lost("Two pools at one address: a later fragment before its first", later(MIXED4)),
    lost("A later fragment of a protocol that the address does not serve", later(PORTS4)),
    lost(
        "A later fragment whose first went to another VIP address",
        later(FLOW4),
        before=(first(V4),),
    ),
    lost(
        "A later fragment whose first came from another client",
        later(FLOW4),
        before=(first(FLOW4, client="198.51.100.8"),),
    ),
    lost(
        "An IPv6 fragment with an identification that was not seen",
        later(FLOW6, 1 << 31),
        before=(first(FLOW6),),
    ),
    passed(
        "A first fragment to a port that nobody serves is passed",
        first(MIXED4, 55),
        Verdict.NO_SERVICE,
    ),
    passed(
        "A later fragment of an extension header names no protocol, and is passed",
        LINK / ip(V6) / IPv6ExtHdrFragment(nh=60, offset=OFFSET, id=ID) / DATA,
        Verdict.NO_SERVICE,
    ),
]

CASES: list[Case] = [*FIRSTS, *FOLLOW, *HOME, *LOST]
