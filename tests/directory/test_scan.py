# SPDX-License-Identifier: Apache-2.0
"""A scan finds what a plain loop over sessions and flows finds, one at a time."""

from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core import affinity, hashing
from limpet.core.exception import RECORD, Flag, Kind
from limpet.core.model import SLOTS, Affinity, PoolId, Protocol, VipId, VipRow
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.placement import Lookup, Placement
from limpet.daemon.directory.scan import Live, scan
from limpet.daemon.directory.table import Table
from limpet.datapath.abi import Life, SessionLife, Slot
from limpet.datapath.flows import FLOW
from limpet.datapath.sessions import SESSION_ROW

SLOT_KEY = bytes(range(16))
KEY = hashing.key_words(SLOT_KEY)
HOMES = (np.arange(SLOTS, dtype=np.uint16) % 3) + 1
TABLES = (HOMES, np.where(np.arange(SLOTS) % 7 == 0, 2, HOMES).astype(np.uint16))
RULES = {1: Affinity.CLIENT, 2: Affinity.CLIENT_PORTS, 3: Affinity.FLOW, 4: Affinity.CLIENT}
VIPS = {
    number: VipRow(
        *(VipId(number), ip_address("192.0.2.1"), Protocol.TCP, None, PoolId(number), rule),
        port_ranges=4,
        split_ranges=8,
        prefix=24 if number == 4 else None,
    )
    for number, rule in RULES.items()
}
PLACEMENT = Placement(1, SLOT_KEY, tuple(VIPS.values()), {PoolId(n): TABLES for n in RULES})
MAPPED = 0xFFFF << 32
IDLE = 40  # ticks


@dataclass(frozen=True)
class Session:
    """A session of a small world."""

    vip: int
    client: int
    number: int
    backend: int
    is_split: bool


@dataclass(frozen=True)
class Flow:
    """A flow of one."""

    vip: int
    client: int
    port: int
    backend: int


small, backends = st.integers(0, 1), st.integers(1, 2)
vips = st.sampled_from(sorted(RULES))


def kept(vip: int, client: int) -> int:
    """A client as its session has it."""
    low = affinity.mask(VIPS[vip].affinity, 4, VIPS[vip].prefix)[1]
    return (MAPPED | client << 7) & low


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Session], list[Flow]]:
    sessions: dict[tuple[int, int, int], Session] = {}
    for _ in range(draw(st.integers(0, 16))):
        vip, client = draw(vips), draw(small)
        if RULES[vip] is Affinity.FLOW:
            continue
        by_ports = RULES[vip] is Affinity.CLIENT_PORTS
        number = 1 + draw(small) if by_ports else draw(st.integers(0, 2))
        name = vip, kept(vip, client), number
        sessions[name] = Session(*name, draw(backends), draw(st.booleans()) and not by_ports)
    flows = {
        (vip, client, port): Flow(vip, MAPPED | client << 7, port << 12, draw(backends))
        for vip, client, port in draw(st.lists(st.tuples(vips, small, st.integers(0, 3))))
    }
    return list(sessions.values()), list(flows.values())


def is_told(slot: int, backend: int) -> bool:
    return any(int(table[slot]) != backend for table in TABLES)


def slot_of(vip: int, client: int, port: int, ranges: int) -> int:
    row = VIPS[vip]
    at = affinity.Tuple((0, client), port, row.address, 80, row.protocol)
    return int(affinity.slots(row.affinity, at, KEY, bits=row.prefix, port_ranges=ranges))


def ranges_of(vip: int) -> int:
    return 4 if RULES[vip] is Affinity.CLIENT_PORTS else 8


def session_of(flow: Flow, sessions: dict[tuple[int, int, int], Session]) -> Session | None:
    client = kept(flow.vip, (flow.client - MAPPED) >> 7)
    number = int(affinity.port_range(flow.port, ranges_of(flow.vip)))
    of_range = sessions.get((flow.vip, client, number))
    if RULES[flow.vip] is Affinity.CLIENT_PORTS:
        return of_range
    whole = sessions.get((flow.vip, client, 0))
    return whole if whole and not whole.is_split else of_range or whole


Name = tuple[int, Kind, int, int]


def expected(world: tuple[list[Session], list[Flow]]) -> dict[Name, tuple[int, int]]:
    """Names -> backend and flags, one at a time."""
    sessions = {(each.vip, each.client, each.number): each for each in world[0]}
    found: dict[Name, tuple[int, int]] = {}
    left: set[Session] = set()
    for flow in world[1]:
        name = flow.vip, Kind.FLOW, flow.client, flow.port << 16 | 80
        if RULES[flow.vip] is Affinity.FLOW:
            if is_told(slot_of(flow.vip, flow.client, flow.port, 0), flow.backend):
                found[name] = flow.backend, 0
            continue
        session = session_of(flow, sessions)
        ranges = 4 if RULES[flow.vip] is Affinity.CLIENT_PORTS else 0
        if session is None:
            if is_told(slot_of(flow.vip, flow.client, flow.port, ranges), flow.backend):
                found[name] = flow.backend, 0
        elif session.backend != flow.backend:
            found[name] = flow.backend, 0
            left.add(session)
    for session in world[0]:
        ranges = ranges_of(session.vip) if session.number else 0
        port = (session.number - 1) << affinity.shift(ranges) if ranges else 0
        slot = slot_of(session.vip, session.client, port, ranges)
        if session in left or session.is_split or is_told(slot, session.backend):
            flags = Flag.SPLIT * session.is_split | Flag.ASK * (session in left)
            name = session.vip, Kind.SESSION, session.client, session.number
            found[name] = session.backend, int(flags)
    return found


def live(world: tuple[list[Session], list[Flow]]) -> Live:
    sessions, flows = np.zeros(len(world[0]), SESSION_ROW), np.zeros(len(world[1]), FLOW)
    for row, session in zip(sessions, world[0], strict=True):
        row["client_low"], row["vip"] = session.client, session.vip
        row["backend"], row["range"] = session.backend, session.number
        row["life"], row["is_split"] = SessionLife.LIVE, session.is_split
    for row, flow in zip(flows, world[1], strict=True):
        row["client_low"], row["client_port"], row["vip_port"] = flow.client, flow.port, 80
        row["vip"], row["backend"], row["life"] = flow.vip, flow.backend, Life.ESTABLISHED
    sessions["idle_ticks"] = flows["idle_ticks"] = IDLE
    return Live(sessions, flows)


def clock() -> Clock:
    return Clock(lambda: 10_000, 0.25)


@settings(max_examples=300)
@given(worlds())
def test_scan_finds_what_a_loop_finds(world: tuple[list[Session], list[Flow]]) -> None:
    found = scan(live(world), Lookup(PLACEMENT), clock(), Table(10, KEY))
    names = {
        (int(key["vip"]), Kind(int(key["kind"])), int(key["client"][1]), int(key["range"])): (
            int(record["backend"]),
            int(record["flags"]),
        )
        for record in found
        for key in [record["key"]]
    }
    assert len(names) == len(found), "no name twice"
    assert names == expected(world)
    assert not found["key"]["client"][:, 0].any()


def at_home() -> Session:
    client = kept(1, 5)
    slot = slot_of(1, client, 0, 0)
    assert not is_told(slot, int(HOMES[slot])), "choose another client"
    return Session(1, client, 0, int(HOMES[slot]), False)


def test_a_session_at_home_is_found_if_the_directory_has_it_elsewhere() -> None:
    session, table = at_home(), Table(10, KEY)
    world = live(([session], []))
    assert not len(scan(world, Lookup(PLACEMENT), clock(), table))
    known = np.zeros(1, RECORD)
    known["key"]["client"][:, 1], known["key"]["vip"] = session.client, 1
    known["key"]["kind"], known["expiry"], known["backend"] = Kind.SESSION, 9, session.backend
    table.merge(known)
    assert not len(scan(world, Lookup(PLACEMENT), clock(), table))
    known["backend"], known["time"] = session.backend + 1, 5
    table.merge(known)
    (found,) = scan(world, Lookup(PLACEMENT), clock(), table)
    assert found["backend"] == session.backend


def test_a_session_at_home_is_found_if_its_slot_is_marked() -> None:
    session = at_home()
    marked = tuple(table | np.uint16(Slot.TELL) for table in TABLES)
    placement = Placement(1, SLOT_KEY, PLACEMENT.vips, {PoolId(1): marked})
    (found,) = scan(live(([session], [])), Lookup(placement), clock(), Table(10, KEY))
    assert found["backend"] == session.backend


def test_an_exception_lasts_from_when_it_was_seen_for_its_idle_time_and_the_grace() -> None:
    session = Session(1, kept(1, 5), 0, 9, False)
    flow = Flow(3, MAPPED | 7, 40_000, 9)
    world = live(([session], [flow]))
    found = scan(world, Lookup(PLACEMENT), clock(), Table(10, KEY))
    lasts = (found["expiry"] - found["time"]).tolist()
    assert lasts == [(1_800 + 1_500) * 1_000] * 2
    world.sessions["life"], world.flows["life"] = SessionLife.OPENING, Life.OPENING
    found = scan(world, Lookup(PLACEMENT), clock(), Table(10, KEY))
    assert (found["expiry"] - found["time"]).tolist() == [1_500_000, 300_000]
