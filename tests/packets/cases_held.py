# SPDX-License-Identifier: Apache-2.0
"""Packets that wait: existing flows that may belong elsewhere, of which others are asked."""

from dataclasses import replace
from typing import Any

from scapy.all import Dot1Q, Ether, Raw
from scapy.packet import Packet

from limpet.core.diff import Changes
from limpet.core.model import NextHop, Standing
from limpet.datapath.abi import Event, ExceptionFlag, Limit, Rung, Slot, Verdict
from limpet.datapath.reference import Held
from packets.case import (
    Age,
    Case,
    Step,
    Sweep,
    Tell,
    dropped,
    entropy_of_fragment,
    forwarded,
    tcp,
    udp,
)
from packets.cases_directory import (
    ANSWER,
    ASK,
    FLOW,
    MEMBER,
    OPEN4,
    V4,
    V6,
    client_of,
    flow,
    marked,
    member,
    news,
    session,
)
from packets.cases_fragment import ID, later
from packets.cases_icmp import error4, error6, quote4, quote6
from packets.cases_news import MOVES
from packets.cases_policy import stands
from packets.world import (
    ALONE4,
    DIRECTOR,
    INGRESS,
    IPIP4,
    NO_ROW,
    RANGES4,
    REDIRECTED,
    ROUTER,
    ROWS,
    SPLIT,
    Switches,
    vip_id,
    words_of,
)

OTHER4 = "198.51.100.8"
DOWN_AND_UNSURE = stands(Standing.LEFT_BY_SESSIONS | Standing.LEFT_BY_FLOWS, Slot.UNSURE)
UNSURE = marked(IPIP4, mark=Slot.UNSURE)
ORPHAN = ExceptionFlag.ORPHAN
LIMITED = Switches(is_member=True, queries_are_refused=True)
TWO = Switches(is_member=True, client_queries=2)
TOO_LONG, UNKNOWN, RATE = Event.ORPHAN_TOO_LONG, Event.ORPHAN_UNKNOWN, Event.ORPHAN_RATE


def waits(
    name: str,
    packet: Any,
    *before: Step,
    vip: str = V4,
    client: str = "",
    port: int = 1234,
    is_error: bool = False,
    switches: Switches = MEMBER,
) -> Case:
    """A packet that is put aside as it came."""
    held = Held(
        client=words_of(client or client_of(vip)),
        vip_address=words_of(vip),
        ifindex=INGRESS,
        tick=0,
        client_port=port,
        vip_port=80,
        vip=vip_id(vip),
        protocol=6,
        family=4 if "." in vip else 6,
        is_error=is_error,
        frame=bytes(packet),
    )
    return Case(name, packet, Verdict.HELD, held=held, before=before, switches=switches)


def orphan(name: str, packet: Any, why: Event, *before: Step, **more: Any) -> Case:
    """A packet that goes home, and may be wrong there."""
    expected = {"events": (FLOW, why)} | more
    return member(name, packet, IPIP4, Rung.ORPHAN, *before, **expected)


def long(size: int) -> Packet:
    """A segment in a frame of so many bytes."""
    empty = len(bytes(tcp(V4, "A")))
    return tcp(V4, "A") / Raw(bytes(size - empty))


def _roomy() -> Changes:
    """The way to the backend carries frames longer than those that may wait."""
    row = next(row for row in ROWS if row.id == IPIP4)
    hop = row.next_hop
    assert hop is not None
    wide = NextHop(hop.ifindex, hop.mac, hop.source_mac, 9_000)
    return Changes(backends_put=(replace(row, next_hop=wide),))


WAIT = [
    waits("An ACK of an unknown flow waits where its slot is unsure", tcp(V4, "A"), UNSURE),
    waits("An IPv6 ACK does", tcp(V6, "A"), UNSURE, vip=V6),
    waits("FIN does", tcp(V4, "FA"), UNSURE),
    waits("RST does", tcp(V4, "R"), UNSURE),
    waits("A segment with data does", tcp(V4, "PA") / Raw(b"data"), UNSURE),
    waits(
        "A segment behind a VLAN tag waits with it",
        Ether(src=ROUTER, dst=DIRECTOR) / Dot1Q(vlan=5) / tcp(V4, "A").payload,
        UNSURE,
    ),
    waits(
        "An error about an unknown flow waits, under the name of that flow",
        error4(quote4()),
        UNSURE,
        is_error=True,
    ),
    waits("An IPv6 error does", error6(quote6()), UNSURE, vip=V6, is_error=True),
    waits(
        "A segment of a flow that is its own session waits", tcp(ALONE4, "A"), UNSURE, vip=ALONE4
    ),
    waits(
        "A segment of a range of ports waits",
        tcp(RANGES4, "A"),
        marked(IPIP4, number=SPLIT, mark=Slot.UNSURE),
        vip=RANGES4,
    ),
    waits("The longest frame that may wait waits", long(Limit.HELD_FRAME), UNSURE),
    waits(
        "A segment of a session at a backend without a row does, if its slot is unsure",
        tcp(V4, "A"),
        *(UNSURE, Tell(session(), NO_ROW)),
    ),
    waits(
        "Where flows of a session may be elsewhere, an ACK waits although its slot is sure",
        tcp(V4, "A"),
        Tell(session(), REDIRECTED, ASK),
    ),
    waits(
        "It waits although the session is known here as well",
        tcp(V4, "A", sport=9),
        *(*OPEN4, Tell(session(), IPIP4, ASK)),
        port=9,
    ),
    waits(
        "An ACK of a client whose session has expired waits, if its slot has moved since",
        tcp(V4, "A", sport=9),
        *(*OPEN4, Age(1001), Sweep(), MOVES),
        port=9,
    ),
    waits(
        "The answer that nobody knew it does not count for ever",
        tcp(V4, "A"),
        *(UNSURE, Tell(flow(), 0, ORPHAN, until=2), Age(3)),
    ),
    waits(
        "A second packet of a flow that waits does as well",
        tcp(V4, "A"),
        *(UNSURE, tcp(V4, "A")),
    ),
]

GO = [
    member("A SYN waits for nobody", tcp(V4), IPIP4, Rung.HOME_NEW, UNSURE),
    member("A datagram does not wait", udp(V4), IPIP4, Rung.HOME_NEW, UNSURE),
    member(
        "A later fragment does not: it has no ports to ask for",
        later(V4),
        IPIP4,
        Rung.HOME_FRAGMENT,
        UNSURE,
        bits=entropy_of_fragment(V4, 17, ID),
        events=(),
    ),
    member(
        "A SYN of a session with flows elsewhere does not wait, and the others hear the same of it",
        tcp(V4),
        REDIRECTED,
        Rung.DIRECTORY_NEW,
        Tell(session(), REDIRECTED, ASK),
        news=news(session(), REDIRECTED, ASK),
    ),
    member(
        "Nor does an ACK of a live session",
        tcp(V4, "A", sport=9),
        IPIP4,
        Rung.SESSION_EXISTING,
        *(*OPEN4, UNSURE),
        events=(FLOW,),
    ),
    member(
        "Nor does a flow that is known",
        tcp(V4, "A"),
        IPIP4,
        Rung.TABLE,
        *(*OPEN4, UNSURE),
        events=(),
    ),
    member(
        "Nor does a flow that was answered for",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.OWNER,
        *(UNSURE, tcp(V4, "A"), Tell(flow(), REDIRECTED, ANSWER)),
        news=news(session(), REDIRECTED),
    ),
    member(
        "An error about a flow that was answered for follows the answer",
        error4(quote4()),
        REDIRECTED,
        Rung.OWNER,
        *(UNSURE, Tell(flow(), REDIRECTED, ANSWER)),
        named=tcp(V4),
        events=(),
    ),
    member(
        "A late packet of a session that has expired at home does not wait",
        tcp(V4, "A", sport=9),
        IPIP4,
        Rung.LATE,
        *(*OPEN4, Age(1001), Sweep()),
        news=news(session(), IPIP4),
    ),
    member(
        "Nor does one whose backend is down by now: it has moved, and others are not asked again",
        tcp(V4, "A"),
        REDIRECTED,
        Rung.HOME_EXISTING,
        *(DOWN_AND_UNSURE, Tell(flow(), IPIP4, ANSWER)),
        events=(FLOW, Event.SESSION_CREATED, Event.FLOW_MOVED),
        news=news(session(), REDIRECTED),
    ),
    forwarded(
        "A director that stands alone asks nobody",
        tcp(V4, "A"),
        before=(UNSURE,),
        rung=Rung.HOME_EXISTING,
    ),
]

ASKED = (tcp(V4, "A", sport=1), tcp(V4, "A", sport=2))
ORPHANS = [
    orphan(
        "A flow that nobody knows goes home, and says nothing of its client",
        tcp(V4, "A"),
        UNKNOWN,
        *(UNSURE, Tell(flow(), 0, ORPHAN)),
    ),
    orphan(
        "An IPv6 flow that nobody knows does",
        tcp(V6, "A"),
        UNKNOWN,
        *(UNSURE, Tell(flow(V6), 0, ORPHAN)),
    ),
    orphan(
        "FIN of a flow that nobody knows goes home, and leaves nothing behind",
        tcp(V4, "FA"),
        UNKNOWN,
        *(UNSURE, Tell(flow(), 0, ORPHAN)),
        events=(UNKNOWN,),
    ),
    orphan(
        "A flow that nobody knows goes to its client's session, if there is one",
        tcp(V4, "A", sport=9),
        UNKNOWN,
        *(*OPEN4, Tell(session(), IPIP4, ASK), Tell(flow(sport=9), 0, ORPHAN)),
        events=(FLOW, UNKNOWN),
    ),
    orphan(
        "A flow that nobody knows and that is its own session is no news",
        tcp(ALONE4, "A"),
        UNKNOWN,
        *(marked(IPIP4, mark=Slot.UNSURE | Slot.TELL), Tell(flow(ALONE4), 0, ORPHAN)),
    ),
    orphan(
        "Over the rate of queries, a flow goes home", tcp(V4, "A"), RATE, UNSURE, switches=LIMITED
    ),
    orphan("An IPv6 flow does", tcp(V6, "A"), RATE, UNSURE, switches=LIMITED),
    orphan(
        "Over the rate of its client, too",
        tcp(V4, "A"),
        RATE,
        *(UNSURE, *ASKED),
        switches=TWO,
    ),
    orphan(
        "Before the time is over, the client has still asked enough",
        tcp(V4, "A"),
        RATE,
        *(UNSURE, *ASKED, Age(3)),
        switches=TWO,
    ),
    waits(
        "Then it may ask again",
        tcp(V4, "A"),
        *(UNSURE, *ASKED, tcp(V4, "A", sport=3), Age(4)),
        switches=TWO,
    ),
    waits(
        "Other clients may meanwhile",
        tcp(V4, "A", client=OTHER4),
        *(UNSURE, *ASKED),
        client=OTHER4,
        switches=TWO,
    ),
    orphan(
        "A frame that is too long to wait goes home",
        long(Limit.HELD_FRAME + 1),
        TOO_LONG,
        *(UNSURE, _roomy()),
    ),
    dropped(
        "An orphan whose slot has no home is dropped",
        tcp(V4, "A"),
        Verdict.DROP_NO_BACKEND,
        before=(marked(0, mark=Slot.UNSURE),),
        events=(RATE,),
        switches=LIMITED,
    ),
]
CASES = [*WAIT, *GO, *ORPHANS]
