# SPDX-License-Identifier: Apache-2.0
"""The connection table as people want to see it: decoded and filtered, over mapped memory.

The kernel writes the table while it is read. `word` is read first and again after `id`; an entry
that changed in between is read again, so that a flow that is merely in use is never missed, and two
states are never mixed. docs/formats/flow-entry.md draws the bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.core import hashing
from limpet.datapath.abi import FlowWord, Life

FLOW = np.dtype(
    [
        ("client_high", "<u8"),
        ("client_low", "<u8"),
        ("client_port", "<u2"),
        ("vip_port", "<u2"),
        ("vip", "<u2"),
        ("backend", "<u2"),
        ("life", "u1"),
        ("idle_ticks", "<u4"),
    ]
)
SCAN_ENTRIES_MAX = 1 << 22  # entries decoded at a time: bounds memory at any table size
READS_MAX = 8  # of an entry that keeps changing; it is rewritten a few times a second at most
SEEN_MASK = (1 << FlowWord.SEEN_BITS) - 1
VIP_AND_LIFE_SHIFT = np.uint64(FlowWord.VIP_SHIFT)
VIP_AND_LIFE = np.uint64((1 << FlowWord.VIP_BITS + FlowWord.LIFE_BITS) - 1)
assert FlowWord.LIFE_SHIFT == FlowWord.VIP_SHIFT + FlowWord.VIP_BITS, "one index, VIP first"


def field(words: NDArray[np.uint64], name: str) -> NDArray[np.uint64]:
    """One field of flow words, by its name in enum flow_word."""
    shift, bits = FlowWord[f"{name}_SHIFT"], FlowWord[f"{name}_BITS"]
    return (words >> np.uint64(shift)) & np.uint64((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which flows to decode; None is any."""

    vip: int | None = None
    backend: int | None = None
    client: tuple[int, int] | None = None  # address words


@dataclass(frozen=True, slots=True)
class Census:
    """How many live flows there are, by id of backend and VIP, and by life."""

    backends: NDArray[np.int64]  # shape (4096,)
    vips: NDArray[np.int64]  # shape (1024,)
    lives: dict[str, int]  # "established" ...; fragments are no flows, but take entries
    entries: int  # of the table

    @property
    def total(self) -> int:
        """Live flows."""
        return int(self.vips.sum())


class FlowTable:
    """A view of the maps `flows` and `flow_clients`."""

    def __init__(
        self,
        entries: NDArray[np.void],
        clients: NDArray[np.void],
        family: NDArray[np.uint8],
        limits: NDArray[np.uint32],
    ) -> None:
        """`entries` FLOW_ENTRY[n], `clients` FLOW_CLIENT[n], `family` by VIP id (4, 6 or 0),
        `limits` idle ticks by VIP id and Life."""
        self._entries, self._clients = entries, clients
        self._family = family
        # VIP and life stand side by side in a word: one index finds the limit.
        self._limit = np.ascontiguousarray(limits.T).reshape(-1)

    def decode(self, tick: int, wanted: Wanted | None = None) -> NDArray[np.void]:
        """FLOW records of all live flows wanted, in table order; expired ones are no flows."""
        found = [
            self._decode(start, tick, wanted or Wanted())
            for start in range(0, len(self._entries), SCAN_ENTRIES_MAX)
        ]
        return np.concatenate(found) if found else np.zeros(0, FLOW)

    def _decode(self, start: int, tick: int, wanted: Wanted) -> NDArray[np.void]:
        part = self._entries[start : start + SCAN_ENTRIES_MAX]
        words = part["word"].copy()
        at = np.flatnonzero(self._is_live(words, tick) & _is_wanted(words, wanted))
        at, ids, words = read_whole(part, at, words[at])
        kept = self._is_live(words, tick) & _is_wanted(words, wanted)
        at, ids, words = at[kept], ids[kept], words[kept]
        flows = np.zeros(len(at), FLOW)
        flows["vip"], flows["backend"] = field(words, "VIP"), field(words, "BACKEND")
        flows["life"], flows["idle_ticks"] = field(words, "LIFE"), age_of(words, tick)
        self._name(flows, ids, start + at)
        if wanted.client is not None:
            high, low = wanted.client
            flows = flows[(flows["client_high"] == high) & (flows["client_low"] == low)]
        return flows

    def _is_live(self, words: NDArray[np.uint64], tick: int) -> NDArray[np.bool_]:
        life = field(words, "LIFE")
        is_flow: NDArray[np.bool_] = (
            (life != Life.EMPTY) & (life != Life.FRAGMENT) & (life != Life.LATE)
        )
        return is_flow & ~self._has_expired(words, tick)

    def _has_expired(self, words: NDArray[np.uint64], tick: int) -> NDArray[np.bool_]:
        limit = self._limit[(words >> VIP_AND_LIFE_SHIFT & VIP_AND_LIFE).astype(np.intp)]
        expired: NDArray[np.bool_] = age_of(words, tick) > limit
        return expired

    def _name(self, flows: NDArray[np.void], ids: NDArray[np.uint64], at: NDArray[np.intp]) -> None:
        """Fill in clients and ports: from the id for IPv4, from `flow_clients` for IPv6."""
        is4 = self._family[flows["vip"]] == 4
        flows["client_low"] = np.uint64(hashing.MAPPED) | ids >> np.uint64(32)
        flows["client_port"] = ids >> np.uint64(16) & np.uint64(0xFFFF)
        flows["vip_port"] = ids & np.uint64(0xFFFF)
        six = np.flatnonzero(~is4)
        clients = self._clients[at[six]]
        words = np.ascontiguousarray(clients["address"]).view(">u8").reshape(-1, 2)
        flows["client_high"][six], flows["client_low"][six] = words[:, 0], words[:, 1]
        flows["client_port"][six] = clients["client_port"]
        flows["vip_port"][six] = clients["vip_port"]

    def census(self, tick: int) -> Census:
        """Count live flows, without looking at who they are."""
        backends = np.zeros(1 << FlowWord.BACKEND_BITS, np.int64)
        vips = np.zeros(1 << FlowWord.VIP_BITS, np.int64)
        lives = np.zeros(1 << FlowWord.LIFE_BITS, np.int64)
        for start in range(0, len(self._entries), SCAN_ENTRIES_MAX):
            words = self._entries["word"][start : start + SCAN_ENTRIES_MAX].copy()
            words = words[field(words, "LIFE") != Life.EMPTY]
            words = words[~self._has_expired(words, tick)]
            lives += _count(words, "LIFE")
            life = field(words, "LIFE")
            words = words[(life != Life.FRAGMENT) & (life != Life.LATE)]
            backends += _count(words, "BACKEND")
            vips += _count(words, "VIP")
        kinds = {life.name.lower(): int(lives[life]) for life in Life}
        del kinds["empty"], kinds["session"]
        return Census(backends, vips, kinds, len(self._entries))

    def backends(self, tick: int) -> frozenset[int]:
        """Backend ids that live flows or fragments name."""
        seen: set[int] = set()
        for start in range(0, len(self._entries), SCAN_ENTRIES_MAX):
            words = self._entries["word"][start : start + SCAN_ENTRIES_MAX].copy()
            life = field(words, "LIFE")
            is_kept = (life != Life.EMPTY) & (life != Life.LATE)
            live = words[is_kept & ~self._has_expired(words, tick)]
            seen |= set(np.unique(field(live, "BACKEND")).tolist())
        return frozenset(seen)


def read_whole(
    part: NDArray[np.void], at: NDArray[np.intp], words: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.uint64]]:
    """Places, ids and words that belong together. `words` is what was read at the places before."""
    ids = part["id"][at]
    for _ in range(READS_MAX):
        after = part["word"][at]
        changed = after != words
        words = after
        if not changed.any():
            return at, ids, words
        ids[changed] = part["id"][at[changed]]
    same = part["word"][at] == words
    return at[same], ids[same], words[same]


def _count(words: NDArray[np.uint64], name: str) -> NDArray[np.int64]:
    """How often each value of a field occurs."""
    size = 1 << FlowWord[f"{name}_BITS"]
    return np.bincount(field(words, name).astype(np.intp), minlength=size).astype(np.int64)


def age_of(words: NDArray[np.uint64], tick: int) -> NDArray[np.int64]:
    """Idle ticks; a tick that this reader has not reached yet is no age."""
    ahead = (tick - field(words, "SEEN").astype(np.int64) + FlowWord.SKEW_TICKS) & SEEN_MASK
    age: NDArray[np.int64] = np.maximum(ahead - FlowWord.SKEW_TICKS, 0)
    return age


def _is_wanted(words: NDArray[np.uint64], wanted: Wanted) -> NDArray[np.bool_]:
    keep = np.ones(len(words), np.bool_)
    if wanted.vip is not None:
        keep &= field(words, "VIP") == wanted.vip
    if wanted.backend is not None:
        keep &= field(words, "BACKEND") == wanted.backend
    return keep
