# SPDX-License-Identifier: Apache-2.0
"""The small ladder of the model check climbs as the reference does, on random histories."""

from random import Random

import pytest

from limpet.core.model import Affinity, BackendId, Policy, Timeouts
from limpet.datapath.abi import ExceptionFlag, ExceptionKind, Slot, Verdict
from limpet.datapath.reference.news import Name
from limpet.datapath.reference.packet import Kind
from limpet.sim.datapath import TICK_S, DataPath
from limpet.sim.ladder import Ladder, Packet, Told
from limpet.sim.planning import SLOT_KEY, Plans

IDLE_S = 120  # short enough for every packet to refresh its session
TIMES = Timeouts(tcp_established_s=IDLE_S, tcp_opening_s=IDLE_S, tcp_closing_s=IDLE_S)
STEP_S = 4 * TICK_S
CLIENTS, PORTS, BACKENDS = 2, (1, 2), (1, 2, 3)
KINDS = {Packet.SYN: Kind.FIRST, Packet.DATA: Kind.EXISTING, Packet.LAST: Kind.LAST}
FLAGS = (0, 0, 0, ExceptionFlag.ASK)
FLAGS_OF_FLOW = (
    0,
    ExceptionFlag.ANSWER,
    ExceptionFlag.ORPHAN,
    ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN,
)
TOLD = (*BACKENDS, *BACKENDS, 9)  # the last has no row
STEPS = 60


class Both:
    """A director in both forms. All clients have one home, so that slots need no hash."""

    def __init__(self) -> None:
        plans = Plans(Policy.HASH, Affinity.CLIENT, TIMES)
        plans.first(BACKENDS)
        self.path = DataPath("d", SLOT_KEY, 1_000)
        self._image = plans.image(1, 0, "", 0.0, is_cut_off=False)
        self.path.load(self._image)
        self.small = Ladder(float(IDLE_S), rows=frozenset(BACKENDS))
        self.now = 100 * STEP_S
        self.home(1)

    def home(self, home: int) -> None:
        """The home of all slots, with marks."""
        (number, pool) = next(iter(self.path.rows.pools.items()))
        slots = memoryview(bytearray(2 * len(pool.slots))).cast("H")
        for at in range(len(slots)):
            slots[at] = home
        fields = {name: getattr(pool, name) for name in pool.__slots__} | {
            "slots": slots,
            "reassign": Policy.HASH,
        }
        self.path.rows.pools[number] = type(pool)(**fields)
        self.small.homes = dict.fromkeys(range(CLIENTS), home)
        row = self._image.pools[0]
        assert {BackendId(i) for i, _ in row.members} == set(BACKENDS)

    def told(self, client: int, port: int, backend: int, flags: int) -> None:
        """An exception arrives, of a flow or, with port 0, of a session."""
        kind = ExceptionKind.FLOW if port else ExceptionKind.SESSION
        name = self.path.name_of((client, port))
        ports = name.range if port else 0
        told = Name(name.client, ports, name.vip, kind)
        self.path.put(told, backend, flags, self.now, 1e7)
        self.small.directory[kind, client, port] = Told(backend, self.now, 1e7, flags)

    def packet(self, client: int, port: int, packet: Packet) -> None:
        """Both say the same of a packet, and tell the same news."""
        theirs = self.path.packet((client, port), KINDS[packet], self.now)
        ours = self.small.run((client, port), packet, self.now)
        assert ours.is_held == (theirs.verdict is Verdict.HELD)
        assert ours.backend == theirs.backend
        if ours.backend:
            assert ours.rung == theirs.rung
        their_news = [(n.name.kind, n.backend, n.flags) for n in self.path.news()]
        assert [(n.name[0], n.backend, n.flags) for n in self.small.news] == their_news
        self.small.news.clear()


def play(seed: int) -> None:
    rng, both = Random(seed), Both()
    for _ in range(STEPS):
        client, port = rng.randrange(CLIENTS), rng.choice(PORTS)
        kind = rng.random()
        both.now += STEP_S
        if kind < 0.06:
            marks = rng.choice((0, Slot.TELL, Slot.UNSURE, Slot.TELL | Slot.UNSURE))
            both.home(rng.choice(BACKENDS) | marks)
        elif kind < 0.14:
            both.told(client, 0, rng.choice(TOLD), rng.choice(FLAGS))
        elif kind < 0.22:
            both.told(client, port, rng.choice(TOLD), rng.choice(FLAGS_OF_FLOW))
        elif kind < 0.26:
            both.now += IDLE_S + 2 * STEP_S
        else:
            both.packet(client, port, rng.choice((Packet.SYN, *[Packet.DATA] * 3, Packet.LAST)))


@pytest.mark.parametrize("seed", range(120))
def test_small_ladder_is_the_reference_on_a_random_history(seed: int) -> None:
    play(seed)
