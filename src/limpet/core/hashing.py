# SPDX-License-Identifier: Apache-2.0
"""The keyed hashes of bpf/hash.h, bit for bit, over numpy arrays of any shape or integers.

Addresses are pairs of host-order 64-bit words of the 16 byte form (IPv4 as ::ffff:a.b.c.d), see
`words`. Keyed by secrets that must be the same wherever a hash must be; docs/adr/0003-hash.md says
why this function.
"""

from ipaddress import IPv4Address, IPv6Address

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limpet.core.model import Address

MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
MAPPED = 0xFFFF << 32
HALF = np.uint64(32)
Words = NDArray[np.uint64]


def mix(value: ArrayLike) -> Words:
    """One word, mixed: a bijection of 64 bits."""
    x = np.asarray(value, np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(2):
            x = (x ^ (x >> HALF)) * MULTIPLIER
    return x ^ (x >> HALF)


def pair(high: ArrayLike, low: ArrayLike, key: tuple[int, int]) -> Words:
    """Two words under a key of two words."""
    first = mix(np.asarray(high, np.uint64) ^ np.uint64(key[0]))
    return mix(first ^ np.asarray(low, np.uint64) ^ np.uint64(key[1]))


def words(address: Address) -> tuple[int, int]:
    """An address as (high, low) words of its 16 byte form."""
    if isinstance(address, IPv4Address):
        return 0, MAPPED | int(address)
    return int(address) >> 64, int(address) & (1 << 64) - 1


def address(high: int, low: int) -> Address:
    """The inverse of `words`."""
    if high == 0 and low >> 32 == 0xFFFF:
        return IPv4Address(low & 0xFFFF_FFFF)
    return IPv6Address(high << 64 | low)


def key_words(key: bytes) -> tuple[int, int]:
    """A 16 byte key as the two words that the hashes take."""
    if len(key) != 16:
        raise ValueError(f"a key has 16 bytes, not {len(key)}")
    return int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
