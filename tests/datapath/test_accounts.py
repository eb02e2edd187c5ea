# SPDX-License-Identifier: Apache-2.0
"""Accounts: what is counted on the way is what a full reading of both tables says.

Two CPUs send random packets through one director at once, while it is swept, while backends get a
standing and lose it, and pools get other members. Time is real and ticks are short, so that all
kinds of ends happen on the way. Then it falls silent, and both tables are read.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import pytest
from scapy.all import ICMP, IP, TCP, UDP, Raw

from datapath.storm import Storm
from limpet.core.diff import Changes, diff
from limpet.core.model import BackendId, Image, Policy, Standing
from limpet.datapath import bpf, kernel
from limpet.datapath.abi import FlowSession, FlowWord, Life, SessionLife, SessionWord
from limpet.datapath.clock import hz
from limpet.datapath.kernel import Kernel, Sizes
from limpet.datapath.reference.rows import Rows
from limpet.datapath.reference.ties import OWN_SESSIONS
from packets.case import LINK, family_of, ip
from packets.world import (
    ALONE4,
    ALONE6,
    FLOW4,
    FREE,
    FREE4,
    FREE6,
    IMAGE,
    IPIP4,
    LISTED4,
    MANY4,
    MANY6,
    NARROW4,
    POOLS,
    RANGES4,
    RANGES6,
    REDIRECTED,
    ROUND,
    ROUND4,
    ROWS,
    SPLIT,
    VIP6,
    Switches,
    idle_ticks,
    pool,
    settings,
)

pytestmark = pytest.mark.kernel

TICK_SHIFT = 0  # a tick is a jiffy
# Ticks after which an entry has expired. Short, so that much does; yet longer than a CPU of a
# virtual machine stands still in the middle of a packet, which goes on with what it saw before.
LIMITS = {
    Life.OPENING: 16,
    Life.ESTABLISHED: 64,
    Life.DATAGRAM: 64,
    Life.CLOSING: 24,
    Life.FRAGMENT: 16,
    Life.LATE: 240,
    Life.SESSION: 64,
}
ROOMY, CROWDED = Switches(buckets=512, session_buckets=512), Switches(buckets=16, session_buckets=8)
TCP_VIPS = [ROUND4, FREE4, FREE6, RANGES4, RANGES6, NARROW4, MANY4, MANY6, LISTED4, ALONE4, ALONE6]
UDP_VIPS = [FLOW4, VIP6[IPIP4]]
FLAGS = {"S": 2, "A": 3, "FA": 1, "R": 1}  # how often
CLIENTS, PORTS = 12, range(1000, 60_000, 10_000)
WINDOW_SHARE = 6  # so many clients at a time are 1 in
SECONDS, TROUBLE = 0.8, 0.6
ROUNDS_OF_CHECKS, ROUNDS_MAX = 3, 30  # more, if the two CPUs hardly ran at once
# A session that makes room while a flow of it opens or ends on the other CPU, between two of its
# instructions, leaves a count that is off by one, until it ends: once in many million packets. That
# is not worth a lock. What is wrong in itself is wrong in every round.
WRONG_MAX = 3
STANDINGS = [
    Standing.LEFT_BY_SESSIONS,
    Standing.LEFT_BY_SESSIONS | Standing.LEFT_BY_FLOWS,
    Standing.LEFT_BY_SESSIONS | Standing.RESET,
]
HAPPENED = {
    ROOMY: ("flow_expired", "session_expired", "session_moved", "client_split", "race_lost"),
    CROWDED: ("session_evicted", "session_full", "evicted_opening", "evicted_closing"),
}
OPEN = (Life.ESTABLISHED, Life.DATAGRAM)
COUNTED = (Life.OPENING, *OPEN)
LIVE = (SessionLife.OPENING, SessionLife.LIVE)
Key = tuple[int, tuple[int, int], int]  # VIP, client under its mask, range


def bits(word: int, kind: type[FlowWord] | type[SessionWord], name: str) -> int:
    return word >> kind[f"{name}_SHIFT"] & (1 << kind[f"{name}_BITS"]) - 1


def clients(family: int) -> list[str]:
    """Two of them under the same prefix of VIPs with a short one, and one that is listed."""
    if family == 6:
        return [f"2001:db8:{n:x}::7" for n in range(0x100, 0x100 + CLIENTS)]
    return [*(f"198.51.{n // 2}.{n}" for n in range(CLIENTS - 1)), "203.0.113.5"]


@cache
def pile() -> list[bytes]:
    """Frames of all clients, client by client: what one sends is near together."""
    found = []
    for number in range(CLIENTS):
        for vip in TCP_VIPS:
            header = ip(vip, clients(family_of(vip))[number])
            for port in PORTS:
                for flags, times in FLAGS.items():
                    segment = TCP(sport=port, dport=80, flags=flags)
                    found += [bytes(LINK / header / segment)] * times
        for vip in UDP_VIPS:
            header = ip(vip, clients(family_of(vip))[number])
            found += [bytes(LINK / header / UDP(sport=port, dport=53)) for port in PORTS]
        for vip in (ROUND4, ALONE4):
            quote = IP(src=vip, dst=clients(4)[number]) / TCP(sport=80, dport=PORTS[0])
            error = ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(quote)[:28])
            found.append(bytes(LINK / ip(vip, clients(4)[number]) / error))
    return found


@dataclass(frozen=True)
class Flow:
    """An entry of the connection table."""

    vip: int
    backend: int
    life: Life
    session: int  # bits of enum flow_session
    client: tuple[int, int]
    port: int


@dataclass(frozen=True)
class Session:
    """An entry of the session table."""

    key: Key
    backend: int
    life: SessionLife
    flows: int


class Books:
    """A director with short ticks, and a full reading of its tables."""

    def __init__(self, kernel: Kernel, switches: Switches) -> None:
        self.kernel = kernel
        constants = settings(switches)
        constants["tick_shift"] = TICK_SHIFT
        kernel.load(constants)
        self.apply(diff(Image(), IMAGE))
        self._ring = kernel.resets()

    def apply(self, changes: Changes) -> None:
        """Write changes, and the limits of this world."""
        self.kernel.apply(changes)
        if changes.vips is not None:
            self.limit(LIMITS)

    def limit(self, ticks: dict[Life, int]) -> None:
        for life, value in ticks.items():
            self.kernel._map("idle_limits")["ticks"][0][:, life] = value

    def flows(self) -> list[Flow]:
        return [
            self._flow(place, *entry)
            for place, entry in enumerate(self.kernel._map("flows")["entries"].reshape(-1).tolist())
            if bits(entry[1], FlowWord, "LIFE")
        ]

    def _flow(self, place: int, number: int, word: int) -> Flow:
        vip = bits(word, FlowWord, "VIP")
        client, port = (0, 0xFFFF << 32 | number >> 32), number >> 16 & 0xFFFF
        if self.kernel._map("vips")["family"][vip] == 6:
            row = self.kernel._map("flow_clients")[place]
            address = bytes(row["address"].tolist())
            client = (int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big"))
            port = int(row["client_port"])
        life, session = Life(bits(word, FlowWord, "LIFE")), bits(word, FlowWord, "SESSION")
        return Flow(vip, bits(word, FlowWord, "BACKEND"), life, session, client, port)

    def sessions(self) -> list[Session]:
        entries = self.kernel._map("sessions")["entries"].reshape(-1).tolist()
        return [
            Session(
                (bits(word, SessionWord, "VIP"), tuple(client), bits(word, SessionWord, "RANGE")),
                bits(word, SessionWord, "BACKEND"),
                SessionLife(bits(word, SessionWord, "LIFE")),
                flows,
            )
            for client, word, _, flows in entries
            if bits(word, SessionWord, "LIFE")
        ]

    def loads(self) -> dict[int, int]:
        return {i: int(load) for i, load in enumerate(self.kernel.loads()) if load}

    def forget_resets(self) -> None:
        self._ring.read()

    def close(self) -> None:
        self._ring.close()


@contextmanager
def books(switches: Switches) -> Iterator[Books]:
    pins = bpf.BPFFS / f"limpet-accounts-{os.getpid()}"
    director = Kernel.open(pins, Sizes(switches.buckets, len(POOLS), switches.session_buckets))
    try:
        found = Books(director, switches)
        yield found
        found.close()
    finally:
        director.close()
        kernel.remove(pins)


def keys(rows: Rows, flow: Flow) -> list[Key]:
    """Keys of the sessions that count a flow."""
    vip = rows.vips[flow.vip]
    client = (flow.client[0] & vip.mask[0], flow.client[1] & vip.mask[1])
    if flow.session & FlowSession.SESSION_RANGE:
        return [(vip.id, client, vip.split_range(flow.port)), (vip.id, client, 0)]
    return [(vip.id, client, vip.own_range(flow.port))]


def check(found: Books, rows: Rows, switches: Switches) -> None:
    """Both accounts, and that no entry is left half-written or is there twice."""
    flows, sessions = found.flows(), found.sessions()
    assert SessionLife.BUSY not in {session.life for session in sessions}
    assert max(Counter(session.key for session in sessions).values()) == 1
    loads = Counter(session.backend for session in sessions if session.life in LIVE)
    loads += Counter(
        flow.backend for flow in flows if flow.session in OWN_SESSIONS and flow.life in COUNTED
    )
    assert found.loads() == loads
    belongs = [f for f in flows if f.session & FlowSession.IN_SESSION and f.life in OPEN]
    open_flows = Counter(key for flow in belongs for key in keys(rows, flow))
    assert {keys(rows, flow)[0] for flow in belongs} <= {session.key for session in sessions}
    counted = {session.key: session.flows for session in sessions}
    wrong = {key: (n, open_flows[key]) for key, n in counted.items() if n != open_flows[key]}
    assert not {key for key in wrong if switches == ROOMY or not is_of_proxy(rows, key)}, wrong


def is_of_proxy(rows: Rows, key: Key) -> bool:
    """Whether a session may be of a mega-proxy's client. Where there is no room it may be evicted
    while only ranges have open flows, and then it begins with none.
    """
    return bool(rows.vips[key[0]].split_flows) and key[2] == 0


def trouble(rng: Random) -> Changes:
    """What an operator and health checks do: one backend has a standing in a pool, or loses it."""
    number, other = rng.choice([ROUND, FREE, SPLIT, IPIP4]), rng.choice([IPIP4, REDIRECTED])
    standing = ((BackendId(other), rng.choice(STANDINGS)),) if rng.random() < 0.7 else ()
    members = tuple((BackendId(i), rng.randint(1, 3)) for i in (IPIP4, REDIRECTED) if i != other)
    rows = tuple(replace(row, has_standing=bool(standing)) for row in ROWS if row.id == other)
    policies = {name: rng.choice(list(Policy)) for name in ("policy", "reassign")}
    homes = [backend for backend, _ in members]
    own = {"members": members, "standing": standing, **policies}
    return Changes(rows, (pool(number, *homes, generation=2, **own),))


def play(found: Books, storm: Storm, rng: Random) -> None:
    """A storm for a while, with sweeps and trouble on the way."""
    with storm.blowing():
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            storm.look_at(rng.random())
            time.sleep(rng.choice([0.01, 0.05, 0.1]))
            found.kernel.sweep()
            found.forget_resets()
            if rng.random() < TROUBLE:
                found.apply(trouble(rng))
    found.kernel.sweep()


def fall_silent(found: Books) -> None:
    """All ends, and whatever was counted is counted off."""
    time.sleep(2 * LIMITS[Life.SESSION] / hz())
    found.kernel.sweep()
    assert found.loads() == {}
    assert all(session.life is SessionLife.PAST for session in found.sessions())


@pytest.mark.parametrize("switches", [ROOMY, CROWDED], ids=["roomy", "crowded"])
def test_accounts_are_what_the_tables_say(
    switches: Switches, report: Callable[[str], None]
) -> None:
    rng, frames, exact, wrong = Random(1), pile(), 0, list[str]()
    rows = Rows(idle_ticks)
    rows.apply(diff(Image(), IMAGE))
    with books(switches) as found:
        storm = Storm(found.kernel.program, frames, len(frames) // WINDOW_SHARE)
        missing = set(HAPPENED[switches])
        for _ in range(ROUNDS_MAX):
            play(found, storm, rng)
            try:
                check(found, rows, switches)
                exact += 1
            except AssertionError as error:
                wrong.append(str(error))
                assert len(wrong) <= WRONG_MAX, wrong
                fall_silent(found)
            missing -= {n for n in missing if found.kernel.counters().events[n]}
            if exact >= ROUNDS_OF_CHECKS and not missing:
                break
        storm.close()
        assert not missing, "nothing of the kind happened"
        fall_silent(found)
    if wrong:
        report(f"lost a race of two CPUs in {len(wrong)} of {exact + len(wrong)} rounds")
