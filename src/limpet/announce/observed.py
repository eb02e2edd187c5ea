# SPDX-License-Identifier: Apache-2.0
"""Observed: what is announced and how peers do, as read back from who announces it.

What was asked for is not what is so: drivers say only what they have read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from limpet.core.model import Address


@dataclass(frozen=True, slots=True)
class PeerState:
    """A router."""

    name: str
    address: str
    asn: int
    is_up: bool
    state: str  # in BIRD's words: Established, Active, Connect ...
    error: str = ""  # the last one, while it is down


@dataclass(frozen=True, slots=True)
class Exported:
    """A route as one receiver is told of it."""

    to: str  # name of the peer, or "table 117"
    communities: tuple[tuple[int, int], ...] = ()
    med: int | None = None
    path: tuple[int, ...] = ()  # before our own AS is put there at the border


@dataclass(frozen=True, slots=True)
class Observed:
    """All of it."""

    routes: Mapping[Address, tuple[Exported, ...]] = field(default_factory=dict)
    peers: tuple[PeerState, ...] = ()

    @property
    def announced(self) -> frozenset[Address]:
        return frozenset(self.routes)
