# SPDX-License-Identifier: Apache-2.0
"""News: what other directors are told; and clients that are split, there or here."""

from limpet.datapath.abi import Event, Rung, Slot
from packets.case import Age, Case, Sweep, Tell, existing, forwarded, tcp
from packets.cases_directory import (
    ASK,
    DRAINING,
    FLOW,
    KNOWN,
    MEMBER,
    MOVED,
    NEW4,
    OPEN4,
    SESSION,
    SPLIT,
    V4,
    V6,
    flow,
    marked,
    member,
    news,
    session,
)
from packets.cases_policy import TURNS
from packets.cases_split import BASE4, FAR, FAR4, OPEN, opened
from packets.world import ALONE4, IPIP4, L2, MANY4, REDIRECTED, ROUND4

OF_RANGE, OF_CLIENT = session(MANY4, 1 + FAR // 4_096), session(MANY4)
SPLITS = [
    member(
        "A client that was split elsewhere begins a session of its range here",
        tcp(MANY4, sport=FAR),
        FAR4,
        Rung.HOME_NEW,
        Tell(OF_CLIENT, BASE4, SPLIT | ASK),
        news=news(OF_RANGE, FAR4, ASK),
    ),
    member(
        "The session of its range is where it was told to be",
        tcp(MANY4, sport=FAR),
        L2,
        Rung.DIRECTORY_NEW,
        *(Tell(OF_CLIENT, BASE4, SPLIT | ASK), Tell(OF_RANGE, L2)),
        news=news(OF_RANGE, L2, ASK),
    ),
    member(
        "A client that was split elsewhere and known here goes on by range",
        tcp(MANY4, sport=FAR),
        FAR4,
        Rung.HOME_NEW,
        *(tcp(MANY4), tcp(MANY4, "A"), Tell(OF_CLIENT, BASE4, SPLIT | ASK)),
        news=news(OF_RANGE, FAR4, ASK),
    ),
    member(
        "When a client is split here, the others hear where its session is",
        tcp(MANY4, sport=FAR),
        FAR4,
        Rung.HOME_NEW,
        *opened(MANY4, OPEN),
        events=(FLOW, SESSION, Event.CLIENT_SPLIT),
        news=news(OF_CLIENT, BASE4, SPLIT | ASK),
    ),
    existing(
        "They hear of it when a late flow splits it, too",
        tcp(MANY4, "A", sport=FAR),
        BASE4,
        before=(*opened(MANY4, range(FAR, FAR + 1)), Age(1001), Sweep(), *opened(MANY4, OPEN)),
        rung=Rung.LATE,
        events=(SESSION, Event.CLIENT_SPLIT),
        news=news(OF_CLIENT, IPIP4, SPLIT | ASK) + news(OF_RANGE, BASE4),
        switches=MEMBER,
    ),
]

TELL = marked(IPIP4, mark=Slot.TELL)
MOVES = marked(REDIRECTED, mark=0)
TELLING = [
    member("A session at home is no news", tcp(V4), IPIP4, Rung.HOME_NEW),
    member(
        "Where others would look elsewhere, it is",
        tcp(V4),
        IPIP4,
        Rung.HOME_NEW,
        TELL,
        news=news(session(), IPIP4),
    ),
    member(
        "An IPv6 session is",
        tcp(V6),
        IPIP4,
        Rung.HOME_NEW,
        TELL,
        news=news(session(V6), IPIP4),
    ),
    member(
        "A flow that is its own session is news there as well",
        tcp(ALONE4),
        IPIP4,
        Rung.HOME_NEW,
        TELL,
        news=news(flow(ALONE4), IPIP4),
    ),
    forwarded("Of a director that stands alone nobody hears", tcp(V4), before=(TELL,)),
    member(
        "A session that is not at home is news",
        tcp(ROUND4),
        TURNS[0],
        Rung.ROUND_ROBIN,
        news=news(session(ROUND4), TURNS[0]),
    ),
    member(
        "A second flow of a session is none", NEW4, IPIP4, Rung.SESSION_NEW, TELL, *OPEN4, **KNOWN
    ),
    member(
        "A client that returns is news, wherever it goes: others may know its old session",
        NEW4,
        IPIP4,
        Rung.FREEST,
        *(*OPEN4, Age(1001), Sweep()),
        news=news(session(), IPIP4),
    ),
    member(
        "One that returns to another backend may have left flows asleep: they have to be asked for",
        NEW4,
        REDIRECTED,
        Rung.FREEST,
        *(*OPEN4, Age(1001), Sweep(), MOVES),
        news=news(session(), REDIRECTED, ASK),
    ),
    member(
        "A session that leaves its backend is news, and its flows may have stayed",
        NEW4,
        REDIRECTED,
        Rung.HOME_NEW,
        *(*OPEN4, DRAINING),
        events=(FLOW, MOVED),
        news=news(session(), REDIRECTED, ASK),
    ),
    existing(
        "A late flow whose client has no session any more begins one, and that is news",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), Sweep(), Age(300), MOVES),
        rung=Rung.LATE,
        events=(SESSION,),
        news=news(session(), IPIP4),
        switches=MEMBER,
    ),
    member("An ACK that goes home is no news", tcp(V4, "A"), IPIP4, Rung.HOME_EXISTING),
]

CASES: list[Case] = [*SPLITS, *TELLING]
