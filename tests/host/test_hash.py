# SPDX-License-Identifier: Apache-2.0
"""bpf/hash.h and core/hashing.py are one function."""

import random

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from host.library import Library
from limpet.core import hashing

WORD = st.integers(0, (1 << 64) - 1)
EDGES = (0, 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1)


@given(x=WORD)
@example(x=0)
@example(x=(1 << 64) - 1)
def test_mix_is_the_same_in_c_and_in_python(library: Library, x: int) -> None:
    assert library.call.host_mix(x) == int(hashing.mix(x))


@given(high=WORD, low=WORD, key=st.tuples(WORD, WORD))
def test_pair_is_the_same_in_c_and_in_python(
    library: Library, high: int, low: int, key: tuple[int, int]
) -> None:
    assert library.call.host_pair(high, low, *key) == int(hashing.pair(high, low, key))


def test_pair_over_arrays_is_the_same_as_one_by_one(library: Library) -> None:
    high, low = (grid.ravel() for grid in np.meshgrid(*[np.array(EDGES, np.uint64)] * 2))
    expected = [
        library.call.host_pair(int(h), int(w), 1, 2) for h, w in zip(high, low, strict=True)
    ]
    assert hashing.pair(high, low, (1, 2)).tolist() == expected


def test_every_input_bit_moves_half_of_the_output_bits(library: Library) -> None:
    """Over 1,000 words each of the 64 x 64 pairs flips in 42 to 58 % (5 sigma)."""
    rng = random.Random(20)
    words = np.array([rng.getrandbits(64) for _ in range(1_000)], np.uint64)
    mixed = np.array([library.call.host_mix(int(word)) for word in words], np.uint64)
    for bit in range(64):
        flipped = words ^ np.uint64(1 << bit)
        moved = mixed ^ np.array([library.call.host_mix(int(w)) for w in flipped], np.uint64)
        shares = (moved[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).mean(axis=0)
        assert shares.min() > 0.42
        assert shares.max() < 0.58
