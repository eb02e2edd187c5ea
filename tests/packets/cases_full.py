# SPDX-License-Identifier: Apache-2.0
"""Full buckets of the connection table: who makes room, and where flows go that find none."""

from typing import Any

from limpet.datapath.abi import Event, Rung
from packets.case import Age, Case, Step, existing, forwarded, tcp, udp
from packets.cases_flow import CREATED, EXPIRED, MOVED, V4
from packets.world import CLIENT4, REDIRECTED, Switches, flow_hash

ONE, TWO = Switches(buckets=1), Switches(buckets=2)
NEW = tcp(V4, sport=9999)
PORTS = range(1000, 1008)  # eight flows: a bucket


def opened(ports: range) -> tuple[Step, ...]:
    return tuple(tcp(V4, sport=port) for port in ports)


def established(ports: range) -> tuple[Step, ...]:
    return tuple(step for port in ports for step in (tcp(V4, sport=port), tcp(V4, "A", sport=port)))


def closing(ports: range) -> tuple[Step, ...]:
    return (*established(ports), *(tcp(V4, "FA", sport=port) for port in ports))


def evicting(name: str, before: tuple[Step, ...], event: Event, packet: Any = NEW) -> Case:
    return forwarded(name, packet, before=before, events=(CREATED, event), switches=ONE)


def fills(bucket: int, count: int, half: int | None = None) -> list[int]:
    """Client ports whose flows belong in a bucket of two, and prefer a half of it (0 or 4)."""
    hashes = ((port, flow_hash(CLIENT4, (port, 80))) for port in range(2000, 4000))
    inside = [(port, hashed) for port, hashed in hashes if hashed & 1 == bucket]
    return [port for port, hashed in inside if half in (None, hashed >> 48 & 4)][:count]


def live(ports: list[int]) -> tuple[Step, ...]:
    return tuple(step for port in ports for step in (tcp(V4, sport=port), tcp(V4, "A", sport=port)))


ZERO = fills(0, 18)
NEAR, FAR = fills(0, 5, half=0), fills(0, 4, half=4)
OTHER = [*fills(1, 4, half=0), *fills(1, 1, half=4)]
FULL = [
    forwarded(
        "The eighth flow still finds an empty place",
        tcp(V4, sport=1007),
        before=established(range(1000, 1007)),
        switches=ONE,
    ),
    evicting("An expired entry makes room", (*established(PORTS), Age(1001)), EXPIRED),
    evicting("An opening makes room", opened(PORTS), Event.EVICTED_OPENING),
    evicting("A closing flow makes room", closing(PORTS), Event.EVICTED_CLOSING),
    forwarded(
        "Established flows make no room: a new one goes home without an entry",
        NEW,
        before=established(PORTS),
        events=(Event.REFUSED_FULL,),
        switches=ONE,
    ),
    evicting(
        "What is remembered of a fragment makes room like an opening",
        (*established(range(1000, 1007)), udp(V4, flags="MF", id=9)),
        Event.EVICTED_OPENING,
    ),
    evicting(
        "An expired entry goes before an opening",
        (*opened(range(1000, 1004)), Age(11), *opened(range(1004, 1008))),
        EXPIRED,
    ),
    evicting(
        "An opening goes before a closing flow",
        (*closing(range(1000, 1007)), *opened(range(1007, 1008))),
        Event.EVICTED_OPENING,
    ),
    evicting(
        "A closing flow goes before an established one",
        (*established(range(1000, 1007)), *closing(range(1007, 1008))),
        Event.EVICTED_CLOSING,
    ),
    existing(
        "An established flow outlives a flood of handshakes",
        tcp(V4, "A", sport=1000),
        before=(*established(range(1000, 1001)), *opened(range(5000, 5040)), MOVED),
        switches=ONE,
    ),
    forwarded(
        "Of two openings the one idle longest makes room",
        tcp(V4, "A", sport=1000),
        REDIRECTED,
        before=(*opened(range(1000, 1001)), Age(1), *opened(range(1001, 1008)), NEW, MOVED),
        rung=Rung.HOME_EXISTING,
        events=(CREATED, Event.EVICTED_OPENING),
        switches=ONE,
    ),
    existing(
        "Of two openings the younger stays",
        tcp(V4, "A", sport=1007),
        before=(*opened(range(1000, 1007)), Age(1), *opened(range(1007, 1008)), NEW, MOVED),
        switches=ONE,
    ),
    existing(
        "Datagram flows of two packets make no room",
        udp(V4, sport=1003),
        before=(
            *(udp(V4, sport=port) for port in PORTS for _ in range(2)),
            *opened(range(5000, 5020)),
            MOVED,
        ),
        switches=ONE,
    ),
    forwarded(
        "A flow without an entry goes home each time",
        NEW,
        REDIRECTED,
        before=(*established(PORTS), NEW, MOVED),
        events=(Event.REFUSED_FULL,),
        switches=ONE,
    ),
    forwarded(
        "Three free places are enough to stay in the first bucket",
        tcp(V4, sport=ZERO[5]),
        before=live(ZERO[:5]),
        switches=TWO,
    ),
    forwarded(
        "With two places free in its half, a flow stays there",
        tcp(V4, sport=NEAR[2]),
        before=live([*NEAR[:2], *FAR]),
        switches=TWO,
    ),
    forwarded(
        "With its half full and four places free in the other, a flow stays in its bucket",
        tcp(V4, sport=NEAR[4]),
        before=live(NEAR[:4]),
        switches=TWO,
    ),
    existing(
        "A flow that went to the other half is found",
        tcp(V4, "A", sport=NEAR[4]),
        before=(*live(NEAR[:4]), tcp(V4, sport=NEAR[4]), MOVED),
        switches=TWO,
    ),
    forwarded(
        "With its half full and three places free in the other, a flow goes to the emptier bucket",
        tcp(V4, sport=NEAR[4]),
        before=live([*NEAR[:4], FAR[0]]),
        events=(CREATED, Event.FLOW_SPILLED),
        switches=TWO,
    ),
    forwarded(
        "With as few free places in the other bucket, a flow stays in its first",
        tcp(V4, sport=NEAR[4]),
        before=live([*NEAR[:4], FAR[0], *OTHER]),
        switches=TWO,
    ),
    forwarded(
        "With fewer free places than the other, a flow leaves its first bucket",
        tcp(V4, sport=ZERO[13]),
        before=live(ZERO[:13]),
        events=(CREATED, Event.FLOW_SPILLED),
        switches=TWO,
    ),
    forwarded(
        "A full bucket spills into the other",
        tcp(V4, sport=ZERO[8]),
        before=live(ZERO[:8]),
        events=(CREATED, Event.FLOW_SPILLED),
        switches=TWO,
    ),
    existing(
        "A flow that was spilled is found",
        tcp(V4, "A", sport=ZERO[8]),
        before=(*live(ZERO[:9]), MOVED),
        switches=TWO,
    ),
    forwarded(
        "An opening is rather spilled than another opening evicted",
        tcp(V4, sport=ZERO[8]),
        before=tuple(tcp(V4, sport=port) for port in ZERO[:8]),
        events=(CREATED, Event.FLOW_SPILLED),
        switches=TWO,
    ),
    forwarded(
        "Both buckets full of live flows: no entry",
        tcp(V4, sport=ZERO[16]),
        before=live(ZERO[:16]),
        events=(Event.REFUSED_FULL,),
        switches=TWO,
    ),
    forwarded(
        "An expired entry in the second bucket makes room for a spilled flow",
        tcp(V4, sport=ZERO[17]),
        before=(*live(ZERO[:8]), *(tcp(V4, sport=port) for port in ZERO[8:16]), Age(11)),
        events=(CREATED, Event.FLOW_SPILLED, EXPIRED),
        switches=TWO,
    ),
]

CASES: list[Case] = FULL
