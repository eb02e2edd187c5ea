# SPDX-License-Identifier: Apache-2.0
"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Words are 16 bits in
network order.
"""


def fold(total: int) -> int:
    """A sum of words, folded to 16 bits with the carries added back in; not inverted."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes | bytearray) -> int:
    """Checksum of data of even length.

    The folded sum of words is the data as one number, modulo 65535, since 65536 is 1 modulo that;
    a sum that is not zero folds to 65535, never to 0.
    """
    whole = int.from_bytes(data, "big")
    total = whole % 0xFFFF or (0xFFFF if whole else 0)
    return total ^ 0xFFFF


def replaced(check: int, before: int, after: int) -> int:
    """The checksum after one word changed (RFC 1624, equation 3)."""
    return fold((check ^ 0xFFFF) + (before ^ 0xFFFF) + after) ^ 0xFFFF
