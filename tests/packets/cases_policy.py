# SPDX-License-Identifier: Apache-2.0
"""Where new sessions go: by turn, by load, or home; and what a backend's standing says of it."""

from typing import Any

from limpet.core.diff import Changes
from limpet.core.model import BackendId, Policy, Standing
from limpet.core.slots import turns
from limpet.datapath.abi import Event, Rung, Verdict
from limpet.datapath.reference import Reset
from packets.case import Age, Case, Step, Sweep, dropped, existing, forwarded, tcp, udp
from packets.cases_icmp import error4, quote4
from packets.world import (
    ALONE4,
    ALONE6,
    CLIENT4,
    CLIENT6,
    FREE,
    FREE4,
    FREE6,
    IPIP4,
    L2,
    ONE_TO_TWO,
    REDIRECTED,
    ROUND,
    ROUND4,
    ROWS,
    VIP4,
    VIP6,
    Switches,
    pool,
    words_of,
)

FLOW, SESSION = Event.FLOW_CREATED, Event.SESSION_CREATED
CLIENTS = [f"198.51.100.{n}" for n in range(50, 80)]
CLIENTS6 = [f"2001:db8:{n:x}::7" for n in range(0x100, 0x110)]
TURNS = turns(ONE_TO_TWO).tolist()


def came(vip: str, clients: list[str]) -> tuple[Step, ...]:
    """One new session of each."""
    return tuple(tcp(vip, client=client) for client in clients)


def gone(vip: str, clients: list[str]) -> tuple[Step, ...]:
    """Their sessions were live, and have expired."""
    established = tuple(tcp(vip, "A", client=client) for client in clients)
    return (*came(vip, clients), *established, Age(1001), Sweep())


def by(rung: Rung, name: str, packet: Any, to: int, before: tuple[Step, ...] = ()) -> Case:
    return forwarded(name, packet, to, before=before, rung=rung)


ROUND_ROBIN = [
    *(
        by(
            Rung.ROUND_ROBIN,
            f"Round robin: turn {turn}",
            tcp(ROUND4, client=CLIENTS[turn]),
            TURNS[turn],
            came(ROUND4, CLIENTS[:turn]),
        )
        for turn in range(4)
    ),
    forwarded(
        "Round robin: a client that is known takes no turn",
        tcp(ROUND4, client=CLIENTS[1]),
        TURNS[1],
        before=(*came(ROUND4, CLIENTS[:1]), tcp(ROUND4, client=CLIENTS[0], sport=9)),
        rung=Rung.ROUND_ROBIN,
    ),
    forwarded(
        "Whatever the policy, an existing flow of which nothing is known goes home",
        tcp(ROUND4, "A"),
        L2,
        rung=Rung.HOME_EXISTING,
    ),
    forwarded(
        "Whatever the policy, a client that returns is placed by the other one",
        tcp(ROUND4, client=CLIENTS[0]),
        L2,
        before=gone(ROUND4, CLIENTS[:1]),
    ),
    dropped(
        "Round robin without an eligible backend drops",
        tcp(ROUND4),
        Verdict.DROP_NO_BACKEND,
        before=(Changes(pools_put=(pool(ROUND, 0, generation=2, policy=Policy.ROUND_ROBIN),)),),
    ),
]

HEAVY = pool(
    FREE,
    L2,
    generation=2,
    members=((BackendId(IPIP4), 3), (BackendId(REDIRECTED), 1)),
    policy=Policy.LEAST_SESSIONS,
    reassign=Policy.LEAST_SESSIONS,
)
# One session more weighs 2 on IPIP4 and 1 on REDIRECTED; the turn decides who wins among equals.
FREEST = [
    by(Rung.FREEST, "The freest: the larger weight first", tcp(FREE4), REDIRECTED),
    by(
        Rung.FREEST,
        "The freest: of equals the one whose turn it is",
        tcp(FREE4, client=CLIENTS[1]),
        REDIRECTED,
        came(FREE4, CLIENTS[:1]),
    ),
    by(
        Rung.FREEST,
        "The freest: two on the larger leave the smaller",
        tcp(FREE4, client=CLIENTS[2]),
        IPIP4,
        came(FREE4, CLIENTS[:2]),
    ),
    by(
        Rung.FREEST,
        "The freest: IPv6 sessions count like others",
        tcp(FREE6, client=CLIENTS6[2]),
        IPIP4,
        (*came(FREE4, CLIENTS[:1]), *came(FREE6, CLIENTS6[:1])),
    ),
    by(
        Rung.FREEST,
        "The freest: sessions that have expired and were swept do not count",
        tcp(FREE4, client=CLIENTS[9]),
        REDIRECTED,
        gone(FREE4, CLIENTS[:4]),
    ),
    by(
        Rung.FREEST,
        "The freest: sessions of other pools count",
        tcp(FREE4, client=CLIENTS[9]),
        IPIP4,
        came(VIP4[REDIRECTED], CLIENTS[:3]),
    ),
    by(
        Rung.FREEST,
        "The freest: flows of VIPs with affinity flow count one by one",
        tcp(FREE4, client=CLIENTS[9]),
        IPIP4,
        (
            Changes(pools_put=(pool(IPIP4, REDIRECTED, generation=2),)),
            *(tcp(ALONE4, sport=port) for port in range(3)),
        ),
    ),
    by(
        Rung.FREEST,
        "The freest: those that are closing do not count",
        tcp(FREE4, client=CLIENTS[9]),
        REDIRECTED,
        (
            Changes(pools_put=(pool(IPIP4, REDIRECTED, generation=2),)),
            *(tcp(ALONE6, sport=port) for port in range(3)),
            *(tcp(ALONE6, "R", sport=port) for port in range(3)),
        ),
    ),
    by(
        Rung.FREEST,
        "The freest: another weight counts from now on",
        tcp(FREE4, client=CLIENTS[9]),
        IPIP4,
        (*came(FREE4, CLIENTS[:4]), Changes(pools_put=(HEAVY,))),
    ),
    forwarded(
        "A client that returns, by turn",
        tcp(FREE4, client=CLIENTS[0]),
        TURNS[1],
        before=gone(FREE4, CLIENTS[:1]),
        rung=Rung.ROUND_ROBIN,
    ),
    dropped(
        "The freest of none drops",
        tcp(FREE6),
        Verdict.DROP_NO_BACKEND,
        before=(Changes(pools_put=(pool(FREE, 0, generation=2, policy=Policy.LEAST_SESSIONS),)),),
    ),
    dropped(
        "A policy that names a backend without a row drops, and records nothing",
        tcp(FREE4),
        Verdict.DROP_UNKNOWN_BACKEND,
        before=(Changes(backends_removed=(BackendId(REDIRECTED),)),),
    ),
]


# --- Standing -------------------------------------------------------------------------------------

V4, V6 = VIP4[IPIP4], VIP6[IPIP4]
OPEN4, OPEN6 = (tcp(V4), tcp(V4, "A")), (tcp(V6), tcp(V6, "A"))
UDP4 = (udp(V4), udp(V4))
MOVED = Event.SESSION_MOVED


def stands(standing: Standing, mark: int = 0) -> Changes:
    """The backend IPIP4 has a standing in its pool, which has another home by now."""
    row = next(row for row in ROWS if row.id == IPIP4)
    changed = type(row)(row.id, row.address, row.encapsulation, row.next_hop, has_standing=True)
    of_pool = ((BackendId(IPIP4), standing),)
    moved = pool(IPIP4, REDIRECTED, generation=2, mark=mark, standing=of_pool)
    return Changes((changed,), (moved,))


LEFT = stands(Standing.LEFT_BY_SESSIONS)
LEFT_BY_ALL = stands(Standing.LEFT_BY_SESSIONS | Standing.LEFT_BY_FLOWS)
RESETTING = stands(Standing.LEFT_BY_SESSIONS | Standing.RESET)


def leaves(name: str, packet: Any, before: tuple[Step, ...], **more: Any) -> Case:
    """A packet that goes to the other backend now."""
    return forwarded(name, packet, REDIRECTED, before=before, **more)


def is_reset(name: str, packet: Any, before: tuple[Step, ...], **more: Any) -> Case:
    """A packet at which the daemon is told to reset its flow. Sequence 7, acknowledged 9."""
    vip, client = (V6, CLIENT6) if packet.type == 0x86DD else (V4, CLIENT4)
    told = Reset(words_of(client), words_of(vip), 7, 9, 1234, 80, IPIP4, 6 if vip == V6 else 4)
    return Case(name, packet, Verdict.RESET, before=before, reset=told, **more)


def segment(vip: str, flags: str) -> Any:
    packet = tcp(vip, flags)
    packet["TCP"].seq, packet["TCP"].ack = 7, 9
    return packet


STANDING = [
    leaves(
        "Left by sessions: a new flow moves its session, by the pool's policy",
        tcp(V4, sport=9),
        (*OPEN4, LEFT),
        events=(FLOW, MOVED),
    ),
    leaves(
        "Left by sessions: a new IPv6 flow moves its session",
        tcp(V6, sport=9),
        (*OPEN6, LEFT),
        events=(FLOW, MOVED),
    ),
    leaves(
        "Left by sessions: the session stays where it was moved to",
        tcp(V4, sport=10),
        (*OPEN4, LEFT, tcp(V4, sport=9)),
        rung=Rung.SESSION_NEW,
        events=(FLOW,),
    ),
    existing("Left by sessions: an open flow stays", tcp(V4, "A"), before=(*OPEN4, LEFT)),
    existing("Left by sessions: an open IPv6 flow stays", tcp(V6, "A"), before=(*OPEN6, LEFT)),
    existing(
        "Left by sessions: an open flow stays when its session has moved",
        tcp(V4, "A"),
        before=(*OPEN4, LEFT, tcp(V4, sport=9)),
    ),
    existing(
        "Left by sessions: an unknown flow still follows the session",
        tcp(V4, "A", sport=9),
        before=(*OPEN4, LEFT),
        rung=Rung.SESSION_EXISTING,
        events=(FLOW,),
    ),
    existing(
        "Left by sessions: a late flow stays",
        tcp(V4, "A"),
        before=(*OPEN4, Age(1001), LEFT),
        rung=Rung.LATE,
        events=(SESSION,),
    ),
    leaves(
        "Left by flows: an open flow moves, and its session",
        tcp(V4, "A"),
        (*OPEN4, LEFT_BY_ALL),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, Event.FLOW_MOVED, MOVED),
    ),
    leaves(
        "Left by flows: an open IPv6 flow moves",
        tcp(V6, "A"),
        (*OPEN6, LEFT_BY_ALL),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, Event.FLOW_MOVED, MOVED),
    ),
    leaves(
        "Left by flows: a UDP flow moves as a new one",
        udp(V4),
        (*UDP4, LEFT_BY_ALL),
        events=(FLOW, Event.FLOW_MOVED, MOVED),
    ),
    existing(
        "Left by flows: a flow that moved stays there",
        tcp(V4, "A"),
        REDIRECTED,
        before=(*OPEN4, LEFT_BY_ALL, tcp(V4, "A")),
    ),
    leaves(
        "Left by flows: a flow of its own moves alone",
        tcp(ALONE4, "A"),
        (tcp(ALONE4), tcp(ALONE4, "A"), LEFT_BY_ALL),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, Event.FLOW_MOVED),
    ),
    leaves(
        "Left by flows: a late flow is not followed",
        tcp(V4, "A"),
        (*OPEN4, Age(1001), LEFT_BY_ALL),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, Event.FLOW_MOVED, SESSION),
    ),
    is_reset("Reset: a segment of an open flow", segment(V4, "A"), (*OPEN4, RESETTING)),
    is_reset("Reset: an IPv6 segment of an open flow", segment(V6, "PA"), (*OPEN6, RESETTING)),
    is_reset("Reset: FIN of an open flow", segment(V4, "FA"), (*OPEN4, RESETTING)),
    is_reset(
        "Reset: a flow that was told of is told of again",
        segment(V4, "A"),
        (*OPEN4, RESETTING, tcp(V4, "A")),
    ),
    is_reset(
        "Reset: a late flow too",
        segment(V4, "A"),
        (*OPEN4, Age(1001), Sweep(), RESETTING),
    ),
    leaves(
        "Reset: a SYN is placed anew",
        tcp(V4),
        (*OPEN4, RESETTING),
        events=(FLOW, Event.FLOW_MOVED, MOVED),
    ),
    leaves(
        "Reset: a SYN after it is a new flow",
        tcp(V4),
        (*OPEN4, RESETTING, tcp(V4, "A")),
        events=(FLOW, MOVED),
    ),
    leaves(
        "Reset: UDP has none, and moves",
        udp(V4),
        (*UDP4, RESETTING),
        events=(FLOW, Event.FLOW_MOVED, MOVED),
    ),
    leaves(
        "Reset: an unknown flow follows no session there",
        tcp(V4, "A", sport=9),
        (*OPEN4, RESETTING),
        rung=Rung.HOME_EXISTING,
        events=(FLOW, MOVED),
    ),
    leaves(
        "Reset: an error about a flow goes with what comes after",
        error4(quote4()),
        (*OPEN4, RESETTING),
        named=tcp(V4),
        rung=Rung.HOME_EXISTING,
        events=(Event.FLOW_MOVED,),
    ),
    existing(
        "A standing in one pool is none in another",
        tcp(FREE4, "A"),
        before=(
            Changes(pools_put=(pool(FREE, IPIP4, generation=2),)),
            tcp(FREE4),
            RESETTING,
        ),
    ),
]

BY_HASH = Switches(hash_only=True)


def plain(name: str, packet: Any, to: int, *before: Step, **more: Any) -> Case:
    """Of a director that remembers nothing."""
    expected: dict[str, Any] = {"rung": Rung.HOME_EXISTING, "events": ()} | more
    return forwarded(name, packet, to, before=before, switches=BY_HASH, **expected)


FORGETFUL = [
    plain("By hash alone: a SYN goes home, unrecorded", tcp(V4), IPIP4, rung=Rung.HOME_NEW),
    plain(
        "By hash alone: an open flow leaves with its slot", tcp(V4, "A"), REDIRECTED, *OPEN4, LEFT
    ),
    plain("By hash alone: an IPv6 flow does", udp(V6), IPIP4, udp(V6), rung=Rung.HOME_NEW),
    plain(
        "By hash alone: a policy counts for nothing",
        tcp(ROUND4),
        L2,
        rung=Rung.HOME_NEW,
    ),
]

CASES: list[Case] = [*ROUND_ROBIN, *FREEST, *STANDING, *FORGETFUL]
