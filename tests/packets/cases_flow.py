# SPDX-License-Identifier: Apache-2.0
"""The connection table: flows stay where they are, end, expire, and make room for others."""

from limpet.core.diff import Changes
from limpet.core.model import BackendId
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import Age, Case, Sweep, dropped, existing, forwarded, home, tcp, udp
from packets.cases_icmp import error4, quote4
from packets.world import (
    ALONE4,
    ALONE6,
    FLOW4,
    IPIP4,
    IPIP6,
    PORTS4,
    REDIRECTED,
    VIP4,
    Switches,
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

CASES: list[Case] = [*STAYS, *APART, *ENDS, *STALE, *RATE]
