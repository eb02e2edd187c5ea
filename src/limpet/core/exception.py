# SPDX-License-Identifier: Apache-2.0
"""Exceptions: live sessions and flows that are not where their slot says, as directors tell them.

An entry names a session or flow, its backend, and how long that holds. It travels in batches, in
the log of the director that wrote it, signed with the cluster's key, and never changes. Of entries
with one name the last counts: by generation, then hybrid time, then origin, and so on through every
field, so that any two directors that have read the same entries, in any order and however often,
agree. Hybrid time is milliseconds of the wall clock, but always later than that of the entry which
its writer knew and overruled; clocks that differ by a little cannot bring back what was overruled.

Pure: numpy records in, numpy records or bytes out. docs/formats/directory-entry.md draws them.
Not here: what is an exception, and when it is told.
"""

import hmac
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from limpet.core import hashing
from limpet.core.errors import LimpetError

BATCH_MAX = 256  # entries
VERSION = 1
MAGIC = b"LPX"
SIGNATURE_BYTES = 32
KEY_BYTES_MAX = 64  # of BLAKE2b; a longer key is hashed first
PURPOSE = b"limpet-directory"  # so that a signature of another kind of message is none here

Records = NDArray[np.void]  # RECORD[n]
Keys = NDArray[np.void]  # KEY[n]


class Kind(IntEnum):
    """What an entry is about; enum exception_kind of bpf/abi.h."""

    SESSION = 1
    FLOW = 2


class Flag(IntFlag):
    """Bits of an entry's flags; the lower four are enum exception_flag of bpf/abi.h."""

    ASK = 1
    SPLIT = 2
    ORPHAN = 4
    ANSWER = 8
    GONE = 128  # a tombstone: there is no such exception any more


KEY = np.dtype(
    [("client", "<u8", (2,)), ("range", "<u4"), ("vip", "<u2"), ("kind", "<u2")], align=True
)
# An entry as it travels. Times are Unix time in milliseconds.
ENTRY = np.dtype(
    [
        ("key", KEY),
        ("time", "<u8"),
        ("expiry", "<u8"),
        ("backend", "<u2"),
        ("flags", "u1"),
        ("reserved", "u1"),
    ]
)
# An entry as it is kept: with what its batch says of all its entries.
RECORD = np.dtype(
    [
        ("key", KEY),
        ("time", "<u8"),
        ("expiry", "<u8"),
        ("origin", "<u8"),  # `origin_of` the director that wrote it
        ("generation", "<u4"),
        ("backend", "<u2"),
        ("flags", "u1"),
        ("reserved", "u1"),
    ]
)
HEADER = np.dtype(
    [
        ("magic", "S3"),
        ("version", "u1"),
        ("generation", "<u4"),
        ("origin", "<u8"),
        ("sent", "<u8"),  # when the batch was made, for the lag of those who read it
        ("count", "<u2"),
        ("reserved", "u1", (6,)),
    ]
)
assert (KEY.itemsize, ENTRY.itemsize, RECORD.itemsize, HEADER.itemsize) == (24, 44, 56, 32)
KEY_WORDS, RECORD_WORDS = KEY.itemsize // 8, RECORD.itemsize // 8
# In the order in which they decide. The last three only make sure that somebody wins.
ORDER = ("generation", "time", "origin", "expiry", "backend", "flags")
SHARED = ("key", "time", "expiry", "backend", "flags")  # fields of both an entry and a record


class BatchError(LimpetError):
    """A batch that is not to be believed. `reason` is "signature", "form" or "origin"."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(f"session directory: a batch is not used: {why}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Told:
    """What a batch says."""

    records: Records
    sent: int  # Unix time in ms


def origin_of(director: str) -> int:
    """The number that stands for a director's name in entries, the same everywhere."""
    return int.from_bytes(blake2b(director.encode(), digest_size=8).digest(), "little")


def encode(records: Records, director: str, sent: int, secret: bytes) -> bytes:
    """A signed batch of up to BATCH_MAX records, all of one generation."""
    assert 0 < len(records) <= BATCH_MAX, f"{len(records)} entries in a batch"
    header = np.zeros((), HEADER)
    header["magic"], header["version"] = MAGIC, VERSION
    header["generation"], header["origin"] = records["generation"][0], origin_of(director)
    header["sent"], header["count"] = sent, len(records)
    entries = np.zeros(len(records), ENTRY)
    for name in SHARED:
        entries[name] = records[name]
    body = header.tobytes() + entries.tobytes()
    return body + _signature(body, secret)


def decode(data: bytes, director: str, secret: bytes) -> Told:
    """What a batch in the log of `director` says. Raises BatchError; any bytes are fine."""
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if len(body) < HEADER.itemsize:
        raise BatchError("form", f"it has {len(data)} bytes only")
    if not hmac.compare_digest(_signature(body, secret), signature):
        raise BatchError("signature", "it is not signed with this cluster's key")
    header = np.frombuffer(body, HEADER, 1)[0]
    if bytes(header["magic"]) != MAGIC or header["version"] != VERSION:
        raise BatchError("form", f"its format is not version {VERSION}")
    count = int(header["count"])
    if count > BATCH_MAX or len(body) != HEADER.itemsize + count * ENTRY.itemsize:
        raise BatchError("form", f"it says {count} entries, in {len(data)} bytes")
    if header["origin"] != origin_of(director):
        raise BatchError("origin", f"it is in the log of {director!r}, but another's")
    entries = np.frombuffer(body, ENTRY, count, HEADER.itemsize)
    records = np.zeros(count, RECORD)
    for name in SHARED:
        records[name] = entries[name]
    records["origin"], records["generation"] = header["origin"], header["generation"]
    return Told(records, int(header["sent"]))


def _signature(body: bytes, secret: bytes) -> bytes:
    key = secret if len(secret) <= KEY_BYTES_MAX else blake2b(secret).digest()
    return blake2b(body, digest_size=SIGNATURE_BYTES, key=key, person=PURPOSE).digest()


# --- Merge ---------------------------------------------------------------------------------------


def is_newer(records: Records, than: Records) -> NDArray[np.bool_]:
    """Whether each record overrules its counterpart of the same name. A record not itself."""
    newer = np.zeros(len(records), np.bool_)
    equal = np.ones(len(records), np.bool_)
    for name in ORDER:
        newer |= equal & (records[name] > than[name])
        equal &= records[name] == than[name]
    return newer


def merge(some: Records, more: Records) -> Records:
    """The newest record of every name that either has, in the order of their names."""
    both = np.concatenate([some, more])
    names = words(both["key"])
    order = np.lexsort([*(both[name] for name in reversed(ORDER)), *names.T])
    both, names = both[order], names[order]
    is_last = np.ones(len(both), np.bool_)
    is_last[:-1] = (names[1:] != names[:-1]).any(axis=1)
    return both[is_last]


def words(keys: Keys) -> NDArray[np.uint64]:
    """Names as 64-bit words, shape (n, 3): cheaper to compare than records."""
    found = np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), KEY_WORDS)
    return found


def hashes(names: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """A keyed hash of each name; `names` as `words` gives them."""
    first = hashing.pair(names[:, 0], names[:, 1], key)
    return hashing.mix(first ^ names[:, 2])


def joined(parts: list[Records]) -> Records:
    """Records one after the other; the only part is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
