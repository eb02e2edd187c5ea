# SPDX-License-Identifier: Apache-2.0
"""Sessions: a client's new flows go where its session is, until that has been idle for too long."""

from typing import Any

from limpet.core.diff import Changes
from limpet.core.model import BackendId
from limpet.datapath.abi import Event, Rung, Verdict
from packets.case import Age, Case, Step, Sweep, dropped, existing, forwarded, tcp, udp
from packets.cases_icmp import error4, quote4
from packets.world import (
    CLIENT4,
    IPIP4,
    NARROW4,
    RANGES4,
    RANGES6,
    REDIRECTED,
    VIP4,
    VIP6,
    WIDE6,
    pool,
    range_home,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
OTHER4 = "198.51.100.8"
SAME_64, OTHER_64 = "2001:db8:c::8", "2001:db8:d::7"
MOVED = Changes(pools_put=(pool(IPIP4, REDIRECTED, generation=2),))
GONE = Changes(pools_put=MOVED.pools_put, backends_removed=(BackendId(IPIP4),))
EMPTIED = Changes(pools_put=(pool(IPIP4, 0, generation=2),))
FLOW, SESSION = Event.FLOW_CREATED, Event.SESSION_CREATED
BEGUN = (FLOW, SESSION)
OPEN4, OPEN6 = (tcp(V4), tcp(V4, "A")), (tcp(V6), tcp(V6, "A"))
UDP4 = (udp(V4), udp(V4))
NEW4, NEW6 = tcp(V4, sport=1235), tcp(V6, sport=1235)


def follows(name: str, packet: Any, before: tuple[Step, ...], to: int = IPIP4, **more: Any) -> Case:
    """A new flow that goes where its client's session is."""
    expected: dict[str, Any] = {"rung": Rung.SESSION_NEW, "events": (FLOW,)} | more
    return forwarded(name, packet, to, before=before, **expected)


def returns(name: str, packet: Any, before: tuple[Step, ...], **more: Any) -> Case:
    """A client whose session has expired: placed by the pool's `reassign`."""
    expected: dict[str, Any] = {"rung": Rung.FREEST, "events": BEGUN} | more
    return forwarded(name, packet, REDIRECTED, before=before, **expected)


def begins(name: str, packet: Any, before: tuple[Step, ...], **more: Any) -> Case:
    """A client that nobody knows: home of the slot, which has moved."""
    return forwarded(name, packet, REDIRECTED, before=before, **more)


FOLLOW = [
    follows("A new connection of a live session goes to its backend", NEW4, (*OPEN4, MOVED)),
    follows("A new IPv6 connection of a live session does", NEW6, (*OPEN6, MOVED)),
    follows("To another port of the same VIP as well", tcp(V4, dport=81), (*OPEN4, MOVED)),
    follows("A new UDP flow goes with its session", udp(V4, sport=1), (*UDP4, MOVED)),
    follows(
        "A new IPv6 UDP flow goes with its session",
        udp(V6, sport=1),
        (udp(V6), udp(V6), MOVED),
    ),
    follows("A session of which one SYN came is a session", NEW4, (tcp(V4), MOVED)),
    follows("A session is there when its slot has no home", NEW4, (*OPEN4, EMPTIED)),
    follows("A session outlives its last flow", NEW4, (*OPEN4, tcp(V4, "FA"), MOVED)),
    follows(
        "A SYN after FIN goes where its session is",
        tcp(V4),
        (*OPEN4, tcp(V4, "FA"), MOVED),
    ),
    follows(
        "A SYN of an expired handshake goes where its session is",
        tcp(V4),
        (tcp(V4), tcp(V4, sport=2), tcp(V4, "A", sport=2), Age(11), MOVED),
    ),
    follows(
        "Another IPv6 client of the same /64 has the same session",
        tcp(V6, client=SAME_64),
        (*OPEN6, MOVED),
    ),
    begins("A client of another /64 has not", tcp(V6, client=OTHER_64), (*OPEN6, MOVED)),
    begins("Another IPv4 client has not", tcp(V4, client=OTHER4), (*OPEN4, MOVED)),
    begins("The session of a UDP VIP is not that of the TCP VIP", tcp(V4), (*UDP4, MOVED)),
    begins("The session of a TCP VIP is not that of the UDP VIP", udp(V4), (*OPEN4, MOVED)),
    follows(
        "With a prefix of /24 neighbours have one session",
        tcp(NARROW4, client=OTHER4),
        (tcp(NARROW4), MOVED),
    ),
    begins(
        "Beyond it they have not",
        tcp(NARROW4, client="198.51.101.7"),
        (tcp(NARROW4), MOVED),
    ),
    begins(
        "With a prefix of /128 an IPv6 neighbour has a session of its own",
        tcp(WIDE6, client=SAME_64),
        (tcp(WIDE6), MOVED),
    ),
    existing(
        "An ACK of an unknown flow goes where its client's session is, and gets an entry",
        tcp(V4, "A", sport=9),
        before=(*OPEN4, MOVED),
        rung=Rung.SESSION_EXISTING,
        events=(FLOW,),
    ),
    existing(
        "An IPv6 ACK of an unknown flow does",
        tcp(V6, "A", sport=9),
        before=(*OPEN6, MOVED),
        rung=Rung.SESSION_EXISTING,
        events=(FLOW,),
    ),
    existing(
        "FIN of an unknown flow goes where its client's session is, and gets no entry",
        tcp(V4, "FA", sport=9),
        before=(*OPEN4, MOVED),
        rung=Rung.SESSION_EXISTING,
    ),
    existing(
        "An error about an unknown flow goes where its client's session is",
        error4(quote4(dport=9)),
        before=(*OPEN4, MOVED),
        named=tcp(V4, sport=9),
        rung=Rung.SESSION_EXISTING,
    ),
]

RANGE_TO = range_home(CLIENT4, 40000, RANGES4, 4)
RANGES = [
    forwarded(
        "Affinity of client and ports: a range has a home of its own",
        tcp(RANGES4, sport=1000),
        range_home(CLIENT4, 1000, RANGES4, 4),
    ),
    forwarded(
        "Affinity of client and ports: another range has another",
        tcp(RANGES4, sport=40000),
        RANGE_TO,
        before=(tcp(RANGES4, sport=1000),),
    ),
    follows(
        "Affinity of client and ports: a port of the same range has the same session",
        tcp(RANGES4, sport=40001),
        (tcp(RANGES4, sport=40000),),
        RANGE_TO,
    ),
    follows(
        "Affinity of client and ports over IPv6: the last port of a range",
        tcp(RANGES6, sport=16383),
        (tcp(RANGES6, sport=0),),
        range_home("2001:db8:c::", 0, RANGES6, 4),
    ),
    forwarded(
        "Affinity of client and ports over IPv6: the first port of the next range",
        tcp(RANGES6, sport=16384),
        range_home("2001:db8:c::", 16384, RANGES6, 4),
        before=(tcp(RANGES6, sport=0),),
    ),
]

EXPIRE = [
    follows("A session holds to the end of its time", NEW4, (*OPEN4, Age(1000), MOVED)),
    returns("A session that was idle for longer has expired", NEW4, (*OPEN4, Age(1001), MOVED)),
    returns("An IPv6 session that was idle for longer", NEW6, (*OPEN6, Age(1001), MOVED)),
    returns(
        "A client of a swept session is still known", NEW4, (*OPEN4, Age(1001), Sweep(), MOVED)
    ),
    begins(
        "A client is forgotten after the time of late entries",
        NEW4,
        (*OPEN4, Age(1001), Sweep(), Age(200_000), Sweep(), MOVED),
    ),
    follows("A session without an established flow holds", NEW4, (tcp(V4), Age(10), MOVED)),
    returns("It expires as handshakes do", NEW4, (tcp(V4), Age(11), MOVED)),
    begins("When it is swept, it is forgotten", NEW4, (tcp(V4), Age(11), Sweep(), MOVED)),
    follows(
        "A session of datagrams holds as long as they", udp(V4, sport=1), (*UDP4, Age(100), MOVED)
    ),
    returns("A session of datagrams expires", udp(V4, sport=1), (*UDP4, Age(101), MOVED)),
    follows(
        "A packet of a flow keeps its session alive",
        NEW4,
        (*OPEN4, Age(600), tcp(V4, "A"), Age(600), MOVED),
    ),
    follows(
        "A packet of an IPv6 flow keeps its session alive",
        NEW6,
        (*OPEN6, Age(600), tcp(V6, "A"), Age(600), MOVED),
    ),
    follows(
        "A new flow keeps its session alive",
        NEW4,
        (*OPEN4, Age(600), tcp(V4, sport=7), Age(600), MOVED),
    ),
    follows(
        "One datagram from each port keeps a session alive",
        udp(V4, sport=4),
        (udp(V4, sport=1), Age(9), udp(V4, sport=2), Age(9), udp(V4, sport=3), Age(9), MOVED),
    ),
    follows(
        "A closing flow keeps its session alive",
        NEW4,
        (*OPEN4, Age(990), tcp(V4, "FA"), Age(15), tcp(V4, "A"), Age(990), MOVED),
    ),
    returns(
        "An error about a flow keeps no session alive",
        NEW4,
        (*OPEN4, Age(600), error4(quote4()), Age(600), MOVED),
    ),
]

LATE = [
    existing(
        "A late packet begins its client's session again",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED),
        rung=Rung.LATE,
        events=(SESSION,),
    ),
    existing(
        "A late IPv6 packet does, also after a sweep",
        tcp(V6, "A"),
        before=(*OPEN6, Age(1001), Sweep(), MOVED),
        rung=Rung.LATE,
        events=(SESSION,),
    ),
    follows(
        "A new flow goes where a late one has begun the session again",
        NEW4,
        (*OPEN4, Age(1001), MOVED, tcp(V4, "A")),
    ),
    follows(
        "A session that began again lives as one with an established flow",
        NEW4,
        (*OPEN4, Age(1001), MOVED, tcp(V4, "A"), Age(1000)),
    ),
    existing(
        "A late packet follows its flow, though its client has begun anew elsewhere",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), MOVED, NEW4),
        rung=Rung.LATE,
    ),
    follows(
        "It does not move that session",
        tcp(V4, sport=7),
        (*OPEN4, Age(1001), MOVED, NEW4, tcp(V4, "A")),
        REDIRECTED,
    ),
    existing(
        "An ACK of a flow that nobody knows, of a client that is remembered",
        tcp(V4, "A", sport=9),
        before=(*OPEN4, Age(1001), MOVED),
        rung=Rung.LATE,
        events=BEGUN,
    ),
]

MOVE = [
    begins(
        "A new flow of a session whose backend is gone moves the session",
        NEW4,
        (*OPEN4, GONE),
        events=(FLOW, Event.SESSION_MOVED),
    ),
    follows("It stays where it was moved to", tcp(V4, sport=7), (*OPEN4, GONE, NEW4), REDIRECTED),
    begins(
        "An open flow of a session whose backend is gone moves the session as well",
        tcp(V4, "A"),
        (*OPEN4, GONE),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, Event.STALE_BACKEND, Event.SESSION_MOVED),
    ),
    dropped(
        "A session whose backend is gone, with nowhere to go",
        NEW4,
        Verdict.DROP_NO_BACKEND,
        before=(*OPEN4, EMPTIED, Changes(backends_removed=(BackendId(IPIP4),))),
    ),
]

CASES: list[Case] = [*FOLLOW, *RANGES, *EXPIRE, *LATE, *MOVE]
