# SPDX-License-Identifier: Apache-2.0
"""A snapshot of a store as bytes: what either store wrote, either can read.

A line that names the format, an index as one line of JSON, then values and blobs one after the
other; all of it compressed, with a SHA-256 of the rest in front. Logs are not in it, but for where
they end: what is in them can be told anew by those who wrote it.

What cannot be read is refused whole, before anything is changed.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from limpet.core.errors import ConfigError, Problem

FORMAT = b"limpet snapshot 1\n"
DIGEST_BYTES = 32
SNAPSHOT_BYTES_MAX = 1 << 30  # unpacked
LOG_GAP = 1_000_000  # a log goes on this far behind its end: who had read more notices


@dataclass(slots=True)
class Snapshot:
    """What a store held."""

    revision: int = 0  # of the store's newest change
    entries: dict[str, bytes] = field(default_factory=dict)
    logs: dict[str, int] = field(default_factory=dict)  # sequence of the last batch
    blobs: list[bytes] = field(default_factory=list)  # those put last are last


def encode(snapshot: Snapshot) -> bytes:
    index = {
        "revision": snapshot.revision,
        "entries": [[key, len(value)] for key, value in snapshot.entries.items()],
        "logs": snapshot.logs,
        "blobs": [len(blob) for blob in snapshot.blobs],
    }
    parts = [FORMAT, json.dumps(index).encode(), b"\n"]
    packed = zlib.compress(b"".join([*parts, *snapshot.entries.values(), *snapshot.blobs]), 1)
    return hashlib.sha256(packed).digest() + packed


def decode(data: bytes) -> Snapshot:
    """Raises ConfigError for anything but a whole snapshot."""
    digest, packed = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != digest:
        raise _unreadable("it is not a snapshot, or not a whole one")
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(packed, SNAPSHOT_BYTES_MAX)
    if unpacking.unconsumed_tail:
        raise _unreadable(f"it is larger than {SNAPSHOT_BYTES_MAX:,} bytes")
    if not unpacked.startswith(FORMAT):
        raise _unreadable("it was written by a newer version")
    end = unpacked.index(b"\n", len(FORMAT))
    index = json.loads(unpacked[len(FORMAT) : end])
    return _filled(index, memoryview(unpacked)[end + 1 :])


def _filled(index: dict[str, Any], rest: memoryview) -> Snapshot:
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return bytes(rest[at - size : at])

    snapshot = Snapshot(revision=index["revision"])
    snapshot.entries = {key: take(size) for key, size in index["entries"]}
    snapshot.logs = index["logs"]
    snapshot.blobs = [take(size) for size in index["blobs"]]
    return snapshot


def _unreadable(why: str) -> ConfigError:
    mend = "give what `limpet store snapshot` wrote"
    return ConfigError([Problem("snapshot", why, mend)])
