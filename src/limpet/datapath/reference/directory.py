# SPDX-License-Identifier: Apache-2.0
"""What other directors have told: sessions and flows that are not where their slot says.

Looked at for a new flow, and for an existing one that has no entry here. Where a session of this
director's own says otherwise, the later of the two counts: the client was elsewhere meanwhile.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from limpet.core.model import Affinity
from limpet.datapath.abi import ExceptionFlag, FlowSession
from limpet.datapath.reference.choice import is_new
from limpet.datapath.reference.news import Name, name_of_flow, name_of_session
from limpet.datapath.reference.packet import Kind, Packet
from limpet.datapath.reference.rows import Vip
from limpet.datapath.reference.seat import Seat, Seats
from limpet.datapath.reference.sessions import TICKS, key_of

CLIENT = Affinity.CLIENT
FIRST, LATER_FRAGMENT = Kind.FIRST, Kind.LATER_FRAGMENT


class Told(NamedTuple):
    """Where an exception is: struct exception. Ticks of this director."""

    since: int  # when it began or was last moved
    until: int  # the last tick at which it is used
    backend: int
    flags: int = 0  # bits of enum exception_flag


class HintState(Enum):
    """What was found."""

    NONE = auto()
    SESSION = auto()  # where the client's session is; newer than what is known here
    FLOW = auto()  # where just this flow is


@dataclass(slots=True, eq=False)
class Hint:
    """What the directory says about a flow."""

    state: HintState = HintState.NONE
    backend: int = 0
    flags: int = 0  # of the client's session
    is_known: bool = False  # there is an exception of this name, expired or not
    is_orphan: bool = False  # the flow was asked for, and nobody knows it; a flow's: but guessed
    is_answer: bool = False  # of a flow: by its owner, who was asked
    is_apart: bool = False  # of a flow: the client's session is elsewhere,
    is_newer: bool = False  # and what is known of it here is older


NO_HINT = Hint()  # never written


def is_later(tick: int, other: int) -> bool:
    """Ticks wrap round."""
    return 0 < (tick - other) % TICKS < TICKS // 2


class Directory:
    """The exceptions, and what they say about a flow. `now` is a tick."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self.exceptions: dict[Name, Told] = {}

    def look(self, vip: Vip, p: Packet, seat: Seat | None, now: int) -> tuple[Seat | None, Hint]:
        """The hint; the seat is another one if the client was split elsewhere."""
        if not self.exceptions:
            return seat, NO_HINT
        hint = Hint()
        has_ports = p.kind is not LATER_FRAGMENT
        if has_ports and (p.kind is not FIRST or seat is None):
            self._look_for_flow(hint, vip, p, now)
        if seat is None:
            return None, hint
        told = self._find(hint, name_of_session(seat.key), now)
        if told is None:
            return seat, hint
        is_whole = vip.affinity is CLIENT and not seat.key.range and has_ports
        if told.flags & ExceptionFlag.SPLIT and is_whole:
            hint.flags = told.flags
            seat = self._split(vip, p, now)
            told = self._find(hint, name_of_session(seat.key), now)
        if told is not None:
            self._take(hint, told, seat)
        return seat, hint

    def _find(self, hint: Hint, name: Name, now: int) -> Told | None:
        told = self.exceptions.get(name)
        if told is None:
            return None
        hint.is_known = True
        return None if is_later(now, told.until) else told

    def _look_for_flow(self, hint: Hint, vip: Vip, p: Packet, now: int) -> None:
        told = self._find(hint, name_of_flow(p, vip.id), now)
        if told is None:
            return
        hint.is_orphan = bool(told.flags & ExceptionFlag.ORPHAN)
        if hint.is_orphan and (is_new(p) or not told.flags & ExceptionFlag.ANSWER):
            return
        hint.state, hint.backend = HintState.FLOW, told.backend
        hint.is_answer = bool(told.flags & ExceptionFlag.ANSWER)

    def _split(self, vip: Vip, p: Packet, now: int) -> Seat:
        """The client was split by another director: its flows belong to the session of their range,
        here as there.
        """
        key = key_of(vip, p.client, vip.split_range(p.client_port))
        return self._seats.look(key, FlowSession.SESSION_RANGE, p, now)

    def _take(self, hint: Hint, told: Told, seat: Seat) -> None:
        hint.flags |= told.flags
        live = seat.live
        is_newer = live is None or (
            live.backend != told.backend and is_later(told.since, seat.seen)
        )
        if live is not None and is_newer:
            live.seen = seat.seen  # as if this packet had not refreshed it
        if hint.state is HintState.FLOW:
            hint.is_apart, hint.is_newer = told.backend != hint.backend, is_newer
            return
        if is_newer:
            hint.state, hint.backend = HintState.SESSION, told.backend
