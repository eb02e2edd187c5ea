# SPDX-License-Identifier: Apache-2.0
"""Where nobody knows better: sessions at backends without a row, guesses of other directors, and
later fragments, which have no ports to be asked for by.
"""

from typing import Any

from limpet.datapath.abi import Event, ExceptionFlag, Rung
from packets.case import Age, Case, Step, Tell, entropy_of_fragment, existing, tcp, udp
from packets.cases_directory import (
    ANSWER,
    ASK,
    DOWN,
    FLOW,
    MEMBER,
    NEW4,
    OPEN4,
    SPLIT,
    V4,
    V6,
    flow,
    member,
    news,
    session,
)
from packets.cases_fragment import ID, later
from packets.cases_icmp import error4, quote4
from packets.world import ALONE4, IPIP4, L2, NO_ROW, REDIRECTED

OPEN_UDP = (udp(V4), udp(V4))


def fragment(name: str, rung: Rung, *before: Step, vip: str = V4, **more: Any) -> Case:
    """A later fragment without its first, of a client whose session is elsewhere, as told."""
    told = Tell(
        session(vip, protocol="udp"),
        more.pop("backend", REDIRECTED),
        more.pop("flags", 0),
        more.pop("since", 0),
    )
    to = more.pop("to", REDIRECTED)
    expected = {"bits": entropy_of_fragment(vip, 17, ID), "events": ()} | more
    return member(name, later(vip), to, rung, *before, told, **expected)


GONE = Event.ORPHAN_BACKEND
NOWHERE = [
    member(
        "An ACK of a session at a backend without a row is an orphan, which says nothing of it",
        tcp(V4, "A"),
        IPIP4,
        Rung.ORPHAN,
        Tell(session(), NO_ROW),
        events=(FLOW, GONE),
    ),
    member(
        "An IPv6 ACK of such a session is",
        tcp(V6, "A"),
        IPIP4,
        Rung.ORPHAN,
        Tell(session(V6), NO_ROW),
        events=(FLOW, GONE),
    ),
    member(
        "An error about a flow of such a session is",
        error4(quote4()),
        IPIP4,
        Rung.ORPHAN,
        Tell(session(), NO_ROW),
        named=tcp(V4),
        events=(GONE,),
    ),
    member(
        "The session here goes on until a new flow comes",
        NEW4,
        IPIP4,
        Rung.HOME_NEW,
        *(*OPEN4, Age(1), Tell(session(), NO_ROW), tcp(V4, "A", sport=8)),
        events=(FLOW, Event.STALE_BACKEND),
    ),
    member(
        "A flow at a backend without a row is an orphan, and goes with its client's session",
        tcp(V4, "A", sport=9),
        IPIP4,
        Rung.ORPHAN,
        *(*OPEN4, Tell(flow(sport=9), NO_ROW)),
        events=(FLOW, GONE),
    ),
    member(
        "So it is if its owner answered",
        tcp(V4, "A"),
        IPIP4,
        Rung.ORPHAN,
        Tell(flow(), NO_ROW, ANSWER),
        events=(FLOW, GONE),
    ),
    member(
        "A flow that is its own session, at a backend without a row, is no news",
        tcp(ALONE4, "A"),
        IPIP4,
        Rung.ORPHAN,
        Tell(flow(ALONE4), NO_ROW),
        events=(FLOW, GONE),
    ),
]

GUESS = ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN
GUESSES = [
    member(
        "A flow that nobody knows goes where another director guessed, and is no session's",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.ORPHAN,
        Tell(flow(), REDIRECTED, GUESS),
        events=(FLOW, Event.ORPHAN_UNKNOWN),
    ),
    member(
        "An IPv6 flow that nobody knows goes there, too",
        tcp(V6, "A"),
        REDIRECTED,
        Rung.ORPHAN,
        Tell(flow(V6), REDIRECTED, GUESS),
        events=(FLOW, Event.ORPHAN_UNKNOWN),
    ),
    member(
        "Its client is as unknown as before",
        NEW4,
        IPIP4,
        Rung.HOME_NEW,
        *(Tell(flow(), REDIRECTED, GUESS), tcp(V4, "A")),
    ),
    member(
        "A flow that is its own session goes where another director guessed, and is no news",
        tcp(ALONE4, "A"),
        REDIRECTED,
        Rung.ORPHAN,
        Tell(flow(ALONE4), REDIRECTED, GUESS),
        events=(FLOW, Event.ORPHAN_UNKNOWN),
    ),
    member(
        "An error about such a flow goes there",
        error4(quote4()),
        REDIRECTED,
        Rung.ORPHAN,
        Tell(flow(), REDIRECTED, GUESS),
        named=tcp(V4),
        events=(Event.ORPHAN_UNKNOWN,),
    ),
    member(
        "A guess at a backend that is down by now is none, and the flow is an orphan at home",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.ORPHAN,
        *(DOWN, Tell(flow(), IPIP4, GUESS)),
        events=(FLOW, Event.ORPHAN_UNKNOWN),
    ),
    member(
        "A guess says nothing of the next connection with its ports",
        tcp(ALONE4),
        IPIP4,
        Rung.HOME_NEW,
        Tell(flow(ALONE4), REDIRECTED, GUESS),
        events=(FLOW,),
        news=news(flow(ALONE4), IPIP4),
    ),
    existing(
        "Then it has an entry",
        tcp(ALONE4, "A"),
        REDIRECTED,
        before=(Tell(flow(ALONE4), REDIRECTED, GUESS), tcp(ALONE4, "A"), Tell(flow(ALONE4), L2)),
        switches=MEMBER,
    ),
]

FRAGMENTS = [
    fragment("A later fragment goes with its session, as told", Rung.DIRECTORY_EXISTING),
    fragment("A later IPv6 fragment does, too", Rung.DIRECTORY_EXISTING, vip=V6),
    fragment(
        "It does where the session is known here as well, and newer elsewhere",
        Rung.DIRECTORY_EXISTING,
        *(*OPEN_UDP, Age(1)),
    ),
    fragment(
        "Where the session was seen here later, it goes with that",
        Rung.SESSION_EXISTING,
        *OPEN_UDP,
        to=IPIP4,
        since=-1,
    ),
    fragment(
        "Of a client that is split elsewhere, it goes with the client's session: it has no ports",
        Rung.DIRECTORY_EXISTING,
        Tell(session(protocol="udp", ports=1), IPIP4),
        flags=SPLIT | ASK,
    ),
    fragment(
        "Where the session is at a backend without a row, it goes home, and is counted",
        Rung.HOME_FRAGMENT,
        backend=NO_ROW,
        to=IPIP4,
        events=(Event.STALE_BACKEND,),
    ),
    fragment(
        "Where the session has to leave its backend, it goes home",
        Rung.HOME_FRAGMENT,
        DOWN,
        backend=IPIP4,
    ),
    member(
        "A fragment that follows what was told does not keep alive what is known here",
        udp(V4, sport=9),
        IPIP4,
        Rung.FREEST,
        *(*OPEN_UDP, Age(99), Tell(session(protocol="udp"), L2, until=1), later(V4), Age(2)),
        news=news(session(protocol="udp"), IPIP4),
    ),
]

CASES = [*NOWHERE, *GUESSES, *FRAGMENTS]
