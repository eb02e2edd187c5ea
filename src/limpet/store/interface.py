# SPDX-License-Identifier: Apache-2.0
"""What directors share: keys with compare-and-set, logs of batches, blobs.

One small interface, because the two stores behind it (`embedded`, one machine; `jetstream`, many)
have to behave alike: one suite of tests holds both to what is written here.

Every call but `watch` and `read` ends within its deadline, with `Unavailable` if the store cannot
be reached. A change that ended so may have been made or not: read before trying again. `watch` and
`read` wait for the store to come back instead; `state` says how it is meanwhile.

Not here: what keys, batches and blobs mean.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from limpet.core.errors import ConfigError, Conflict, LimpetError, Problem

VALUE_BYTES_MAX = 900_000  # of a key's value or of a batch; NATS allows 1 MiB, headers included
BLOB_BYTES_MAX = 64 << 20
NAME_CHARACTERS_MAX = 200  # of a key or the name of a log
DEADLINE_S = 2.0  # of a call; for blobs: of each part of about a megabyte
LOG_AGE_S_MAX = 8 * 24 * 3600.0  # a batch older than this is no longer kept
LOG_BYTES_MAX = 256 << 20  # of one log
BLOBS_BYTES_MAX = 512 << 20  # of all blobs; those put longest ago go first


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that is there."""

    key: str
    value: bytes
    revision: int  # of the key's last change; grows with every change of any key


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key that is no longer there."""

    key: str
    revision: int  # 0: when it went is not known, only that it did


@dataclass(frozen=True, slots=True)
class Ready:
    """All that was there when the watch began has been told."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One entry of a log."""

    sequence: int  # from 1, without gaps
    data: bytes


@dataclass(frozen=True, slots=True)
class Connection:
    """How the store is reached now."""

    is_connected: bool
    since: float  # Unix time of the last change of `is_connected`
    server: str = ""  # URL without password, or path of the file
    reconnects: int = 0
    error: str = ""  # why not connected


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept, and how long a call may take."""

    deadline_s: float = DEADLINE_S
    log_age_s: float = LOG_AGE_S_MAX
    log_bytes: int = LOG_BYTES_MAX
    blobs_bytes: int = BLOBS_BYTES_MAX


class Outdated(Conflict):
    """The key is not at the revision that the change was made for. Nothing was changed."""

    def __init__(self, key: str, expected: int, revision: int) -> None:
        found = f"is at revision {revision}" if revision else "is not there"
        wanted = f"was expected at {expected}" if expected else "was expected not to be there"
        super().__init__(f"store: key {key!r} {found}, and {wanted}: read it and decide again")
        self.key = key
        self.expected = expected
        self.revision = revision  # that is; 0: not there


class Truncated(LimpetError):
    """A log does not hold what follows the sequence asked for.

    It is older than what is kept, or beyond the end: the log was begun anew. Who reads it has to
    learn the state by another way, and goes on with `read(log, first - 1)`.
    """

    def __init__(self, log: str, after: int, first: int) -> None:
        super().__init__(f"store: log {log!r} is kept from {first}: {after + 1} is not there")
        self.log = log
        self.after = after
        self.first = first  # sequence of the oldest batch; of the next one if there is none


class TooLarge(LimpetError):
    """A value, batch or blob is larger than the store takes. Nothing was changed."""

    exit_status = 4

    def __init__(self, what: str, size: int, most: int) -> None:
        super().__init__(f"store: {what} has {size:,} bytes, at most {most:,} are possible")
        self.size = size
        self.most = most


class Store(Protocol):
    """Shared by all directors of a cluster. To be used in one event loop."""

    @property
    def state(self) -> Connection: ...

    def on_change(self, callback: Callable[[Connection], None]) -> None:
        """Have `callback` called, in the event loop, whenever `state` changes."""

    async def get(self, key: str) -> Entry | None:
        """The newest value, or None. From a minority it may be older: `put_if` decides."""

    async def put_if(self, key: str, value: bytes, revision: int) -> int:
        """New revision; only if the key is at `revision` (0: not there), else `Outdated`."""

    async def delete_if(self, key: str, revision: int) -> None:
        """Only if the key is at `revision`, else `Outdated`."""

    def watch(self, prefix: str) -> AsyncIterator[Entry | Deleted | Ready]:
        """Keys that begin with `prefix`: what is, then `Ready`, then changes as they come.

        Revisions of one key only grow. Values in between may be left out, the last one never is,
        also over an outage. `aclose()` it, or cancel who waits on it.
        """

    async def append(self, log: str, batch: bytes) -> int:
        """Sequence of the batch, from 1. It is on the disks of a majority."""

    def read(self, log: str, after: int) -> AsyncIterator[Batch]:
        """Batches from `after` + 1 on, for ever, without gaps; `Truncated` if there is one."""

    async def last(self, log: str) -> int:
        """Sequence of the newest batch, 0 if there never was one."""

    async def put_blob(self, data: bytes) -> str:
        """SHA-256 of the data, in hex; its name from now on."""

    async def get_blob(self, digest: str) -> bytes:
        """`NotFound` if there is no such blob, or no longer."""

    async def snapshot(self) -> bytes:
        """All keys and blobs, and where each log ends (not what is in it)."""

    async def restore(self, data: bytes) -> None:
        """Put back keys and blobs as they were; other keys go. Revisions and sequences only grow.

        Not one step: cut off in the middle it has to be done again.
        """

    async def close(self) -> None:
        """Ends every watch and read that still runs."""


def check_size(what: str, data: bytes, most: int = VALUE_BYTES_MAX) -> None:
    if len(data) > most:
        raise TooLarge(what, len(data), most)


def check_name(name: str) -> None:
    """Of a key or a log: printable, and not too long."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise ConfigError(
            [
                Problem(
                    f"store: name {name!r}",
                    "cannot be that of a key or a log",
                    f"give 1 to {NAME_CHARACTERS_MAX} printable characters",
                )
            ]
        )
    if name.startswith("/") or name.endswith("/") or "//" in name:
        raise ConfigError(
            [Problem(f"store: name {name!r}", "has an empty part", "put a name between slashes")]
        )
