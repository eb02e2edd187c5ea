# SPDX-License-Identifier: Apache-2.0
"""bpf/csum.h computes the internet checksum (RFC 1071, RFC 1624)."""

from itertools import product

from hypothesis import assume, given
from hypothesis import strategies as st
from scapy.utils import checksum

from host.library import Library

WORD = st.integers(0, 0xFFFF)
EDGES = (0, 1, 2, 0xFF, 0x100, 0x7FFF, 0x8000, 0x8001, 0xFF00, 0xFFFD, 0xFFFE, 0xFFFF)


def plain(words: list[int]) -> int:
    """Checksum as RFC 1071 defines it, by carrying one by one."""
    total = 0
    for word in words:
        total += word
        if total > 0xFFFF:
            total -= 0xFFFF
    return ~total & 0xFFFF


@given(st.lists(WORD, min_size=1, max_size=700))
def test_fold_of_a_sum_is_the_checksum_that_scapy_computes(
    library: Library, words: list[int]
) -> None:
    data = b"".join(word.to_bytes(2, "big") for word in words)
    assert ~library.call.host_fold(sum(words)) & 0xFFFF == checksum(data)


@given(st.integers(0, (1 << 64) - 1))
def test_fold_keeps_any_sum_modulo_65535(library: Library, total: int) -> None:
    folded = library.call.host_fold(total)
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)


def replaced_is_recomputed(library: Library, rest: list[int], old: int, new: int) -> None:
    got = library.call.host_replace(plain([*rest, old]), old, new)
    assert got == plain([*rest, new]), f"{rest}: {old:#x} -> {new:#x} gives {got:#x}"


def test_replacing_a_word_is_recomputing_for_all_edge_values(library: Library) -> None:
    """All-zero data is left out: no header is, and RFC 1624 cannot tell its two zeros apart."""
    for other, old, new in product(EDGES, repeat=3):
        if other or new:
            replaced_is_recomputed(library, [other], old, new)


@given(rest=st.lists(WORD, min_size=1, max_size=30), old=WORD, new=WORD)
def test_replacing_a_word_is_recomputing(
    library: Library, rest: list[int], old: int, new: int
) -> None:
    assume(any(rest) or new)
    replaced_is_recomputed(library, rest, old, new)
