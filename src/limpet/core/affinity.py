# SPDX-License-Identifier: Apache-2.0
"""Affinity: which part of a packet picks its slot, and which slot that is.

The same rule as bpf/affinity.h, and the same on every director, given the same slot key. `client`
looks at the client's address alone (IPv6: its /64, since one machine may use all addresses of it),
so that all connections of a client meet on one backend; `client+ports` also at the range of its
port, as `client` does for a mega-proxy; `flow` looks at the whole 5-tuple.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limpet.core import hashing
from limpet.core.model import SLOTS, Address, Affinity, Protocol

ALL = (1 << 64) - 1
ADDRESS_BITS = {4: 32, 6: 128}
CLIENT_PREFIX = {4: 32, 6: 64}  # that count if the VIP does not say
PORT_BITS = 16


def prefix(family: int, wanted: int | None) -> int:
    """How many bits of a client's address count."""
    return CLIENT_PREFIX[family] if wanted is None else wanted


def mask(affinity: Affinity, family: int, bits: int | None = None) -> tuple[int, int]:
    """Mask over the client's address words: what of it counts; `bits` is the VIP's prefix."""
    whole = ADDRESS_BITS[family]
    kept = whole if affinity is Affinity.FLOW else prefix(family, bits)
    mask = ((1 << 128) - 1) ^ ((1 << (whole - kept)) - 1)
    return mask >> 64, mask & ALL


def mask_prefix(words: tuple[int, int], family: int) -> int:
    """The prefix that a mask keeps."""
    return (words[0].bit_count() + words[1].bit_count()) - (128 - ADDRESS_BITS[family])


def shift(port_ranges: int) -> int:
    """Bits by which a port is shifted to give its range."""
    return PORT_BITS + 1 - port_ranges.bit_length()


def port_range(client_port: ArrayLike, port_ranges: int) -> NDArray[np.uint64]:
    """Range of a port as keys and hashes have it: from 1; 0 is the whole client."""
    return (np.asarray(client_port, np.uint64) >> np.uint64(shift(port_ranges))) + np.uint64(1)


@dataclass(frozen=True, slots=True)
class Tuple:
    """What affinity looks at. Client words and ports may be numpy arrays of one shape."""

    client: tuple[ArrayLike, ArrayLike]
    client_port: ArrayLike
    vip: Address
    vip_port: ArrayLike
    protocol: Protocol


def slots(
    affinity: Affinity,
    flow: Tuple,
    key: tuple[int, int],
    *,
    bits: int | None = None,
    port_ranges: int = 0,
) -> NDArray[np.uint64]:
    """Slot of every flow, 0 to 65535, in the shape of the arguments.

    `bits`: the VIP's prefix. `port_ranges`: those of the VIP for client+ports, those of
    mega-proxies for a client that is split, else 0.
    """
    keep = mask(affinity, flow.vip.version, bits)
    high = np.asarray(flow.client[0], np.uint64) & np.uint64(keep[0])
    low = np.asarray(flow.client[1], np.uint64) & np.uint64(keep[1])
    hashed = hashing.pair(high, low, key)
    turned = (key[1], key[0])
    if affinity is Affinity.FLOW:
        vip_high, vip_low = hashing.words(flow.vip)
        ports = (
            np.uint64(flow.protocol.number << 32)
            | np.asarray(flow.client_port, np.uint64) << np.uint64(16)
            | np.asarray(flow.vip_port, np.uint64)
        )
        hashed = hashing.pair(hashed, np.uint64(vip_high ^ vip_low) ^ ports, turned)
    elif port_ranges:
        hashed = hashing.pair(hashed, port_range(flow.client_port, port_ranges), turned)
    return hashed & np.uint64(SLOTS - 1)
