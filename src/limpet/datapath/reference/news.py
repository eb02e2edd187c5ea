# SPDX-License-Identifier: Apache-2.0
"""What the daemon, and through it the other directors, are told: sessions and flows that they would
not find, because they are not at the home of their slot, have moved, or were known elsewhere.

A director that stands alone tells nothing. Not here: how news travels.
"""

from dataclasses import dataclass
from typing import NamedTuple

from limpet.datapath.abi import ExceptionFlag, ExceptionKind
from limpet.datapath.reference.packet import Packet, Words
from limpet.datapath.reference.sessions import Key

SESSION, FLOW = ExceptionKind.SESSION, ExceptionKind.FLOW


class Name(NamedTuple):
    """Name of an exception: struct exception_key."""

    client: Words  # of a session under the VIP's mask
    range: int  # of a session: 0 or 1 + range of ports; of a flow: client port << 16 | VIP port
    vip: int
    kind: ExceptionKind


@dataclass(frozen=True, slots=True)
class News:
    """A session or flow that began, moved or was split here: struct news."""

    name: Name
    tick: int
    backend: int
    flags: int = 0  # bits of enum exception_flag


def name_of_flow(p: Packet, vip: int) -> Name:
    """The name of just this flow."""
    return tuple.__new__(Name, (p.client, p.client_port << 16 | p.vip_port, vip, FLOW))


def name_of_session(key: Key) -> Name:
    """The name of a client's session, or of one of a range of its ports."""
    client, vip, ports = key
    return tuple.__new__(Name, (client, ports, vip, SESSION))


class NewsDesk:
    """Takes what a packet brings about. `now` is a tick."""

    def __init__(self, is_member: bool) -> None:
        self._is_member = is_member
        self._told: list[News] = []

    def tell_session(self, key: Key, backend: int, now: int, flags: int = 0) -> None:
        """Of a session."""
        self._tell(News(name_of_session(key), now, backend, flags))

    def tell_split(self, key: Key, backend: int, now: int) -> None:
        """That flows of a client have sessions by the range of their ports from now on."""
        self.tell_session(key, backend, now, ExceptionFlag.SPLIT | ExceptionFlag.ASK)

    def tell_flow(self, p: Packet, vip: int, backend: int, now: int) -> None:
        """Of a flow that no session tells of."""
        self._tell(News(name_of_flow(p, vip), now, backend))

    def _tell(self, news: News) -> None:
        if self._is_member:
            self._told.append(news)

    @property
    def has_news(self) -> bool:
        """Whether there is something to take."""
        return bool(self._told)

    def take(self) -> tuple[News, ...]:
        """What was told since the last time, in order."""
        told, self._told = tuple(self._told), []
        return told
