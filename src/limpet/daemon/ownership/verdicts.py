# SPDX-License-Identifier: Apache-2.0
"""Verdicts: what was decided about flows, in the kernel's directory and remembered here as long.

An owner's answer stays a minute, by when the flow is in the connection table, if a table has room
for it; that nobody knows a flow stays a second, so that it is asked for again soon, and so does
what another director has guessed. Each is an exception of this flow with flags of its own, and what
is removed later has those flags: what the session directory says of a flow is never touched.
"""

import math
from typing import Protocol

import numpy as np

from limpet.core.ownership import QUESTION, Known, Records
from limpet.core.remembered import Remembered
from limpet.daemon.ownership.answering import DirectoryMap
from limpet.daemon.ownership.record import Record
from limpet.datapath import abi
from limpet.datapath.abi import ExceptionFlag, ExceptionKind
from limpet.datapath.clock import hz
from limpet.datapath.lookup import Lookup
from limpet.datapath.settings import tick_s

OWNER_S = 60.0  # that an answer stays
ORPHAN_S = 1.0  # that a flow which nobody knows is not asked for again
OWNERS_MAX = 65_536
ORPHANS_MAX = 65_536
RETURNS_MAX = 64  # packets of a flow that come out of the ring although it was decided
FORGOTTEN_AT_ONCE = 64
OF_OURS = ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN


class Tables(Protocol):
    """What is asked of a director's kernel."""

    def lookup(self) -> Lookup: ...
    def directory(self) -> DirectoryMap: ...
    def tick(self) -> int: ...


class Verdicts:
    """Those of one director."""

    def __init__(self, tables: Tables, record: Record) -> None:
        self._tables, self._counts = tables, record
        # Key of a flow -> packets of it that came afterwards.
        self._owners: Remembered[bytes, list[int]] = Remembered(OWNERS_MAX, OWNER_S)
        self._orphans: Remembered[bytes, list[int]] = Remembered(ORPHANS_MAX, ORPHAN_S)

    def __len__(self) -> int:
        return len(self._owners) + len(self._orphans)

    def is_settled(self, key: bytes, now: float) -> bool:
        """Whether a packet of this flow may go on at once. Packets that were held before the
        verdict come later; if they go on coming, the program does not follow it, and the flow is
        asked for anew."""
        returns = self._owners.get(key, now) or self._orphans.get(key, now)
        if returns is None:
            return False
        returns[0] += 1
        if returns[0] > RETURNS_MAX:
            self._counts.looped += 1
            self._owners.pop(key)
            self._orphans.pop(key)
            return False
        self._counts.settled += 1
        return True

    def settle(self, keys: list[bytes], questions: Records, answers: Records, now: float) -> int:
        """Write what is known of these flows; of how many, from the first on, there was room."""
        known = answers["known"] != Known.NOTHING
        usable = self._tables.lookup().has_backends(answers["backend"])
        self._counts.backend_unknown += int((known & ~usable).sum())
        known &= usable
        written = self._tables.directory().put(*self._rows(questions, answers, known))
        sure = known & (answers["known"] != Known.GUESSED)
        for key, is_sure in zip(keys[:written], sure.tolist(), strict=False):
            self._owners.pop(key)
            self._orphans.pop(key)
            (self._owners if is_sure else self._orphans).put(key, [0], now)
        owned = int(sure[:written].sum())
        self._counts.owned += owned
        self._counts.orphaned += written - owned
        return written

    def _rows(
        self, questions: Records, answers: Records, known: Records
    ) -> tuple[Records, Records]:
        keys, values = _exception_keys(questions), np.zeros(len(questions), abi.EXCEPTION)
        tick = self._tables.tick()
        values["since"] = tick
        guessed = answers["known"] == Known.GUESSED
        sure = known & ~guessed
        values["until"] = (tick + np.where(sure, _ticks(OWNER_S), _ticks(ORPHAN_S))) % (1 << 32)
        values["backend"] = np.where(known, answers["backend"], 0)
        values["flags"] = np.where(known, int(ExceptionFlag.ANSWER), 0)
        values["flags"] |= np.where(sure, 0, int(ExceptionFlag.ORPHAN)).astype(np.uint8)
        return keys, values

    def forget(self, now: float) -> int:
        """Remove some of what is over from the kernel's map; how many, 0 if there is no more."""
        gone = self._orphans.forget(now, FORGOTTEN_AT_ONCE)
        gone += self._owners.forget(now, FORGOTTEN_AT_ONCE)
        if not gone:
            return 0
        directory = self._tables.directory()
        keys = _exception_keys(np.frombuffer(b"".join(gone), QUESTION))
        found = [directory.get(key) for key in keys]
        ours = [row is not None and bool(int(row["flags"]) & OF_OURS) for row in found]
        directory.remove(keys[np.array(ours, np.bool_)])
        return len(gone)

    def forget_all(self) -> None:
        """Remove what a daemon before this one has left."""
        keys, values = self._tables.directory().items()
        self._tables.directory().remove(keys[(values["flags"] & OF_OURS) != 0])


def _exception_keys(questions: Records) -> Records:
    keys = np.zeros(len(questions), abi.EXCEPTION_KEY)
    keys["client"], keys["vip"] = questions["client"], questions["vip"]
    ports = questions["client_port"].astype(np.uint32) << np.uint32(16)
    keys["range"] = ports | questions["vip_port"]
    keys["kind"] = ExceptionKind.FLOW
    return keys


def _ticks(seconds: float) -> int:
    return math.ceil(seconds / tick_s(hz())) + 1
