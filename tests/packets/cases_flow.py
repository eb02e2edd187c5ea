# SPDX-License-Identifier: Apache-2.0
"""The connection table: flows stay where they are, end, expire, and make room for others."""

from typing import Any

from limpet.core.diff import Changes
from limpet.core.model import BackendId
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import Age, Case, Step, Sweep, dropped, existing, forwarded, home, tcp, udp
from packets.cases_icmp import error4, quote4
from packets.world import (
    ALONE4,
    ALONE6,
    CLIENT4,
    FLOW4,
    IPIP4,
    IPIP6,
    PORTS4,
    REDIRECTED,
    VIP4,
    Switches,
    flow_hash,
    pool,
)

V4, V6 = ALONE4, ALONE6  # each flow by itself: what sessions do is in cases_session
MOVED = Changes(pools_put=(pool(IPIP4, REDIRECTED, generation=2),))
GONE = Changes(pools_put=MOVED.pools_put, backends_removed=(BackendId(IPIP4),))
EMPTIED = Changes(pools_put=(pool(IPIP4, 0, generation=2),))
CREATED, EXPIRED = Event.FLOW_CREATED, Event.EVICTED_EXPIRED
OPEN4, OPEN6 = (tcp(V4), tcp(V4, "A")), (tcp(V6), tcp(V6, "A"))

STAYS = [
    existing("A flow stays when its slot moves", tcp(V4, "A"), before=(*OPEN4, MOVED)),
    existing("An IPv6 flow stays when its slot moves", tcp(V6, "PA"), before=(*OPEN6, MOVED)),
    existing(
        "A flow stays when its slot has no home any more", tcp(V4, "A"), before=(*OPEN4, EMPTIED)
    ),
    existing(
        "A handshake stays when its slot moves after the SYN", tcp(V4, "A"), before=(tcp(V4), MOVED)
    ),
    existing("A SYN sent again goes where the first went", tcp(V4), before=(tcp(V4), MOVED)),
    existing(
        "A SYN within a live flow goes to its backend, which knows best",
        tcp(V4),
        before=(*OPEN4, MOVED),
    ),
    existing("A UDP flow stays when its slot moves", udp(V4), before=(udp(V4), MOVED)),
    existing(
        "An IPv6 UDP flow stays when its slot moves", udp(V6), before=(udp(V6), udp(V6), MOVED)
    ),
    existing("FIN of a flow goes to its backend", tcp(V4, "FA"), before=(*OPEN4, MOVED)),
    existing("RST of a flow goes to its backend", tcp(V4, "R"), before=(*OPEN4, MOVED)),
    existing(
        "The last ACK after FIN goes to the same backend",
        tcp(V4, "A"),
        before=(*OPEN4, tcp(V4, "FA"), MOVED),
    ),
    existing(
        "A flow found by an ACK stays from then on", tcp(V4, "A"), before=(tcp(V4, "A"), MOVED)
    ),
    existing(
        "An error about a flow follows it when its slot has moved",
        error4(quote4(V4), V4),
        before=(*OPEN4, MOVED),
        named=tcp(V4),
    ),
    existing(
        "Affinity of the 5-tuple: a flow stays",
        udp(FLOW4, sport=7),
        home(udp(FLOW4, sport=7)),
        before=(udp(FLOW4, sport=7),),
    ),
]

APART = [
    forwarded(
        "Another client port is another flow",
        tcp(V4, sport=1235),
        REDIRECTED,
        before=(*OPEN4, MOVED),
    ),
    forwarded(
        "Another VIP port is another flow", tcp(V4, dport=81), REDIRECTED, before=(*OPEN4, MOVED)
    ),
    forwarded(
        "Another client is another flow",
        tcp(V4, client="198.51.100.8"),
        REDIRECTED,
        before=(*OPEN4, MOVED),
    ),
    forwarded(
        "UDP with the ports of a TCP flow is another flow",
        udp(V4, sport=1234, dport=80),
        REDIRECTED,
        before=(*OPEN4, MOVED),
    ),
    forwarded(
        "The same ports at another VIP address are another flow",
        tcp(VIP4[IPIP6]),
        IPIP6,
        before=OPEN4,
    ),
    forwarded(
        "Another IPv6 client of the same /64 is another flow",
        tcp(V6, client="2001:db8:c::8"),
        REDIRECTED,
        before=(*OPEN6, MOVED),
    ),
    forwarded(
        "Affinity of the 5-tuple: an odd slot", udp(FLOW4, sport=1), home(udp(FLOW4, sport=1))
    ),
    forwarded(
        "Affinity of the 5-tuple: an even slot", udp(FLOW4, sport=2), home(udp(FLOW4, sport=2))
    ),
    forwarded(
        "The VIP of one port and that of all ports have flows of their own",
        tcp(PORTS4, dport=81),
        REDIRECTED,
        before=(tcp(PORTS4, dport=80),),
    ),
]

ENDS = [
    forwarded(
        "SYN after FIN is a new flow, and goes home",
        tcp(V4),
        REDIRECTED,
        before=(*OPEN4, tcp(V4, "FA"), MOVED),
    ),
    forwarded(
        "SYN after RST is a new flow, and goes home",
        tcp(V4),
        REDIRECTED,
        before=(*OPEN4, tcp(V4, "R"), MOVED),
    ),
    existing(
        "A flow that came back after FIN lives like a new one",
        tcp(V4, "A"),
        before=(*OPEN4, tcp(V4, "FA"), tcp(V4), tcp(V4, "A"), Age(1000)),
    ),
    existing(
        "Packets after FIN keep a half-closed flow alive",
        tcp(V4, "A"),
        before=(*OPEN4, tcp(V4, "FA"), Age(20), tcp(V4, "A"), Age(20)),
    ),
    forwarded(
        "An opening expires after its own time",
        tcp(V4),
        REDIRECTED,
        before=(tcp(V4), Age(11), MOVED),
    ),
    existing(
        "An opening holds to the end of its time", tcp(V4, "A"), before=(tcp(V4), Age(10), MOVED)
    ),
    existing(
        "An established flow holds to the end of its time",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1000), MOVED),
    ),
    existing(
        "A late packet of an expired flow follows it",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED),
        rung=Rung.LATE,
    ),
    existing(
        "A late packet of an expired IPv6 flow follows it",
        tcp(V6, "A"),
        before=(*OPEN6, Age(1001), MOVED),
        rung=Rung.LATE,
    ),
    existing(
        "A flow that was late is a flow like any other",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED, tcp(V4, "A"), Age(1000)),
    ),
    existing(
        "A late flow is remembered for a long time",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), Sweep(), Age(100_000), Sweep(), MOVED),
        rung=Rung.LATE,
    ),
    forwarded(
        "A SYN never follows a late flow",
        tcp(V4),
        REDIRECTED,
        before=(*OPEN4, Age(1001), MOVED),
    ),
    forwarded(
        "A SYN never follows a late flow that was swept",
        tcp(V4),
        REDIRECTED,
        before=(*OPEN4, Age(1001), Sweep(), MOVED),
    ),
    forwarded(
        "A datagram flow that was swept is forgotten",
        udp(V4),
        REDIRECTED,
        before=(udp(V4), udp(V4), Age(101), Sweep(), MOVED),
    ),
    forwarded(
        "A flow that was closing when it was swept is forgotten",
        tcp(V4, "A"),
        REDIRECTED,
        before=(*OPEN4, tcp(V4, "FA"), Age(21), Sweep(), MOVED),
        rung=Rung.HOME_EXISTING,
    ),
    existing(
        "An error about a late flow follows it",
        error4(quote4(V4), V4),
        before=(*OPEN4, Age(1001), MOVED),
        named=tcp(V4),
        rung=Rung.LATE,
    ),
    existing(
        "An error about a late flow does not wake it",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED, error4(quote4(V4), V4)),
        rung=Rung.LATE,
    ),
    existing(
        "Sweeping leaves what is live as it is",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1000), Sweep(), MOVED),
    ),
    existing(
        "A datagram flow of two packets holds as long as datagrams do",
        udp(V4),
        before=(udp(V4), udp(V4), Age(100), MOVED),
    ),
    forwarded(
        "A datagram flow that has expired is a new flow",
        udp(V4),
        REDIRECTED,
        before=(udp(V4), udp(V4), Age(101), MOVED),
    ),
    forwarded(
        "A flow that is closing expires sooner",
        tcp(V4, "A"),
        REDIRECTED,
        before=(*OPEN4, tcp(V4, "FA"), Age(21), MOVED),
        rung=Rung.HOME_EXISTING,
    ),
    existing(
        "FIN of a late flow follows it",
        tcp(V4, "FA"),
        before=(*OPEN4, Age(1001), MOVED),
        rung=Rung.LATE,
    ),
    existing(
        "FIN of a late flow does not wake it",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED, tcp(V4, "FA")),
        rung=Rung.LATE,
    ),
    existing(
        "A packet keeps its flow alive",
        tcp(V4, "A"),
        before=(*OPEN4, Age(600), tcp(V4, "A"), Age(600), MOVED),
    ),
    existing(
        "Within two ticks an entry is not written again",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1), tcp(V4, "A"), Age(999), MOVED),
    ),
    existing(
        "Within two ticks an entry is not written again, so its age counts from before",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1), tcp(V4, "A"), Age(1000), MOVED),
        rung=Rung.LATE,
    ),
]

STALE = [
    forwarded(
        "A flow whose backend is gone goes home, and is recorded there",
        tcp(V4, "A"),
        REDIRECTED,
        before=(*OPEN4, GONE),
        rung=Rung.HOME_EXISTING,
        events=(CREATED, Event.STALE_BACKEND),
    ),
    existing(
        "A flow whose backend was gone stays where it went then",
        tcp(V4, "A"),
        REDIRECTED,
        before=(*OPEN4, GONE, tcp(V4, "A")),
    ),
    forwarded(
        "A SYN finds an entry of a backend that is gone",
        tcp(V4),
        REDIRECTED,
        before=(tcp(V4), GONE),
        events=(CREATED, Event.STALE_BACKEND),
    ),
    forwarded(
        "An error about a flow whose backend is gone changes nothing",
        error4(quote4(V4), V4),
        REDIRECTED,
        before=(*OPEN4, GONE),
        named=tcp(V4),
        rung=Rung.HOME_EXISTING,
        events=(Event.STALE_BACKEND,),
    ),
    dropped(
        "A flow whose backend is gone, with nowhere to go",
        tcp(V4, "A"),
        Verdict.DROP_NO_BACKEND,
        before=(*OPEN4, Changes(pools_put=EMPTIED.pools_put, backends_removed=(BackendId(IPIP4),))),
        events=(Event.STALE_BACKEND,),
    ),
]

# --- Full buckets ---------------------------------------------------------------------------------

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

RATE = [
    forwarded(
        "A SYN after FIN renews the entry of its flow, whatever the rate",
        tcp(V4),
        before=(tcp(V4), tcp(V4, "FA")),
        switches=Switches(flows_are_refused=True, flows_first=1),
    ),
    forwarded(
        "Over the rate limit a new flow goes home without an entry",
        tcp(V4),
        events=(Event.REFUSED_RATE,),
        switches=Switches(flows_are_refused=True),
    ),
    forwarded(
        "Over the rate limit a datagram goes home without an entry",
        udp(V6),
        events=(Event.REFUSED_RATE,),
        switches=Switches(flows_are_refused=True),
    ),
    forwarded(
        "Over the rate limit the next packet finds no entry, and goes home",
        tcp(V4, "A"),
        before=(tcp(V4),),
        rung=Rung.HOME_EXISTING,
        events=(Event.REFUSED_RATE,),
        switches=Switches(flows_are_refused=True),
    ),
]

CASES: list[Case] = [*STAYS, *APART, *ENDS, *STALE, *FULL, *RATE]
