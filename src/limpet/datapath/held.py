# SPDX-License-Identifier: Apache-2.0
"""Held: packets that the program has put aside until another director says whose flow they are of.

They come out of the ring `held` as they came in, link header included. Whoever reads it slowly is
bounded by that: when the ring is full, the program sends such packets to the home of their slot,
and counts them as orphans. So a reader that paces itself bounds the work that a flood makes here.
"""

import numpy as np
from numpy.typing import NDArray

from limpet.datapath import abi


def frames(records: NDArray[np.void]) -> list[bytes]:
    """The packets of HELD records, each in its own length."""
    size, start = abi.HELD.itemsize, abi.HELD.fields["frame"][1]  # type: ignore[index]
    data = records.tobytes()
    return [
        data[at : at + length]
        for at, length in zip(
            range(start, len(data), size), records["length"].tolist(), strict=True
        )
    ]
