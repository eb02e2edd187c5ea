# SPDX-License-Identifier: Apache-2.0
"""Mega-proxies: a client with very many flows is split by ranges of its ports."""

from typing import Any

from limpet.datapath.abi import Event, Rung
from packets.case import Age, Case, Step, Sweep, entropy_of_fragment, existing, forwarded, tcp
from packets.cases_fragment import ID, later
from packets.world import (
    CLIENT4,
    LISTED4,
    LISTED6,
    MANY4,
    MANY6,
    SPLIT_FLOWS,
    range_home,
)

FLOW, SESSION, SPLIT = Event.FLOW_CREATED, Event.SESSION_CREATED, Event.CLIENT_SPLIT
SUBNET6 = "2001:db8:c::"  # what counts of the client
LISTED_CLIENT4, LISTED_CLIENT6 = "203.0.113.77", "2001:db8:b:5::7"
LISTED_SUBNET6 = "2001:db8:b:5::"
RANGE = 65_536 // 16
OPEN, FAR = range(SPLIT_FLOWS), 5 * RANGE + 1  # ports of the first range, a port of another
BASE4, BASE6 = range_home(CLIENT4, 0, MANY4, 0), range_home(SUBNET6, 0, MANY6, 0)
FAR4, FAR6 = range_home(CLIENT4, FAR, MANY4, 16), range_home(SUBNET6, FAR, MANY6, 16)


def opened(vip: str, ports: range, **more: Any) -> tuple[Step, ...]:
    """Established flows from these ports."""
    return tuple(tcp(vip, flags, sport=port, **more) for port in ports for flags in ("S", "A"))


def closed(vip: str, ports: range) -> tuple[Step, ...]:
    return tuple(tcp(vip, "R", sport=port) for port in ports)


def splits(name: str, packet: Any, to: int, before: tuple[Step, ...]) -> Case:
    """The flow with which a client is split; its range has a session of its own from now on."""
    return forwarded(name, packet, to, before=before, events=(FLOW, SESSION, SPLIT))


def follows(name: str, packet: Any, to: int, before: tuple[Step, ...]) -> Case:
    return forwarded(name, packet, to, before=before, rung=Rung.SESSION_NEW, events=(FLOW,))


SPLIT4 = (*opened(MANY4, OPEN), *opened(MANY4, range(FAR, FAR + 1)))
BEGIN = [
    splits(
        "A new flow of a client with as many open flows as allowed splits it",
        tcp(MANY4, sport=FAR),
        FAR4,
        opened(MANY4, OPEN),
    ),
    splits("A new IPv6 flow does", tcp(MANY6, sport=FAR), FAR6, opened(MANY6, OPEN)),
    splits(
        "Also one in a range of those that are open",
        tcp(MANY4, sport=99),
        range_home(CLIENT4, 99, MANY4, 16),
        opened(MANY4, OPEN),
    ),
    follows(
        "With one open flow less nothing is split",
        tcp(MANY4, sport=FAR),
        BASE4,
        opened(MANY4, range(SPLIT_FLOWS - 1)),
    ),
    follows(
        "Handshakes are no open flows",
        tcp(MANY4, sport=FAR),
        BASE4,
        (*opened(MANY4, range(1)), *(tcp(MANY4, sport=port) for port in range(1, 20))),
    ),
    follows(
        "Flows that were closed are no open flows",
        tcp(MANY4, sport=FAR),
        BASE4,
        (*opened(MANY4, range(3)), *closed(MANY4, range(2)), *opened(MANY4, range(3, 5))),
    ),
    follows(
        "Flows that have expired and were swept are no open flows",
        tcp(MANY4, sport=FAR),
        BASE4,
        (
            *opened(MANY4, OPEN),
            Age(600),
            tcp(MANY4, "A", sport=0),
            Age(600),
            Sweep(),
        ),
    ),
    splits(
        "Flows of other IPv6 clients of the same /64 count",
        tcp(MANY6, sport=FAR),
        FAR6,
        opened(MANY6, OPEN, client="2001:db8:c::9"),
    ),
    existing(
        "An open flow stays when its client is split",
        tcp(MANY4, "A", sport=0),
        BASE4,
        before=SPLIT4,
    ),
]

SHRUNK = (*SPLIT4, *closed(MANY4, range(SPLIT_FLOWS)))  # one open flow is left, in its range
GOING_ON = [
    follows(
        "A split client's new flow in a range with a session goes there",
        tcp(MANY4, sport=FAR + 1),
        FAR4,
        SPLIT4,
    ),
    forwarded(
        "A split client's new flow in another range begins a session there",
        tcp(MANY4, sport=9 * RANGE),
        range_home(CLIENT4, 9 * RANGE, MANY4, 16),
        before=SPLIT4,
    ),
    forwarded(
        "A split client stays split down to half the limit",
        tcp(MANY4, sport=9 * RANGE),
        range_home(CLIENT4, 9 * RANGE, MANY4, 16),
        before=(*SPLIT4, *closed(MANY4, range(SPLIT_FLOWS - 1))),
    ),
    follows(
        "Below it no session of a range begins",
        tcp(MANY4, sport=9 * RANGE),
        BASE4,
        SHRUNK,
    ),
    follows(
        "Below it a live session of a range is still followed",
        tcp(MANY4, sport=FAR + 1),
        FAR4,
        SHRUNK,
    ),
    existing(
        "A packet of an unknown flow of a split client goes with its range",
        tcp(MANY4, "A", sport=FAR + 1),
        FAR4,
        before=SPLIT4,
        rung=Rung.SESSION_EXISTING,
        events=(FLOW,),
    ),
    existing(
        "A later fragment without its first goes with the client, whose ports it does not know",
        later(MANY4, protocol=6),
        BASE4,
        before=SPLIT4,
        rung=Rung.SESSION_EXISTING,
        bits=entropy_of_fragment(MANY4, 6, ID),
    ),
    follows(
        "A packet of a range keeps the client's session alive as well",
        tcp(MANY4, sport=9 * RANGE),
        BASE4,
        (*SHRUNK, Age(600), tcp(MANY4, "A", sport=FAR), Age(600), Sweep()),
    ),
    follows(
        "A packet of a range keeps its session alive",
        tcp(MANY4, sport=FAR + 1),
        FAR4,
        (*SHRUNK, Age(600), tcp(MANY4, "A", sport=FAR), Age(600), Sweep()),
    ),
]

LISTED = [
    forwarded(
        "The first flow of a listed client begins its session",
        tcp(LISTED4, sport=FAR, client=LISTED_CLIENT4),
        range_home(LISTED_CLIENT4, 0, LISTED4, 0),
    ),
    splits(
        "The second is split off",
        tcp(LISTED4, sport=FAR, client=LISTED_CLIENT4),
        range_home(LISTED_CLIENT4, FAR, LISTED4, 16),
        (tcp(LISTED4, sport=1, client=LISTED_CLIENT4),),
    ),
    splits(
        "An IPv6 client under a listed prefix is split",
        tcp(LISTED6, sport=FAR, client=LISTED_CLIENT6),
        range_home(LISTED_SUBNET6, FAR, LISTED6, 16),
        (tcp(LISTED6, sport=1, client=LISTED_CLIENT6),),
    ),
    follows(
        "A client that is not listed is not split",
        tcp(LISTED4, sport=FAR),
        range_home(CLIENT4, 0, LISTED4, 0),
        (tcp(LISTED4, sport=1),),
    ),
    follows(
        "A VIP that does not look at the list splits nobody for it",
        tcp(MANY4, sport=FAR, client=LISTED_CLIENT4),
        range_home(LISTED_CLIENT4, 0, MANY4, 0),
        (tcp(MANY4, sport=1, client=LISTED_CLIENT4),),
    ),
]

CASES: list[Case] = [*BEGIN, *GOING_ON, *LISTED]
