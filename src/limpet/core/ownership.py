# SPDX-License-Identifier: Apache-2.0
"""Ownership: "whose flow is this?", the question and its answers, and which answer counts.

A director knows a flow by its connection table, or by what it knows of the client: so answers have
a rank, `Known`, and of several the best counts (`merge`, which is commutative: the order in which
peers answer decides nothing). Numbers of VIPs and backends are those of the cluster's registry, the
same on every director.

Pure. Not here: how it travels (core/sealing.py), and who asks whom when (daemon/ownership).
docs/formats/ownership-datagram.md draws the records.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

QUESTION = np.dtype(
    [
        ("client", ">u8", (2,)),  # words of the 16 byte form
        ("client_port", ">u2"),
        ("vip_port", ">u2"),
        ("vip", ">u2"),
        ("reserved", ">u2"),
    ]
)
ANSWER = np.dtype(
    [
        ("known", "u1"),  # enum Known
        ("reserved", "u1"),
        ("backend", ">u2"),
        ("idle_ms", ">u4"),  # since the last packet, as far as is known
        ("generation", ">u4"),  # of the registry that the director answers by
    ]
)
Records = NDArray[np.void]
IDLE_MAX_MS = (1 << 32) - 1
GENERATION_MAX = (1 << 32) - 1


class Known(IntEnum):
    """What a director knows of a flow, the best first; each counts more than all below it."""

    NOTHING = 0
    OPEN = 1  # it is in the connection table, and more than one packet of it was seen
    HALF_OPEN = 2  # one packet was seen, or its end
    LATE = 3  # it has expired, and its backend is remembered
    TOLD = 4  # the session directory has the flow
    GUESSED = 5  # it is in the connection table, but went home because nobody knew it
    SESSION = 6  # its client has a live session
    SESSION_TOLD = 7  # the session directory has one
    SESSION_PAST = 8  # it had one, which has expired


def nothing(count: int) -> Records:
    """So many answers of a director that knows nothing."""
    return np.zeros(count, ANSWER)


def is_final(answers: Records) -> NDArray[np.bool_]:
    """Which need no other director's answer: the flow is seen to be open there."""
    final: NDArray[np.bool_] = answers["known"] == Known.OPEN
    return final


def merge(best: Records, more: Records) -> None:
    """Keep the better of each pair in `best`: of the better rank, then the one that had a packet
    last, then of the newer generation, then of the lower number of backend."""
    better = _is_before(_order(more), _order(best))
    best[better] = more[better]


Order = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def _order(answers: Records) -> Order:
    """Two words that sort answers, the best first."""
    rank = (answers["known"].astype(np.uint64) - np.uint64(1)) & np.uint64(0xFF)  # nothing: last
    idle = answers["idle_ms"].astype(np.uint64)
    age = np.uint64(GENERATION_MAX) - answers["generation"].astype(np.uint64)
    first = rank << np.uint64(32) | idle
    return first, age << np.uint64(16) | answers["backend"].astype(np.uint64)


def _is_before(one: Order, other: Order) -> NDArray[np.bool_]:
    before: NDArray[np.bool_] = (one[0] < other[0]) | ((one[0] == other[0]) & (one[1] < other[1]))
    return before
