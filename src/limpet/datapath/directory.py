# SPDX-License-Identifier: Apache-2.0
"""Directory: the map of exceptions, a hash, read and written in batches by system calls.

Only user space writes it: what other directors told, and what they answered. Packets read it on a
miss. A batch that does not fit is put as far as it goes; the caller hears how far, and counts.
"""

import numpy as np
from numpy.typing import NDArray

from limpet.datapath import bpf
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY

Rows = NDArray[np.void]
BATCH = 4_096  # entries a call: short enough for whoever waits for the thread


class DirectoryMap:
    """The map `directory` of one director."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def put(self, keys: Rows, values: Rows) -> int:
        """Write EXCEPTION_KEY -> EXCEPTION, shapes (n,); how many there was room for."""
        done = 0
        for at in range(0, len(keys), BATCH):
            part = slice(at, at + BATCH)
            written = bpf.map_update_batch(
                self._fd, keys[part].tobytes(), values[part].tobytes(), len(keys[part])
            )
            done += written
            if written < len(keys[part]):
                break
        return done

    def remove(self, keys: Rows) -> int:
        """Remove these, shape (n,); how many were there."""
        return sum(bpf.map_discard(self._fd, key.tobytes()) for key in keys)

    def get(self, key: Rows) -> Rows | None:
        """The EXCEPTION of one EXCEPTION_KEY, both of shape (); None if there is none."""
        found = bpf.map_find(self._fd, key.tobytes(), EXCEPTION.itemsize)
        return None if found is None else np.frombuffer(found, EXCEPTION)[0]

    def items(self) -> tuple[Rows, Rows]:
        """All of it: keys and values, shapes (n,)."""
        sizes = (EXCEPTION_KEY.itemsize, EXCEPTION.itemsize)
        keys, values = bpf.map_items(self._fd, *sizes, BATCH)
        return np.frombuffer(keys, EXCEPTION_KEY), np.frombuffer(values, EXCEPTION)

    def backends(self) -> set[int]:
        """Ids that its entries name."""
        return set(np.unique(self.items()[1]["backend"]).tolist())

    def clear(self) -> None:
        self.remove(self.items()[0])
