# SPDX-License-Identifier: Apache-2.0
"""Outbox: events that somebody outside has to be told of, until he has been.

An event is queued in the transaction of the change that causes it, so neither is ever there without
the other. Ids rise and are never used twice. Every target (a hook) has a place of its own in the
queue, on the disk: a target that fails holds up no other, and a restart repeats to nobody what he
has acknowledged. An event goes when all targets have it.

Bounded: beyond `EVENTS_MAX` the oldest are dropped, so that a dead target cannot stop the change
that it would hear of. The ids that a target sees tell him so, by a gap.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVENTS_MAX = 10_000
Json = Mapping[str, Any]

# `last` is the id of the last event that the target has got.
SCHEMA = """
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL) STRICT;
CREATE TABLE targets (name TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;
"""
AFTER_LAST = "id > coalesce((SELECT last FROM targets WHERE name = ?), 0)"


@dataclass(frozen=True, slots=True)
class Queued:
    """An event, and its id in the outbox."""

    id: int
    event: Json


def encode(events: Iterable[Json]) -> list[str]:
    """As they are stored. Raises ValueError or TypeError on what JSON cannot say: a bug."""
    return [json.dumps(dict(event), allow_nan=False) for event in events]


def queue(db: sqlite3.Connection, texts: Iterable[str]) -> tuple[list[int], int]:
    """Ids of the encoded events, and how many older ones were dropped for them."""
    statement = "INSERT INTO events (event) VALUES (?) RETURNING id"
    ids = [int(db.execute(statement, (text,)).fetchone()[0]) for text in texts]
    too_old = "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?"
    gone = db.execute(f"DELETE FROM events WHERE id <= ({too_old})", (EVENTS_MAX,)).rowcount
    return ids, gone


def pending(db: sqlite3.Connection, target: str, limit: int) -> list[Queued]:
    """What the target has not got yet, the oldest first. To a new target that is all there is."""
    query = f"SELECT id, event FROM events WHERE {AFTER_LAST} ORDER BY id LIMIT ?"
    return [Queued(number, _decode(text)) for number, text in db.execute(query, (target, limit))]


def count(db: sqlite3.Connection, target: str) -> int:
    query = f"SELECT count(*) FROM events WHERE {AFTER_LAST}"
    return int(db.execute(query, (target,)).fetchone()[0])


def delivered(db: sqlite3.Connection, target: str, number: int) -> None:
    """The target has this event and all before it. To say it again changes nothing."""
    db.execute(
        "INSERT INTO targets VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last)",
        (target, number),
    )


def settle(db: sqlite3.Connection, targets: Collection[str]) -> None:
    """These are the targets now: others are forgotten, and so is what all of these have got.

    With no target at all nobody waits for anything, and nothing is kept.
    """
    for (name,) in db.execute("SELECT name FROM targets").fetchall():
        if name not in targets:
            db.execute("DELETE FROM targets WHERE name = ?", (name,))
    if not targets:
        db.execute("DELETE FROM events")
        return
    places = dict(db.execute("SELECT name, last FROM targets"))
    first = min(places.get(name, 0) for name in targets)
    db.execute("DELETE FROM events WHERE id <= ?", (first,))


def _decode(text: str) -> Json:
    event = json.loads(text)
    if not isinstance(event, dict):
        raise ValueError(f"an event in the outbox is no object: {text[:40]!r}")
    return event
