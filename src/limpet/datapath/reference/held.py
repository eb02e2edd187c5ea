# SPDX-License-Identifier: Apache-2.0
"""A packet of an existing flow that nothing here explains waits while the daemon asks the other
directors. How many may wait is limited, for each client and for all together: a flood of such
packets ends at home, by count.

Not here: the ring that the kernel keeps them in, and so its being full.
"""

from dataclasses import dataclass
from typing import NamedTuple

from limpet.datapath.abi import Event, Limit
from limpet.datapath.reference.hash import pair
from limpet.datapath.reference.packet import Kind, Packet, Words
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.sessions import TICKS
from limpet.datapath.reference.settings import Settings

ASKER_TICKS = 4  # then a client may ask as often again


class Arrival(NamedTuple):
    """How a packet came in."""

    frame: bytes
    jiffies: int
    ingress: int


@dataclass(frozen=True, slots=True)
class Held:
    """A packet that waits: struct held."""

    client: Words
    vip_address: Words
    ifindex: int  # that it came in by
    tick: int
    client_port: int
    vip_port: int
    vip: int
    protocol: int
    family: int
    is_error: bool  # an ICMP error about a packet to the client
    frame: bytes  # as it came


@dataclass(slots=True)
class Asker:
    """What a client may still ask."""

    refilled: int = 0  # tick
    tokens: int = 0


class Waiting:
    """Decides which packets may wait. `now` is a tick."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rate = TokenBucket(settings.queries_per_jiffy_16, settings.queries_burst)
        self._askers: dict[int, Asker] = {}

    def keep(self, p: Packet, vip: int, arrival: Arrival, now: int) -> Held | Event:
        """The packet as it waits, or why it does not."""
        if len(arrival.frame) > Limit.HELD_FRAME:
            return Event.ORPHAN_TOO_LONG
        if not self._is_allowed(p, arrival.jiffies, now):
            return Event.ORPHAN_RATE
        return Held(
            *(p.client, p.vip_address, arrival.ingress, now, p.client_port, p.vip_port),
            *(vip, p.protocol, p.family, p.kind is Kind.ICMP_ERROR, arrival.frame),
        )

    def _is_allowed(self, p: Packet, jiffies: int, now: int) -> bool:
        burst = self._settings.client_queries_burst
        if burst:
            asker = self._askers.setdefault(self._place(p.client), Asker())
            if (now - asker.refilled) % TICKS >= ASKER_TICKS:
                asker.refilled, asker.tokens = now, burst
            if not asker.tokens:
                return False
            asker.tokens -= 1
        return self._rate.allow(jiffies)

    def _place(self, client: Words) -> int:
        """Clients that share a place share what they may ask."""
        key = self._settings.flow_key
        return pair(*client, (key[1], key[0])) % Limit.ASKERS
