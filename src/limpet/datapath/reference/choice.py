# SPDX-License-Identifier: Apache-2.0
"""Choice: what the ladder says of a packet, and what all its steps ask."""

from dataclasses import dataclass, field

from limpet.core.model import SLOTS, Affinity, Standing
from limpet.datapath.abi import Event, Rung
from limpet.datapath.reference.hash import pair
from limpet.datapath.reference.held import Held
from limpet.datapath.reference.packet import Kind, Packet
from limpet.datapath.reference.rows import Backend, Vip
from limpet.datapath.reference.settings import Settings

LEFT_BY_FLOWS = Standing.RESET | Standing.LEFT_BY_FLOWS
LEFT = LEFT_BY_FLOWS | Standing.LEFT_BY_SESSIONS
NEW = Kind.FIRST, Kind.ANY
TABLE, FLOW = Rung.TABLE, Affinity.FLOW


@dataclass(slots=True)
class Choice:
    """What the ladder said. Filled in on the way, and counted however the packet ends."""

    vip: Vip | None = None
    backend_id: int = 0
    backend: Backend | None = None
    rung: Rung = TABLE
    entropy: int = 0
    has_created: bool = False  # a new flow got an entry
    has_begun: bool = False  # a new session began
    held: Held | None = None  # the packet waits
    events: list[Event] = field(default_factory=list)


def slot(settings: Settings, vip: Vip, p: Packet, ports: int = 0) -> int:
    """Slot of a packet, by the VIP's affinity rule; `ports` is its session's range."""
    (high, low), (keep_high, keep_low) = p.client, vip.mask
    hashed = pair(high & keep_high, low & keep_low, settings.slot_key)
    turned = settings.slot_key[1], settings.slot_key[0]
    if vip.affinity is FLOW:
        numbers = p.protocol << 32 | p.client_port << 16 | p.vip_port
        hashed = pair(hashed, p.vip_address[0] ^ p.vip_address[1] ^ numbers, turned)
    elif ports:
        hashed = pair(hashed, ports, turned)
    return hashed % SLOTS


def is_new(p: Packet) -> bool:
    """Whether a packet may be the first of its flow."""
    return p.kind in NEW
