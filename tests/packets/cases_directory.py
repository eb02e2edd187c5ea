# SPDX-License-Identifier: Apache-2.0
"""The directory: sessions and flows that other directors told of, and what they are told."""

from typing import Any

from limpet.core.diff import Changes
from limpet.core.model import Standing
from limpet.datapath.abi import Event, ExceptionFlag, ExceptionKind, Rung
from limpet.datapath.reference import Name, News
from packets.case import Age, Case, Step, Tell, existing, forwarded, tcp, udp
from packets.cases_icmp import error4, error6, quote4, quote6
from packets.cases_policy import stands
from packets.world import (
    ALONE4,
    ALONE6,
    CLIENT4,
    CLIENT6,
    IPIP4,
    L2,
    NO_ROW,
    RANGES4,
    RANGES6,
    REDIRECTED,
    VIP4,
    VIP6,
    Switches,
    client_under,
    pool,
    vip_id,
    words_of,
)

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
MEMBER = Switches(is_member=True)
FLOW, SESSION = Event.FLOW_CREATED, Event.SESSION_CREATED
MOVED, OVERRULED = Event.SESSION_MOVED, Event.SESSION_OVERRULED
BEGUN = (FLOW, SESSION)
ASK, SPLIT, ANSWER = ExceptionFlag.ASK, ExceptionFlag.SPLIT, ExceptionFlag.ANSWER
OPEN4, OPEN6 = (tcp(V4), tcp(V4, "A")), (tcp(V6), tcp(V6, "A"))
NEW4, NEW6 = tcp(V4, sport=9), tcp(V6, sport=9)
# Backend IPIP4 has this standing in the pool of V4, whose home is REDIRECTED then.
DRAINING, DOWN = (
    stands(Standing.LEFT_BY_SESSIONS),
    stands(Standing.LEFT_BY_SESSIONS | Standing.LEFT_BY_FLOWS),
)


def marked(*homes: int, mark: int, number: int = IPIP4) -> Changes:
    """A pool's slots have these homes and marks."""
    return Changes(pools_put=(pool(number, *homes, generation=2, mark=mark),))


def client_of(vip: str) -> str:
    return CLIENT4 if "." in vip else CLIENT6


def session(vip: str = V4, ports: int = 0, protocol: str = "tcp") -> Name:
    """The session of the client, or of a range of its ports."""
    under = client_under(vip, client_of(vip), protocol)
    return Name(under, ports, vip_id(vip, protocol), ExceptionKind.SESSION)


def flow(vip: str = V4, sport: int = 1234, dport: int = 80, protocol: str = "tcp") -> Name:
    """One flow of the client."""
    client, ports = words_of(client_of(vip)), sport << 16 | dport
    return Name(client, ports, vip_id(vip, protocol), ExceptionKind.FLOW)


def news(name: Name, backend: int, flags: int = 0) -> tuple[News, ...]:
    return (News(name, 0, backend, flags),)


def member(name: str, packet: Any, to: int, rung: Rung, *before: Step, **more: Any) -> Case:
    """A packet at a director of a cluster, whom nobody is told of unless it is said."""
    return forwarded(name, packet, to, rung=rung, before=before, **{"switches": MEMBER} | more)


def told(name: str, packet: Any, rung: Rung, key: Name, *before: Step, **more: Any) -> Case:
    """Another director said that this session is at REDIRECTED: so it is, here too."""
    expected = {"news": news(key, REDIRECTED)} | more
    return member(name, packet, REDIRECTED, rung, *before, Tell(key, REDIRECTED), **expected)


OF_DATAGRAMS = flow(ALONE4, 5353, 53, "udp")
NEW = [
    told("A new flow goes where its session is, as told", tcp(V4), Rung.DIRECTORY_NEW, session()),
    told("A new IPv6 flow goes there", tcp(V6), Rung.DIRECTORY_NEW, session(V6)),
    told(
        "A new UDP flow does",
        udp(V4),
        Rung.DIRECTORY_NEW,
        session(V4, protocol="udp"),
    ),
    told(
        "A new flow of a range of ports goes where the session of the range is",
        tcp(RANGES4, sport=40_000),
        Rung.DIRECTORY_NEW,
        session(RANGES4, 1 + 40_000 // 16_384),
    ),
    told(
        "A new IPv6 flow of a range does",
        tcp(RANGES6, sport=20_000),
        Rung.DIRECTORY_NEW,
        session(RANGES6, 1 + 20_000 // 16_384),
    ),
    told(
        "A new flow that is its own session goes where that is",
        tcp(ALONE4),
        Rung.DIRECTORY_NEW,
        flow(ALONE4),
    ),
    told(
        "An IPv6 datagram of a flow that is its own session does",
        udp(ALONE6),
        Rung.DIRECTORY_NEW,
        flow(ALONE6, 5353, 53, "udp"),
    ),
    member(
        "A datagram of a flow that was told of stays at a backend that only new sessions leave",
        udp(ALONE4),
        IPIP4,
        Rung.DIRECTORY_NEW,
        *(DRAINING, Tell(OF_DATAGRAMS, IPIP4)),
        news=news(OF_DATAGRAMS, IPIP4),
    ),
    member(
        "At its last tick what was told still counts",
        tcp(V4),
        REDIRECTED,
        Rung.DIRECTORY_NEW,
        Tell(session(), REDIRECTED, until=3),
        Age(3),
        news=news(session(), REDIRECTED),
    ),
    member(
        "After it it does not, and the others hear where the session is now",
        tcp(V4),
        IPIP4,
        Rung.HOME_NEW,
        Tell(session(), REDIRECTED, until=3),
        Age(4),
        news=news(session(), IPIP4),
    ),
    member(
        "A backend that sessions leave gets no new flow of what was told",
        tcp(V4),
        REDIRECTED,
        Rung.HOME_NEW,
        DRAINING,
        Tell(session(), IPIP4),
        news=news(session(), REDIRECTED),
    ),
    member(
        "Nor does a backend without a row",
        tcp(V4),
        IPIP4,
        Rung.HOME_NEW,
        Tell(session(), NO_ROW),
        events=(*BEGUN, Event.STALE_BACKEND),
        news=news(session(), IPIP4),
    ),
    member(
        "An exception of a flow says nothing of the next connection with its ports",
        tcp(V4),
        IPIP4,
        Rung.HOME_NEW,
        Tell(flow(), REDIRECTED),
    ),
    forwarded(
        "A director that stands alone looks at no directory",
        tcp(V4),
        before=(Tell(session(), REDIRECTED),),
    ),
]

KNOWN: dict[str, Any] = {"events": (FLOW,), "news": ()}
EXISTING = [
    told("An ACK goes with its session", tcp(V4, "A"), Rung.DIRECTORY_EXISTING, session()),
    told("An IPv6 ACK goes with its session", tcp(V6, "A"), Rung.DIRECTORY_EXISTING, session(V6)),
    told(
        "FIN goes with its session, and begins none",
        tcp(V4, "FA"),
        Rung.DIRECTORY_EXISTING,
        session(),
        events=(),
        news=(),
    ),
    told(
        "An error about an unknown flow goes with its session",
        error4(quote4()),
        Rung.DIRECTORY_EXISTING,
        session(),
        named=tcp(V4),
        events=(),
        news=(),
    ),
    told(
        "An IPv6 error about an unknown flow goes with its session",
        error6(quote6()),
        Rung.DIRECTORY_EXISTING,
        session(V6),
        named=tcp(V6),
        events=(),
        news=(),
    ),
    member(
        "An ACK stays at a backend that only new flows leave",
        tcp(V4, "A"),
        IPIP4,
        Rung.DIRECTORY_EXISTING,
        DRAINING,
        Tell(session(), IPIP4),
        news=news(session(), IPIP4),
    ),
    member(
        "An ACK leaves a backend that is down",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.HOME_EXISTING,
        DOWN,
        Tell(session(), IPIP4),
        news=news(session(), REDIRECTED),
    ),
    told(
        "A flow of which another director told is there, and the client's session begins there",
        tcp(V4, "A"),
        Rung.DIRECTORY_EXISTING,
        flow(),
        news=news(session(), REDIRECTED),
    ),
    told(
        "A flow that its session has left behind stays alone, and the others know it",
        tcp(V4, "A"),
        Rung.DIRECTORY_EXISTING,
        flow(),
        tcp(V4, sport=9),
        events=(FLOW,),
    ),
    member(
        "It does where the session is known from others alone",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.DIRECTORY_EXISTING,
        Tell(session(), L2),
        Tell(flow(), REDIRECTED),
        events=(FLOW,),
        news=news(flow(), REDIRECTED),
    ),
    member(
        "A flow whose owner answered goes there",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.OWNER,
        Tell(flow(), REDIRECTED, ANSWER),
        news=news(session(), REDIRECTED),
    ),
    member(
        "An IPv6 flow whose owner answered does",
        tcp(V6, "A"),
        REDIRECTED,
        Rung.OWNER,
        Tell(flow(V6), REDIRECTED, ANSWER),
        news=news(session(V6), REDIRECTED),
    ),
    member(
        "The answer counts for more than the client's session, and that stays",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.OWNER,
        *(tcp(V4, sport=9), Tell(flow(), REDIRECTED, ANSWER)),
        **KNOWN,
    ),
    member(
        "A flow that is its own session goes where its owner answered, and the others hear of it",
        tcp(ALONE4, "A"),
        REDIRECTED,
        Rung.OWNER,
        Tell(flow(ALONE4), REDIRECTED, ANSWER),
        news=news(flow(ALONE4), REDIRECTED),
    ),
    existing(
        "A flow that was answered for has an entry from then on",
        tcp(V4, "A"),
        REDIRECTED,
        before=(Tell(flow(), REDIRECTED, ANSWER), tcp(V4, "A"), Tell(flow(), L2, ANSWER)),
        switches=MEMBER,
    ),
]

NEWER = [
    told(
        "A session that went on elsewhere follows what was told of it",
        NEW4,
        Rung.DIRECTORY_NEW,
        session(),
        *(*OPEN4, Age(1)),
        events=(FLOW, MOVED, OVERRULED),
    ),
    told(
        "An IPv6 session does",
        NEW6,
        Rung.DIRECTORY_NEW,
        session(V6),
        *(*OPEN6, Age(1)),
        events=(FLOW, MOVED, OVERRULED),
    ),
    told(
        "It does with an ACK of an unknown flow",
        tcp(V4, "A", sport=9),
        Rung.DIRECTORY_EXISTING,
        session(),
        *(*OPEN4, Age(1)),
        events=(FLOW, MOVED, OVERRULED),
    ),
    told(
        "FIN of an unknown flow goes there, and moves no session",
        tcp(V4, "FA", sport=9),
        Rung.DIRECTORY_EXISTING,
        session(),
        *(*OPEN4, Age(1)),
        events=(),
        news=(),
    ),
    member(
        "A flow that is elsewhere with its session makes what is known here no newer",
        NEW4,
        REDIRECTED,
        Rung.DIRECTORY_NEW,
        *(*OPEN4, Age(1), Tell(session(), REDIRECTED)),
        *(Tell(flow(sport=8), REDIRECTED, ANSWER), tcp(V4, "A", sport=8)),
        events=(FLOW, MOVED, OVERRULED),
        news=news(session(), REDIRECTED),
    ),
    member(
        "Nor does one that its session has left behind",
        NEW4,
        REDIRECTED,
        Rung.DIRECTORY_NEW,
        *(*OPEN4, Age(100), Tell(session(), REDIRECTED), Tell(flow(sport=8), IPIP4, ANSWER)),
        *(tcp(V4, "A", sport=8), Age(100), tcp(V4, "A", sport=8)),
        events=(FLOW, MOVED, OVERRULED),
        news=news(session(), REDIRECTED),
    ),
    member(
        "A session that was seen here later stays",
        NEW4,
        IPIP4,
        Rung.SESSION_NEW,
        *(*OPEN4, Tell(session(), REDIRECTED, since=-1)),
        **KNOWN,
    ),
    member(
        "In the same tick it stays as well",
        NEW4,
        IPIP4,
        Rung.SESSION_NEW,
        *(*OPEN4, Tell(session(), REDIRECTED)),
        **KNOWN,
    ),
    member(
        "A session that was told to be here is here",
        NEW4,
        IPIP4,
        Rung.SESSION_NEW,
        *(*OPEN4, Age(1), Tell(session(), IPIP4)),
        **KNOWN,
    ),
    existing(
        "Flows that are open stay when their session goes on elsewhere",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1), Tell(session(), REDIRECTED), NEW4),
        switches=MEMBER,
    ),
    member(
        "A session that had expired here goes on where it was told to be",
        NEW4,
        REDIRECTED,
        Rung.DIRECTORY_NEW,
        *(*OPEN4, Age(1001), Tell(session(), REDIRECTED)),
        news=news(session(), REDIRECTED),
    ),
    member(
        "The time of a session that was overruled goes on as if no packet had come",
        NEW4,
        IPIP4,
        Rung.FREEST,
        *(*OPEN4, Age(999), Tell(session(), REDIRECTED, until=1), tcp(V4, "FA", sport=8), Age(2)),
        news=news(session(), IPIP4),
    ),
]

CASES = [*NEW, *EXISTING, *NEWER]
