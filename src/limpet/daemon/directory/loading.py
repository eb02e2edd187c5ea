# SPDX-License-Identifier: Apache-2.0
"""Loading: brings entries into the data path's map, which packets of unknown flows are asked of.

Only what other directors told: of its own sessions and flows the data path has tables, and an entry
that says what they said an hour ago must not outlive them. So an entry of this director's takes
away what the map had under its name, unless it says that flows of the session may be elsewhere:
those come by way of others, and no table here knows that. When a director starts, its own entries
of before are loaded as well: the machine may have lost its tables.

A map that is full, or refuses, is no reason to stop; it is counted, and `audit` makes it good when
there is room. `audit` also adopts the map of a director that was restarted.
"""

import secrets
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from limpet.core import exception
from limpet.core.errors import LimpetError
from limpet.core.exception import Flag, Keys, Records
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.record import Record
from limpet.daemon.directory.table import Table
from limpet.daemon.unixtime import now_ms
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY

ASKED = int(Flag.ANSWER | Flag.ORPHAN)  # what the ownership query has put there
AUDIT_KEY = (secrets.randbits(64), secrets.randbits(64))
log = structlog.get_logger()
assert EXCEPTION_KEY.itemsize == exception.KEY.itemsize


class DirectoryMap(Protocol):
    """The data path's map `directory`; keys EXCEPTION_KEY[n], values EXCEPTION[n]."""

    def put(self, keys: NDArray[np.void], values: NDArray[np.void]) -> int: ...
    def remove(self, keys: NDArray[np.void]) -> int: ...
    def items(self) -> tuple[NDArray[np.void], NDArray[np.void]]: ...


class Loading:
    """The only writer of entries of the directory."""

    def __init__(self, target: DirectoryMap, origin: int, clock: Clock, record: Record) -> None:
        """`origin`: this director's own number."""
        self._map, self._origin, self._clock, self._record = target, origin, clock, record
        self.is_incomplete = False  # the map has refused something

    def put(self, records: Records) -> None:
        """Write entries that are in the merged table."""
        if not len(records):
            return
        values = np.zeros(len(records), EXCEPTION)
        values["since"] = self._clock.ticks(records["time"])
        values["until"] = self._clock.ticks(records["expiry"])
        values["backend"], values["flags"] = records["backend"], records["flags"]
        done = self._attempt(lambda: self._map.put(_names(records["key"]), values))
        self._record.loaded += done
        self._record.map_full += len(records) - done
        self.is_incomplete |= done < len(records)

    def remove(self, keys: Keys) -> None:
        """Remove entries; fine if they are not there."""
        if len(keys):
            self._record.unloaded += self._attempt(lambda: self._map.remove(_names(keys)))

    def _attempt(self, write: Callable[[], int]) -> int:
        """How many entries were written."""
        try:
            return write()
        except LimpetError as error:
            if not self.is_incomplete:
                log.error("exceptions do not reach the data path", why=str(error))
            self._record.map_failed += 1
            self.is_incomplete = True
            return 0

    def apply(self, records: Records, before: NDArray[np.uint64]) -> None:
        """What a merge has changed; `before`: whose entry each replaces, 0 for nobody's."""
        belongs = self._belongs(records)
        self.put(records[belongs])
        was_there = before != 0
        self.remove(records["key"][~belongs & was_there])

    def unload(self, records: Records) -> None:
        """Entries that have lapsed."""
        self.remove(records["key"])

    def _belongs(self, records: Records) -> NDArray[np.bool_]:
        is_gone = records["flags"] & np.uint8(Flag.GONE) > 0
        of_others = records["origin"] != np.uint64(self._origin)
        asks = records["flags"] & np.uint8(Flag.ASK) > 0
        belongs: NDArray[np.bool_] = (of_others | asks) & ~is_gone
        return belongs

    def audit(self, table: Table, *, with_own: bool = False) -> None:
        """Make the map what the table says, on a start with this director's own entries of before.
        Those, and what an ownership query has put, stay until they lapse."""
        keys, values = self._map.items()
        now = now_ms()
        tick = int(self._clock.ticks(now))
        lapsed = (values["until"].astype(np.int64) - tick).astype(np.int32) < 0
        was_asked = values["flags"] & ASKED > 0
        unknown = table.find(keys.astype(exception.KEY)) == 0
        self.is_incomplete = False
        self.remove(keys[lapsed | (unknown & ~was_asked)])
        records = table.records()
        belongs = self._belongs(records)
        if with_own:
            belongs = records["flags"] & np.uint8(Flag.GONE) == 0
        records = records[belongs & (records["expiry"] > now)]
        there = exception.hashes(exception.words(keys.astype(exception.KEY)), AUDIT_KEY)
        wanted = exception.hashes(exception.words(records["key"]), AUDIT_KEY)
        self.put(records[~np.isin(wanted, there)])


def _names(keys: Keys) -> NDArray[np.void]:
    return np.ascontiguousarray(keys).astype(EXCEPTION_KEY)
