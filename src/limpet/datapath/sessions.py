# SPDX-License-Identifier: Apache-2.0
"""The session table as people want to see it: decoded and filtered, over mapped memory.

The kernel writes the table while it is read: `word` is read before and after the rest, and an entry
that changed in between, or is being written, is left out; it is there at the next reading.
docs/formats/session-entry.md draws the bits. A client is as its VIP's prefix leaves it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.datapath.abi import Life, SessionLife, SessionWord
from limpet.datapath.flows import Wanted

SESSION_ROW = np.dtype(
    [
        ("client_high", "<u8"),
        ("client_low", "<u8"),
        ("vip", "<u2"),
        ("backend", "<u2"),
        ("range", "<u4"),  # 0: the whole client; else 1 + range of its ports
        ("life", "u1"),
        ("is_split", "?"),
        ("idle_ticks", "<u4"),
        ("age_ticks", "<u4"),  # since it began, in steps of 2^SINCE_UNIT
        ("flows", "<u4"),  # open ones
    ]
)
SCAN_ENTRIES_MAX = 1 << 21  # entries looked at a time: bounds memory at any table size
TICK_MASK = (1 << 32) - 1
SINCE_MASK = (1 << SessionWord.SINCE_BITS) - 1


def field(words: NDArray[np.uint64], name: str) -> NDArray[np.uint64]:
    """One field of session words, by its name in enum session_word."""
    shift, bits = SessionWord[f"{name}_SHIFT"], SessionWord[f"{name}_BITS"]
    return (words >> np.uint64(shift)) & np.uint64((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class SessionCensus:
    """How many live sessions there are, by id of backend and VIP, and by life."""

    backends: NDArray[np.int64]  # shape (4096,)
    vips: NDArray[np.int64]  # shape (1024,)
    lives: dict[str, int]  # "opening", "live", "past": the last are only remembered
    entries: int  # of the table

    @property
    def total(self) -> int:
        """Live sessions."""
        return int(self.vips.sum())


class SessionTable:
    """A view of the map `sessions`."""

    def __init__(
        self, entries: NDArray[np.void], seen: NDArray[np.uint32], limits: NDArray[np.uint32]
    ) -> None:
        """`entries` SESSION[n], `seen` ticks [n], `limits` idle ticks by VIP id and Life."""
        self._entries, self._seen, self._limits = entries, seen, limits

    def decode(self, tick: int, wanted: Wanted | None = None) -> NDArray[np.void]:
        """SESSION_ROW records of all live sessions wanted, in table order."""
        found = [
            self._decode(start, tick, wanted or Wanted())
            for start in range(0, len(self._entries), SCAN_ENTRIES_MAX)
        ]
        return np.concatenate(found) if found else np.zeros(0, SESSION_ROW)

    def _decode(self, start: int, tick: int, wanted: Wanted) -> NDArray[np.void]:
        part = slice(start, start + SCAN_ENTRIES_MAX)
        at, entries, age = self._live(part, tick, wanted)
        same = self._entries["word"][part][at] == entries["word"]
        if wanted.client is not None:
            high, low = wanted.client
            same &= (entries["client"][:, 0] == high) & (entries["client"][:, 1] == low)
        return _rows(entries[same], age[same], tick)

    def _live(
        self, part: slice, tick: int, wanted: Wanted
    ) -> tuple[NDArray[np.intp], NDArray[np.void], NDArray[np.int64]]:
        """Places, entries and idle ticks of the sessions wanted."""
        words = self._entries["word"][part].copy()
        keep = _counts(words)
        if wanted.vip is not None:
            keep &= field(words, "VIP") == wanted.vip
        if wanted.backend is not None:
            keep &= field(words, "BACKEND") == wanted.backend
        at = np.flatnonzero(keep)
        entries, age = self._entries[part][at], age_of(self._seen[part][at], tick)
        kept = (entries["word"] == words[at]) & (age <= self._limit(words[at]))
        return at[kept], entries[kept], age[kept]

    def _limit(self, words: NDArray[np.uint64]) -> NDArray[np.uint32]:
        is_opening = field(words, "LIFE") == SessionLife.OPENING
        row = np.where(is_opening, Life.OPENING, Life.SESSION)
        found: NDArray[np.uint32] = self._limits[field(words, "VIP").astype(np.intp), row]
        return found

    def census(self, tick: int) -> SessionCensus:
        """Count live sessions, without looking at who they are."""
        backends = np.zeros(1 << SessionWord.BACKEND_BITS, np.int64)
        vips = np.zeros(1 << SessionWord.VIP_BITS, np.int64)
        lives = np.zeros(1 << SessionWord.LIFE_BITS, np.int64)
        for start in range(0, len(self._entries), SCAN_ENTRIES_MAX):
            part = slice(start, start + SCAN_ENTRIES_MAX)
            words = self._entries["word"][part].copy()
            lives[SessionLife.PAST] += int((field(words, "LIFE") == SessionLife.PAST).sum())
            at = np.flatnonzero(_counts(words))
            words, age = words[at], age_of(self._seen[part][at], tick)
            words = words[age <= self._limit(words)]
            backends += _count(words, "BACKEND")
            vips += _count(words, "VIP")
            lives += _count(words, "LIFE")
        wanted = (SessionLife.OPENING, SessionLife.LIVE, SessionLife.PAST)
        named = {life.name.lower(): int(lives[life]) for life in wanted}
        return SessionCensus(backends, vips, named, len(self._entries))


def _counts(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether they are of sessions that live, unless they have expired."""
    life = field(words, "LIFE")
    found: NDArray[np.bool_] = (life == SessionLife.OPENING) | (life == SessionLife.LIVE)
    return found


def _rows(entries: NDArray[np.void], age: NDArray[np.int64], tick: int) -> NDArray[np.void]:
    rows = np.zeros(len(entries), SESSION_ROW)
    words = entries["word"]
    rows["client_high"], rows["client_low"] = entries["client"][:, 0], entries["client"][:, 1]
    for name in ("vip", "backend", "range", "life"):
        rows[name] = field(words, name.upper())
    rows["is_split"] = field(words, "SPLIT") > 0
    rows["idle_ticks"] = age
    since = field(words, "SINCE").astype(np.int64)
    units = ((tick >> SessionWord.SINCE_UNIT) - since) & SINCE_MASK
    rows["age_ticks"] = units << SessionWord.SINCE_UNIT
    rows["flows"] = np.maximum(entries["flows"].astype(np.int32), 0)
    return rows


def age_of(seen: NDArray[np.uint32], tick: int) -> NDArray[np.int64]:
    """Idle ticks; a tick that this reader has not reached yet is no age."""
    age = (tick - seen.astype(np.int64)) & TICK_MASK
    return np.where(age < 1 << 31, age, 0)


def _count(words: NDArray[np.uint64], name: str) -> NDArray[np.int64]:
    """How often each value of a field occurs."""
    size = 1 << SessionWord[f"{name}_BITS"]
    return np.bincount(field(words, name).astype(np.intp), minlength=size).astype(np.int64)
