# SPDX-License-Identifier: Apache-2.0
"""The keyed hashes of bpf/hash.h on plain integers.

core.hashing does the same over numpy arrays; for one packet at a time that costs twenty times as
much. A test holds the two together. What was hashed of late is remembered.
"""

from functools import lru_cache

WORD = (1 << 64) - 1
MULTIPLIER = 0xD6E8FEB86659FD93
REMEMBERED = 1 << 15


def mix(x: int) -> int:
    """One word, mixed: a bijection of 64 bits."""
    x = ((x ^ x >> 32) * MULTIPLIER) & WORD
    x = ((x ^ x >> 32) * MULTIPLIER) & WORD
    return x ^ x >> 32


@lru_cache(maxsize=REMEMBERED)
def pair(high: int, low: int, key: tuple[int, int]) -> int:
    """Two words under a key of two words."""
    return mix(mix(high ^ key[0]) ^ low ^ key[1])
