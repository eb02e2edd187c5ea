# SPDX-License-Identifier: Apache-2.0
"""State: the registry, the intents and this director's secrets in one SQLite file.

Ids and slot tables have to survive a restart: the kernel keeps forwarding by them while nobody is
there, and the next daemon must mean the same by the same numbers. `save` is one transaction with
`synchronous=FULL`: after it has returned, neither a crash nor a power cut takes it back; before,
the file holds the registry of before. Slot tables are written only when they changed. Intents stand
under ordered revisions (store/revisions.py), and are put there by compare-and-set, together with
the events that they cause (store/outbox.py): all or nothing.

A file of an older schema is brought up to this one, in one transaction. A file that is damaged,
foreign or newer than this program is refused, never repaired or emptied.
The file holds secrets: only its owner may read it. One State serves one thread.
"""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from limpet.core.errors import LimpetError
from limpet.core.intent import Intents
from limpet.core.model import PoolId
from limpet.core.registry import Registry
from limpet.core.slots import SlotTable
from limpet.store import outbox, revisions, rows
from limpet.store.outbox import Json, Queued, encode
from limpet.store.revisions import Revision

# What each version of the schema adds to the one before it, the first one to an empty file.
SCHEMAS = (rows.SCHEMA, revisions.SCHEMA + outbox.SCHEMA, rows.KEPT_SCHEMA)
SCHEMA_VERSION = len(SCHEMAS)
MARK = "slot_tables"  # a table that every version has: a file with it is ours
BUSY_S = 5.0  # wait for another process that is writing


class State:
    """The state file of one director; made if it is not there. A context manager that closes it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.events_dropped = 0  # that were too old for a full outbox, since this was opened
        self._saved: dict[PoolId, SlotTable] = {}  # what the file is known to hold
        self._version = 0  # of the file, moved by other processes
        with self._explained("open"):
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, mode=0o600))
            self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            with self._explained("open"):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def load(self) -> Registry:
        """The registry as last saved; an empty one at first. Raises LimpetError if damaged."""
        with self._explained("read"), self._transaction("DEFERRED"):
            loaded = rows.registry(
                backends=self._db.execute("SELECT * FROM backends ORDER BY position"),
                vips=self._db.execute("SELECT * FROM vips ORDER BY position"),
                pools=self._db.execute("SELECT * FROM pools ORDER BY position"),
                tables=self._db.execute("SELECT * FROM slot_tables"),
            )
            self._version = self._number("PRAGMA data_version")
        self._saved = dict(loaded.tables)
        return loaded

    def save(self, registry: Registry) -> None:
        """Keep the registry, wholly or not at all. When this returns, it is on the disk."""
        with self._explained("write"), self._transaction("IMMEDIATE"):
            self._replace("backends", 6, rows.backend_rows(registry))
            self._replace("vips", 7, rows.vip_rows(registry))
            self._replace("pools", 3, rows.pool_rows(registry))
            self._save_tables(registry)
        self._saved = dict(registry.tables)

    def secret(self, name: str, size: int) -> bytes:
        """`size` random bytes, made at the first call and the same ever after."""
        with self._explained("write"), self._transaction("IMMEDIATE"):
            query = "SELECT value FROM secrets WHERE name = ?"
            row = self._db.execute(query, (name,)).fetchone()
            if row is None:
                row = (os.urandom(size),)
                self._db.execute("INSERT INTO secrets VALUES (?, ?)", (name, row[0]))
        value = bytes(row[0])
        if len(value) != size:
            raise LimpetError(
                f"{self.path}: the secret {name!r} has {len(value)} bytes instead of {size}"
            )
        return value

    # --- Of a cluster --------------------------------------------------------------------------

    def keep(self, name: str, value: bytes) -> None:
        """Keep bytes under a name, in the place of those of before. Then they are on the disk."""
        with self._explained("write"), self._transaction("IMMEDIATE"):
            self._db.execute("REPLACE INTO kept VALUES (?, ?)", (name, value))

    def kept(self, name: str) -> bytes | None:
        with self._explained("read"), self._transaction("DEFERRED"):
            query = "SELECT value FROM kept WHERE name = ?"
            row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else bytes(row[0])

    # --- Intents -------------------------------------------------------------------------------

    def intents(self) -> tuple[int, Intents]:
        """The current revision, and the intents that it holds."""
        with self._explained("read"), self._transaction("DEFERRED"):
            revision = revisions.current(self._db)
        return revision.number, revision.intents

    def put_intents(
        self,
        intents: Intents,
        expected: int,
        who: str,
        what: str,
        file_digest: str,
        now: float,
        events: Iterable[Json] = (),
    ) -> int:
        """Make these the intents, and queue the events; the number of the new revision.

        Raises Conflict, and changes nothing, if the current revision is not `expected`. When this
        returns, all of it is on the disk.
        """
        new, texts = Revision(expected + 1, now, who, what, file_digest, intents), encode(events)
        with self._explained("write"), self._transaction("IMMEDIATE"):
            revisions.append(self._db, new)
            _, dropped = outbox.queue(self._db, texts)
        self.events_dropped += dropped
        return new.number

    def history(self, limit: int) -> list[Revision]:
        """The last revisions, the current one first."""
        with self._explained("read"), self._transaction("DEFERRED"):
            return revisions.newest(self._db, limit)

    def revision(self, number: int) -> Revision:
        """One revision; 0 is the beginning without intents. Raises NotFound."""
        with self._explained("read"), self._transaction("DEFERRED"):
            return revisions.find(self._db, number)

    # --- Outbox --------------------------------------------------------------------------------

    def queue(self, events: Iterable[Json]) -> None:
        """Keep events until all targets have them. When this returns, they are on the disk."""
        texts = encode(events)
        with self._explained("write"), self._transaction("IMMEDIATE"):
            _, dropped = outbox.queue(self._db, texts)
        self.events_dropped += dropped

    def keep_and_queue(self, name: str, value: bytes, events: Iterable[Json]) -> None:
        """`keep` and `queue` in one: neither is ever there without the other."""
        texts = encode(events)
        with self._explained("write"), self._transaction("IMMEDIATE"):
            self._db.execute("REPLACE INTO kept VALUES (?, ?)", (name, value))
            _, dropped = outbox.queue(self._db, texts)
        self.events_dropped += dropped

    def pending(self, target: str, limit: int = 100) -> list[Queued]:
        """The oldest events that the target has not got yet."""
        with self._explained("read"), self._transaction("DEFERRED"):
            return outbox.pending(self._db, target, limit)

    def pending_count(self, target: str) -> int:
        with self._explained("read"), self._transaction("DEFERRED"):
            return outbox.count(self._db, target)

    def delivered(self, number: int, target: str, targets: Collection[str]) -> None:
        """`target` has this event and all before it; what all `targets` have is forgotten."""
        with self._explained("write"), self._transaction("IMMEDIATE"):
            outbox.delivered(self._db, target, number)
            outbox.settle(self._db, targets)

    def settle_targets(self, targets: Collection[str]) -> None:
        """Say whom events are kept for from now on. A new target gets all that still wait."""
        with self._explained("write"), self._transaction("IMMEDIATE"):
            outbox.settle(self._db, targets)

    # --- Writing -------------------------------------------------------------------------------

    def _replace(self, table: str, columns: int, new: Iterable[rows.Row]) -> None:
        places = ", ".join("?" * columns)
        self._db.execute(f"DELETE FROM {table}")
        self._db.executemany(f"INSERT INTO {table} VALUES ({places})", new)

    def _save_tables(self, registry: Registry) -> None:
        version = self._number("PRAGMA data_version")
        if version != self._version:  # another process wrote: the file may hold other tables
            self._saved, self._version = {}, version
        stored = {row[0] for row in self._db.execute("SELECT pool FROM slot_tables")}
        gone = ((pool,) for pool in stored - registry.tables.keys())
        self._db.executemany("DELETE FROM slot_tables WHERE pool = ?", gone)
        self._db.executemany(
            "REPLACE INTO slot_tables VALUES (?, ?, ?, ?, ?, ?)",
            (
                rows.table_row(pool, table)
                for pool, table in registry.tables.items()
                if self._saved.get(pool) is not table
            ),
        )

    # --- The file ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._transaction("DEFERRED"):  # one snapshot: another process may be making the file
            version = self._number("PRAGMA user_version")
            tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_schema")}
        if version > SCHEMA_VERSION:
            raise LimpetError(
                f"{self.path}: written by a newer limpet (schema {version}, this one knows up to "
                f"{SCHEMA_VERSION}); use that version, or another state file"
            )
        verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise self._damaged(verdict)
        if (version or tables) and not (version and MARK in tables):
            raise LimpetError(f"{self.path}: a database of another program; use another path")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if version < SCHEMA_VERSION:
            self._upgrade()

    def _upgrade(self) -> None:
        with self._transaction("IMMEDIATE"):  # unless another process was faster
            for schema in SCHEMAS[self._number("PRAGMA user_version") :]:
                for statement in schema.split(";"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self, step: str) -> Iterator[None]:
        """Errors of SQLite, of the system and of decoding, as errors that the operator can use."""
        try:
            yield
        except sqlite3.IntegrityError:  # an id twice in a registry: a bug, not a damaged file
            raise
        except sqlite3.OperationalError as error:
            raise LimpetError(f"{self.path}: cannot {step} the state: {error}") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise LimpetError(f"{self.path}: cannot {step} the state: {error.strerror}") from error

    def _damaged(self, why: str) -> LimpetError:
        return LimpetError(
            f"{self.path}: the state file is damaged ({why}). Restore it from a backup, or move it "
            "away and start afresh: then take down the data plane first (limpet down), since ids "
            "and slot tables begin anew"
        )
