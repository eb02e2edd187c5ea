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
    """Checksum of data of even length."""
    words = (int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    return fold(sum(words)) ^ 0xFFFF


def replaced(check: int, before: int, after: int) -> int:
    """The checksum after one word changed (RFC 1624, equation 3)."""
    return fold((check ^ 0xFFFF) + (before ^ 0xFFFF) + after) ^ 0xFFFF
