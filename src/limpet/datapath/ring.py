# SPDX-License-Identifier: Apache-2.0
"""Ring: records that the data path has for the daemon, read out of a BPF ring buffer in memory.

The kernel shares the producer's position and the data, twice in a row so that no record is cut at
the end, and takes the consumer's position from us. One reader at a time. The descriptor becomes
readable when there is something (`loop.add_reader`).

Source: Documentation/bpf/ringbuf.rst in the kernel.
"""

import mmap
import struct

import numpy as np
from numpy.typing import NDArray

HEADER = 8  # u32 length with two flags, u32 page offset
BUSY, DISCARDED = 1 << 31, 1 << 30
POSITION = struct.Struct("=Q")
LENGTH = struct.Struct("=I")


class Ring:
    """The reading end of a ring of records of one kind."""

    def __init__(self, fd: int, size: int, record: np.dtype[np.void]) -> None:
        """`size`: bytes of data, max_entries of the map."""
        self.fd, self._size, self._record = fd, size, record
        page = mmap.PAGESIZE
        both = mmap.PROT_READ | mmap.PROT_WRITE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, both)
        length = page + 2 * size
        self._producer = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def read(self, most: int | None = None) -> NDArray[np.void]:
        """The records that are there, the first `most`; they are gone from the ring afterwards."""
        at = POSITION.unpack_from(self._consumer)[0]
        (end,) = POSITION.unpack_from(self._producer)
        found = bytearray()
        limit = None if most is None else most * self._record.itemsize
        while at < end and (limit is None or len(found) < limit):
            start = mmap.PAGESIZE + at % self._size
            (length,) = LENGTH.unpack_from(self._producer, start)
            if length & BUSY:
                break
            size = length & ~DISCARDED
            if not length & DISCARDED:
                found += self._producer[start + HEADER : start + HEADER + self._record.itemsize]
            at += (size + HEADER + 7) // 8 * 8
        POSITION.pack_into(self._consumer, 0, at)
        return np.frombuffer(bytes(found), self._record)

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
