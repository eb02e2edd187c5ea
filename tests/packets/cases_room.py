# SPDX-License-Identifier: Apache-2.0
"""Sessions where there is no room: rates, full buckets of the session table, and who makes room."""

from limpet.datapath.abi import Event
from packets.case import Age, Case, Step, Sweep, existing, forwarded, tcp
from packets.cases_session import BEGUN, FLOW, MOVED, NEW4, OTHER4, SESSION, V4, begins, follows
from packets.world import Switches, session_buckets

REFUSING = Switches(flows_are_refused=True, flows_first=1)
ONE, TWO = Switches(session_buckets=1), Switches(session_buckets=2)
CLIENTS = [f"198.51.100.{n}" for n in range(100, 220)]
ZERO = [client for client in CLIENTS if session_buckets(client, V4, 2) == (0, 1)]
OTHERS = [client for client in CLIENTS if session_buckets(client, V4, 2) == (1, 0)]


def live(clients: list[str]) -> tuple[Step, ...]:
    """Sessions of which nobody makes room."""
    return tuple(
        step for client in clients for step in (tcp(V4, client=client), tcp(V4, "A", client=client))
    )


def opened(clients: list[str]) -> tuple[Step, ...]:
    return tuple(tcp(V4, client=client) for client in clients)


FULL = [
    follows(
        "Over the rate limit a new flow goes with its session, without an entry",
        NEW4,
        (tcp(V4),),
        events=(Event.REFUSED_RATE,),
        switches=REFUSING,
    ),
    forwarded(
        "Over the rate limit nobody begins a session",
        tcp(V4, client=OTHER4),
        before=(tcp(V4),),
        events=(Event.REFUSED_RATE,),
        switches=REFUSING,
    ),
    forwarded(
        "A flow that finds no room has a session all the same",
        tcp(V4, client=OTHER4),
        before=tuple(
            tcp(V4, flags, sport=port) for port in range(1000, 1008) for flags in ("S", "A")
        ),
        events=(Event.REFUSED_FULL, SESSION),
        switches=Switches(buckets=1),
    ),
    forwarded(
        "Four live sessions fill a bucket: a fifth client has none",
        tcp(V4, client=CLIENTS[4]),
        before=live(CLIENTS[:4]),
        events=(FLOW, Event.SESSION_FULL),
        switches=ONE,
    ),
    begins(
        "A flow without a session stays by its own entry, another goes home",
        tcp(V4, client=CLIENTS[4], sport=7),
        (*live(CLIENTS[:5]), MOVED),
        events=(FLOW, Event.SESSION_FULL),
        switches=ONE,
    ),
    existing(
        "A flow without a session stays",
        tcp(V4, "A", client=CLIENTS[4]),
        before=(*live(CLIENTS[:5]), MOVED),
        switches=ONE,
    ),
    forwarded(
        "A session without an established flow makes room",
        tcp(V4, client=CLIENTS[4]),
        before=opened(CLIENTS[:4]),
        events=(*BEGUN, Event.SESSION_EVICTED),
        switches=ONE,
    ),
    begins(
        "The first of several makes room",
        tcp(V4, client=CLIENTS[0], sport=7),
        (*opened(CLIENTS[:5]), MOVED),
        events=(*BEGUN, Event.SESSION_EVICTED),
        switches=ONE,
    ),
    follows(
        "A session that made room begins anew when its flow is established",
        tcp(V4, client=CLIENTS[0], sport=7),
        (*opened(CLIENTS[:5]), tcp(V4, "A", client=CLIENTS[0]), MOVED),
        switches=ONE,
    ),
    follows(
        "A live session outlives a flood of handshakes",
        tcp(V4, client=CLIENTS[0], sport=7),
        (*live(CLIENTS[:1]), *opened(CLIENTS[1:30]), MOVED),
        switches=ONE,
    ),
    forwarded(
        "An expired session makes room",
        tcp(V4, client=CLIENTS[4]),
        before=(*live(CLIENTS[:4]), Age(1001)),
        switches=ONE,
    ),
    forwarded(
        "A session that is only remembered makes room",
        tcp(V4, client=CLIENTS[4]),
        before=(*live(CLIENTS[:4]), Age(1001), Sweep()),
        switches=ONE,
    ),
    forwarded(
        "With as many free places in the first bucket as in the second, a session stays",
        tcp(V4, client=ZERO[2]),
        before=(*live(ZERO[:2]), *live(OTHERS[:2])),
        events=BEGUN,
        switches=TWO,
    ),
    forwarded(
        "A crowded bucket spills into the second, where more is free",
        tcp(V4, client=ZERO[2]),
        before=live(ZERO[:2]),
        events=(*BEGUN, Event.SESSION_SPILLED),
        switches=TWO,
    ),
    follows(
        "A session that was spilled is found",
        tcp(V4, client=ZERO[2], sport=7),
        (*live(ZERO[:3]), MOVED),
        switches=TWO,
    ),
    follows(
        "A packet keeps a spilled session alive",
        tcp(V4, client=ZERO[2], sport=7),
        (*live(ZERO[:3]), Age(600), tcp(V4, "A", client=ZERO[2]), Age(600), MOVED),
        switches=TWO,
    ),
    forwarded(
        "A free place in the second bucket comes before an opening in the first",
        tcp(V4, client=ZERO[7]),
        before=opened(ZERO[:7]),
        events=(*BEGUN, Event.SESSION_SPILLED),
        switches=TWO,
    ),
    forwarded(
        "An opening in the first bucket comes before one in the second",
        tcp(V4, client=ZERO[8]),
        before=opened(ZERO[:8]),
        events=(*BEGUN, Event.SESSION_EVICTED),
        switches=TWO,
    ),
    forwarded(
        "With only live sessions in the first, an opening in the second makes room",
        tcp(V4, client=ZERO[8]),
        before=(*live(ZERO[:7]), *opened(ZERO[7:8])),
        events=(*BEGUN, Event.SESSION_SPILLED, Event.SESSION_EVICTED),
        switches=TWO,
    ),
    forwarded(
        "Both buckets full of live sessions: none more",
        tcp(V4, client=ZERO[4]),
        before=(*live(ZERO[:4]), *live(OTHERS[:4])),
        events=(FLOW, Event.SESSION_FULL),
        switches=TWO,
    ),
]

CASES: list[Case] = FULL
