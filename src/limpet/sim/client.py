# SPDX-License-Identifier: Apache-2.0
"""Clients of the simulation, and the truth about their connections.

A client lives for a while and opens one connection, or a second one later. A connection is a SYN,
a few packets of data and a FIN. What is lost is sent again. Clients are drawn from the seed alone:
taking events away from a run leaves them as they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType

from limpet.core.model import Affinity
from limpet.datapath.reference.packet import Kind
from limpet.sim.scenario import GROUPS, Scenario

ROUND_TRIP_S = 0.03
RETRY_S = 0.25  # the first time; twice as long each time
TRIES_MAX = 7
FIRST_PORT = 40_000
SECOND_SHARE = 0.2  # of clients that open a second connection
GIVES_UP = 1 << 30
FIRST, EXISTING, LAST = Kind.FIRST, Kind.EXISTING, Kind.LAST


@dataclass(slots=True)
class Connection:
    """One connection, and who has it."""

    client: "Client"
    port: int
    times: list[float]  # of packets of data and the FIN, the next one last
    backend: int = 0  # that answered the SYN
    tries: int = 0
    is_over: bool = False
    # By whom others were asked last, when, and which backend each said.
    asked: tuple[int, float, Mapping[int, int]] = (-1, 0.0, MappingProxyType({}))
    is_guess: bool = False  # it was an orphan, at its backend all the same
    flow: tuple[int, int] = (0, 0)  # its name

    def __post_init__(self) -> None:
        self.flow = self.client.number, self.port

    def next_kind(self) -> Kind:
        """What it sends next."""
        if not self.backend:
            return FIRST
        return EXISTING if len(self.times) > 1 else LAST


@dataclass(slots=True)
class Client:
    """A client as one session has it. `backend` is the session's; `seen` has the boots of directors
    that met it.
    """

    number: int
    group: int
    began: float
    backend: int = 0
    changed: float = 0.0  # when its session was last begun or found elsewhere
    lost: str = ""  # why a connection could begin apart from its session,
    backends: set[int] = field(default_factory=set)  # so that it has sessions at all of these
    seen: dict[int, int] = field(default_factory=dict)  # director -> boot


def draw(scenario: Scenario, seed: int) -> list[tuple[float, Connection]]:
    """Connections of all clients, and when each sends its SYN."""
    rng = Random(f"clients {seed}")
    found = []
    for number in range(scenario.clients):
        began = rng.uniform(0.0, scenario.seconds * 0.9)
        client = Client(number, rng.randrange(GROUPS), began)
        life = min(rng.expovariate(1 / scenario.life_s), scenario.seconds - began)
        found.append((began, _connection(client, FIRST_PORT, began, life, scenario, rng)))
        if rng.random() < SECOND_SHARE:
            at = began + rng.uniform(0.1, 0.9) * life
            left = began + life - at
            if scenario.affinity == Affinity.FLOW:  # each connection is a session of its own
                client = Client(number, client.group, at)
            found.append((at, _connection(client, FIRST_PORT + 1, at, left, scenario, rng)))
    return found


def _connection(
    client: Client, port: int, at: float, life: float, scenario: Scenario, rng: Random
) -> Connection:
    more = min(int(rng.expovariate(1 / scenario.packets)), 50)
    began = at + ROUND_TRIP_S
    times = [began + life, *(began + rng.random() * life for _ in range(more)), began]
    times.sort(reverse=True)
    return Connection(client, port, times)
