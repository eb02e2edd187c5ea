# SPDX-License-Identifier: Apache-2.0
"""The SQLite file behind the embedded store: its tables, and each change as one transaction.

SQLite, because what it acknowledged is on the disk, and several processes may share the file. A
deleted key leaves its row without a value, so that who watches learns of it; only the newest of
such rows are kept, and who is further behind reads everything again.

Not here: threads, waiting, watching (`embedded`).
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import NotFound
from limpet.store import backup
from limpet.store.backup import Snapshot
from limpet.store.interface import Batch, Deleted, Entry, Limits, Outdated, Truncated

DELETED_ROWS_MAX = 10_000  # looked at every so many revisions only: that reads all of them
FORGET_EVERY = 1_000
BATCHES_MAX = 256  # read at once
LOCKED_S = 0.01
SCHEMA = """
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO counts VALUES ('revision', 0), ('forgotten', 0), ('blob', 0);
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value BLOB, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_revision ON entries (revision);
CREATE TABLE IF NOT EXISTS logs (
    name TEXT PRIMARY KEY, last INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    log TEXT NOT NULL, sequence INTEGER NOT NULL, at REAL NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (log, sequence));
CREATE TABLE IF NOT EXISTS blobs (
    digest TEXT PRIMARY KEY, number INTEGER NOT NULL, data BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to keys up to a revision."""

    revision: int
    changed: list[Entry | Deleted]
    is_whole: bool  # all that is there; what is not in it is gone


class SharedFile:
    """One connection to the file; to be used by one thread at a time."""

    def __init__(self, path: Path, limits: Limits) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._limits = limits
        self._db = sqlite3.connect(
            path, timeout=limits.deadline_s, isolation_level=None, check_same_thread=False
        )
        path.chmod(0o600)
        self._use_journal()
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")

    def _use_journal(self) -> None:
        """Of a new file several processes may ask this at once, and SQLite does not wait here."""
        until = time.monotonic() + self._limits.deadline_s
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(LOCKED_S)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _number(self, sql: str, *values: object) -> int:
        row = self._db.execute(sql, values).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def _count(self, name: str, at_least: int = 0) -> int:
        """The next of a count."""
        sql = "UPDATE counts SET value = max(value, ?) + 1 WHERE name = ? RETURNING value"
        return self._number(sql, at_least, name)

    def version(self) -> int:
        """Another number than before if another connection has changed something."""
        return self._number("PRAGMA data_version")

    # --- Keys ---------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        sql = "SELECT value, revision FROM entries WHERE key = ? AND value IS NOT NULL"
        row = self._db.execute(sql, (key,)).fetchone()
        return Entry(key, bytes(row[0]), row[1]) if row else None

    def put_if(self, key: str, value: bytes | None, expected: int) -> int:
        """Put the key, or delete it (None)."""
        with self._transaction():
            entry = self.get(key)
            revision = entry.revision if entry else 0
            if revision != expected:
                raise Outdated(key, expected, revision)
            if entry is None and value is None:
                return 0
            return self._set(key, value)

    def _set(self, key: str, value: bytes | None) -> int:
        revision = self._count("revision")
        self._db.execute("REPLACE INTO entries VALUES (?, ?, ?)", (key, value, revision))
        if value is None and revision % FORGET_EVERY == 0:
            self._forget_deleted()
        return revision

    def _forget_deleted(self) -> None:
        sql = "SELECT revision FROM entries WHERE value IS NULL ORDER BY revision DESC LIMIT 1"
        last = self._number(f"{sql} OFFSET {DELETED_ROWS_MAX}")
        if last:
            self._db.execute("DELETE FROM entries WHERE value IS NULL AND revision <= ?", (last,))
            self._db.execute("UPDATE counts SET value = ? WHERE name = 'forgotten'", (last,))

    def changes(self, prefix: str, after: int) -> Changes:
        """What has changed after a revision; from 0, or too far behind: what is."""
        with self._transaction("DEFERRED"):
            revision = self._number("SELECT value FROM counts WHERE name = 'revision'")
            forgotten = self._number("SELECT value FROM counts WHERE name = 'forgotten'")
            is_whole = after == 0 or after < forgotten
            sql = "SELECT key, value, revision FROM entries WHERE revision > ?"
            sql += " AND substr(key, 1, ?) = ? ORDER BY revision"
            rows = self._db.execute(sql, (0 if is_whole else after, len(prefix), prefix))
            changed = [
                Deleted(key, number) if value is None else Entry(key, bytes(value), number)
                for key, value, number in rows
                if value is not None or not is_whole
            ]
        return Changes(revision, changed, is_whole)

    # --- Logs ---------------------------------------------------------------------------------

    def append(self, log: str, data: bytes) -> int:
        with self._transaction():
            sql = "INSERT INTO logs VALUES (?, 1, ?) ON CONFLICT DO"
            sql += " UPDATE SET last = last + 1, bytes = bytes + ? RETURNING last"
            sequence = self._number(sql, log, len(data), len(data))
            row = (log, sequence, time.time(), data)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            self._truncate(log)
        return sequence

    def _truncate(self, log: str) -> None:
        """Drop the oldest batches, as long as one is too old or all are too much."""
        oldest = time.time() - self._limits.log_age_s
        size = self._number("SELECT bytes FROM logs WHERE name = ?", log)
        sql = "SELECT sequence, at, length(data) FROM batches WHERE log = ? ORDER BY sequence"
        last, kept = 0, size
        for sequence, at, length in self._db.execute(sql, (log,)):
            if at >= oldest and kept <= self._limits.log_bytes:
                break
            last, kept = sequence, kept - length
        if last:
            self._db.execute("DELETE FROM batches WHERE log = ? AND sequence <= ?", (log, last))
            self._db.execute("UPDATE logs SET bytes = ? WHERE name = ?", (kept, log))

    def last(self, log: str) -> int:
        return self._number("SELECT last FROM logs WHERE name = ?", log)

    def batches(self, log: str, after: int) -> list[Batch]:
        """What follows, as much as is read at once."""
        with self._transaction("DEFERRED"):
            last = self.last(log)
            first = self._number("SELECT min(sequence) FROM batches WHERE log = ?", log) or last + 1
            if not first <= after + 1 <= last + 1:
                raise Truncated(log, after, first)
            sql = "SELECT sequence, data FROM batches WHERE log = ? AND sequence > ?"
            rows = self._db.execute(f"{sql} ORDER BY sequence LIMIT {BATCHES_MAX}", (log, after))
            return [Batch(sequence, bytes(data)) for sequence, data in rows]

    # --- Blobs --------------------------------------------------------------------------------

    def put_blob(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        with self._transaction():
            row = (digest, self._count("blob"), data)
            self._db.execute("REPLACE INTO blobs VALUES (?, ?, ?)", row)
            kept = 0
            sql = "SELECT digest, length(data) FROM blobs ORDER BY number DESC"
            for each, length in self._db.execute(sql).fetchall():
                kept += length
                if kept > self._limits.blobs_bytes and each != digest:
                    self._db.execute("DELETE FROM blobs WHERE digest = ?", (each,))
        return digest

    def get_blob(self, digest: str) -> bytes:
        row = self._db.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise NotFound(f"store: no blob {digest}: it was never put here, or gave way to others")
        return bytes(row[0])

    # --- All of it ----------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        with self._transaction("DEFERRED"):
            entries = "SELECT key, value FROM entries WHERE value IS NOT NULL ORDER BY key"
            blobs = self._db.execute("SELECT data FROM blobs ORDER BY number")
            found = Snapshot(
                revision=self._number("SELECT value FROM counts WHERE name = 'revision'"),
                entries={key: bytes(value) for key, value in self._db.execute(entries)},
                logs=dict(self._db.execute("SELECT name, last FROM logs")),
                blobs=[bytes(row[0]) for row in blobs],
            )
        return backup.encode(found)

    def restore(self, data: bytes) -> None:
        snapshot = backup.decode(data)
        with self._transaction():
            self._count("revision", snapshot.revision)
            there = self._db.execute("SELECT key FROM entries WHERE value IS NOT NULL").fetchall()
            for (key,) in there:
                if key not in snapshot.entries:
                    self._set(key, None)
            for key, value in snapshot.entries.items():
                self._set(key, value)
            for blob in snapshot.blobs:
                row = (hashlib.sha256(blob).hexdigest(), self._count("blob"), blob)
                self._db.execute("REPLACE INTO blobs VALUES (?, ?, ?)", row)
            for log, last in snapshot.logs.items():
                self._advance(log, last)

    def _advance(self, log: str, last: int) -> None:
        """A log that ends before where it ended once is begun anew, well behind that."""
        if self.last(log) < last:
            self._db.execute("DELETE FROM batches WHERE log = ?", (log,))
            row = (log, last + backup.LOG_GAP, 0)
            self._db.execute("REPLACE INTO logs VALUES (?, ?, ?)", row)
