# SPDX-License-Identifier: Apache-2.0
"""Revisions: every change of the intents, numbered, with who made it and when.

A revision holds all intents of its moment, so that going back is to put an old one's intents again:
history only grows at its end, and a rollback can itself be rolled back. Revision 0 is the beginning
without intents; it is never stored. The highest number is the current revision, and numbers are
never used twice, so whoever names the revision that he has seen cannot overwrite another's change.

The oldest are forgotten beyond `REVISIONS_MAX` in number or `HISTORY_BYTES_MAX` in size; never the
current one. Functions here expect to be inside a transaction of `store.state`.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from limpet.core.errors import Conflict, NotFound
from limpet.core.intent import Intents, decode, encode

REVISIONS_MAX = 10_000
HISTORY_BYTES_MAX = 64 << 20  # of intents, compressed
BEGINNING = 0

SCHEMA = """
CREATE TABLE revisions (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
    file_digest TEXT NOT NULL, intents BLOB NOT NULL
) STRICT;
"""
COLUMNS = "number, at, who, what, file_digest, intents"


@dataclass(frozen=True, slots=True)
class Revision:
    """The intents from one change to the next. `at` is in Unix seconds."""

    number: int
    at: float
    who: str
    what: str
    file_digest: str  # of the configuration file that was in force
    intents: Intents


FIRST = Revision(BEGINNING, 0.0, "", "no intents", "", Intents())


def current(db: sqlite3.Connection) -> Revision:
    return next(_select(db, "ORDER BY number DESC LIMIT 1"), FIRST)


def newest(db: sqlite3.Connection, limit: int) -> list[Revision]:
    """The last `limit` revisions, the current one first."""
    return list(_select(db, "ORDER BY number DESC LIMIT ?", max(limit, 0)))


def find(db: sqlite3.Connection, number: int) -> Revision:
    """Raises NotFound for one that was never there or is forgotten."""
    if number == BEGINNING:
        return FIRST
    for revision in _select(db, "WHERE number = ?", number):
        return revision
    oldest, last = db.execute("SELECT min(number), max(number) FROM revisions").fetchone()
    kept = f"those from {oldest} to {last}" if last else "none but 0"
    raise NotFound(f"there is no revision {number}: {kept} can be had")


def append(db: sqlite3.Connection, new: Revision) -> None:
    """Make `new` the current revision. Raises Conflict unless it follows the one that is."""
    now = number_of_current(db)
    if new.number != now + 1:
        raise Conflict(
            f"the intents are at revision {now} by now, not at {new.number - 1}: look at what has "
            "changed, and ask again"
        )
    text = json.dumps(encode(new.intents), separators=(",", ":"), sort_keys=True)
    row = (new.number, new.at, new.who, new.what, new.file_digest, zlib.compress(text.encode()))
    db.execute("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?)", row)
    _forget_old(db, new.number)


def number_of_current(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(number), 0) FROM revisions").fetchone()[0])


def _forget_old(db: sqlite3.Connection, last: int) -> None:
    sizes = "SELECT number, sum(length(intents)) OVER (ORDER BY number DESC) AS kept FROM revisions"
    db.execute(
        f"DELETE FROM revisions WHERE number < ? AND (number <= ? OR number IN "
        f"(SELECT number FROM ({sizes}) WHERE kept > ?))",
        (last, last - REVISIONS_MAX, HISTORY_BYTES_MAX),
    )


def _select(db: sqlite3.Connection, rest: str, *values: int) -> Iterator[Revision]:
    found = db.execute(f"SELECT {COLUMNS} FROM revisions {rest}", values)
    for number, at, who, what, file_digest, blob in found:
        try:
            intents = decode(json.loads(zlib.decompress(blob)))
        except (zlib.error, ValueError) as error:
            raise ValueError(f"intents of revision {number}: {error}") from error
        yield Revision(number, at, who, what, file_digest, intents)
