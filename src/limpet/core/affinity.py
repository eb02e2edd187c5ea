# SPDX-License-Identifier: Apache-2.0
"""Affinity: which part of a packet picks its slot, and which slot that is.

The same rule as bpf/affinity.h, and the same on every director, given the same slot key. `client`
looks at the client's address alone (IPv6: its /64, since one machine may use all addresses of it),
so that all connections of a client meet on one backend; `flow` looks at the whole 5-tuple.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limpet.core import hashing
from limpet.core.model import SLOTS, Address, Affinity, Protocol

ALL = (1 << 64) - 1
CLIENT_MASK = {4: (ALL, ALL), 6: (ALL, 0)}
FLOW_MASK = (ALL, ALL)


def mask(affinity: Affinity, family: int) -> tuple[int, int]:
    """Mask over the client's address words: what of it counts."""
    return CLIENT_MASK[family] if affinity is Affinity.CLIENT else FLOW_MASK


@dataclass(frozen=True, slots=True)
class Tuple:
    """What affinity looks at. Client words and ports may be numpy arrays of one shape."""

    client: tuple[ArrayLike, ArrayLike]
    client_port: ArrayLike
    vip: Address
    vip_port: ArrayLike
    protocol: Protocol


def slots(affinity: Affinity, flow: Tuple, key: tuple[int, int]) -> NDArray[np.uint64]:
    """Slot of every flow, 0 to 65535, in the shape of the arguments."""
    keep = mask(affinity, flow.vip.version)
    high = np.asarray(flow.client[0], np.uint64) & np.uint64(keep[0])
    low = np.asarray(flow.client[1], np.uint64) & np.uint64(keep[1])
    hashed = hashing.pair(high, low, key)
    if affinity is Affinity.FLOW:
        vip_high, vip_low = hashing.words(flow.vip)
        ports = (
            np.uint64(flow.protocol.number << 32)
            | np.asarray(flow.client_port, np.uint64) << np.uint64(16)
            | np.asarray(flow.vip_port, np.uint64)
        )
        rest = np.uint64(vip_high ^ vip_low) ^ ports
        hashed = hashing.pair(hashed, rest, (key[1], key[0]))
    return hashed & np.uint64(SLOTS - 1)
