# SPDX-License-Identifier: Apache-2.0
"""The merged table: the newest entry of every name, of all directors, in flat memory.

Records lie one behind the other; an index with open addressing and linear probing finds them by
name. Everything works on whole batches, so that a million exceptions cost 72 bytes each and no
Python object. Memory is taken as it is used. The index is at most a quarter full, which keeps
probes short, and keyed, so that nobody can choose clients that collide.

What is removed keeps its place, as a vacancy that only its own name can take again, until
`compacted` makes a table without vacancies. One thread changes it; `find` may run beside that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.core import exception
from limpet.core.exception import RECORD, Keys, Records

SPARSE = 4  # places of the index per record
CHUNK = 1 << 16  # records handled at once: bounds what a large merge takes beside the table
Rows = NDArray[np.intp]


@dataclass(slots=True)
class Merged:
    """What became of a batch."""

    changed: Records  # as they are in the table now
    before: NDArray[np.uint64]  # whose record each of these replaces, 0: nobody's
    stale: int = 0  # no newer than what was there
    full: int = 0  # no room for them


class Table:
    """Records by name; at most `limit` of them."""

    def __init__(self, limit: int, key: tuple[int, int]) -> None:
        self.limit, self._key = limit, key
        self._rows = np.zeros(limit + 1, RECORD)  # row 0 is nobody's
        self._words = self._rows.view(np.uint64).reshape(limit + 1, exception.RECORD_WORDS)
        places = 1 << (limit * SPARSE - 1).bit_length()
        self._mask = np.uint64(places - 1)
        self._index = np.zeros(places, np.int32)
        self._top = 1
        self._vacant = 0

    def __len__(self) -> int:
        return self._top - 1 - self._vacant

    @property
    def vacant(self) -> int:
        """Places that are taken by nobody, but cannot be given to anybody."""
        return self._vacant

    def records(self) -> Records:
        """A copy of everything."""
        rows = self._rows[1 : self._top]
        return rows[rows["expiry"] > 0]

    def find(self, keys: Keys) -> Rows:
        """Row of each name, 0 if there is none; for `at`."""
        found = [
            self._live(self._probe(exception.words(keys[start : start + CHUNK]))[0])
            for start in range(0, len(keys), CHUNK)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.intp)

    def at(self, rows: Rows) -> Records:
        """A copy of the records there; row 0 is all zeros."""
        return self._rows[rows]

    def _live(self, rows: Rows) -> Rows:
        return np.where(self._rows["expiry"][rows] > 0, rows, 0)

    def _probe(self, names: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.uint64]]:
        """Row of each name, 0 if it has none; and the place where its search ended."""
        place = exception.hashes(names, self._key) & self._mask
        found = np.zeros(len(names), np.intp)
        pending = np.arange(len(names))
        while len(pending):
            row = self._index[place[pending]]
            there, wanted = self._words[row, : exception.KEY_WORDS], names[pending]
            ends = (row == 0) | (there == wanted).all(axis=1)
            found[pending[ends]] = row[ends]
            pending = pending[~ends]
            place[pending] = (place[pending] + np.uint64(1)) & self._mask
        return found, place

    def merge(self, records: Records) -> Merged:
        """Take what is newer. Of records with one name, any number may come at once."""
        merged = [Merged(np.zeros(0, RECORD), np.zeros(0, np.uint64))]
        for start in range(0, len(records), CHUNK):
            chunk = records[start : start + CHUNK]
            names = exception.words(chunk["key"])
            turn = _turns(exception.hashes(names, self._key))
            if not turn.any():
                merged.append(self._merge(chunk, names))
                continue
            for number in range(int(turn.max()) + 1):
                of_turn = turn == number
                merged.append(self._merge(chunk[of_turn], names[of_turn]))
        return Merged(
            np.concatenate([each.changed for each in merged]),
            np.concatenate([each.before for each in merged]),
            sum(each.stale for each in merged),
            sum(each.full for each in merged),
        )

    def _merge(self, records: Records, names: NDArray[np.uint64]) -> Merged:
        """`merge`, of records whose names all differ."""
        row, place = self._probe(names)
        known = np.flatnonzero(row)
        takes = exception.is_newer(records[known], self._rows[row[known]])
        stale = len(known) - int(takes.sum())
        known = known[takes]
        self._vacant -= int((self._rows["expiry"][row[known]] == 0).sum())
        before = self._rows["origin"][row[known]]
        self._rows[row[known]] = records[known]
        fresh = np.flatnonzero(row == 0)
        room = self.limit + 1 - self._top
        full, fresh = max(0, len(fresh) - room), fresh[:room]
        self._add(records[fresh], place[fresh])
        changed = np.concatenate([records[known], records[fresh]])
        nobody = np.zeros(len(fresh), np.uint64)
        return Merged(changed, np.concatenate([before, nobody]), stale, full)

    def _add(self, records: Records, place: NDArray[np.uint64]) -> None:
        """Records of new names, from the free places where their searches ended."""
        rows = np.arange(self._top, self._top + len(records), dtype=np.int32)
        self._rows[rows] = records
        self._top += len(records)
        pending = np.arange(len(records))
        while len(pending):
            free = self._index[place[pending]] == 0
            trying = pending[free]
            self._index[place[trying]] = rows[trying]  # of several, one gets the place
            lost = self._index[place[trying]] != rows[trying]
            pending = np.concatenate([pending[~free], trying[lost]])
            place[pending] = (place[pending] + np.uint64(1)) & self._mask

    def expire(self, now_ms: int) -> Records:
        """Remove what does not hold any more; a copy of it."""
        rows = self._rows[1 : self._top]
        gone = np.flatnonzero((rows["expiry"] > 0) & (rows["expiry"] <= now_ms))
        removed = rows[gone]
        vacancy = np.zeros(1, RECORD)
        for name in RECORD.names or ():
            if name != "key":
                rows[name][gone] = vacancy[name]
        self._vacant += len(gone)
        return removed

    def compacted(self) -> "Table":
        """The same without vacancies. This one must not change meanwhile."""
        fresh = Table(self.limit, self._key)
        for start in range(1, self._top, CHUNK):
            rows = self._rows[start : min(self._top, start + CHUNK)]
            fresh.merge(rows[rows["expiry"] > 0])
        return fresh


def _turns(hashed: NDArray[np.uint64]) -> NDArray[np.intp]:
    """How many with the same hash stand before each: those of one turn all differ."""
    order = np.argsort(hashed, kind="stable")
    ordered = hashed[order]
    begins = np.ones(len(hashed), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(hashed)), 0))
    turns = np.empty(len(hashed), np.intp)
    turns[order] = np.arange(len(hashed)) - first
    return turns
