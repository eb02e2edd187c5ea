# SPDX-License-Identifier: Apache-2.0
"""Lookup: single flows and sessions in the kernel's tables, found where the program finds them.

The hash of bpf/flow.h and bpf/session.h says which two buckets an entry may be in, so a lookup
reads these and no others, however large the table is; many at a time cost little more than one.
Where an entry has expired, that is said beside it: who asks decides what it is worth. An entry that
changes again and again while it is read is left out.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from limpet.core import hashing
from limpet.datapath import flows, sessions
from limpet.datapath.abi import Affinity, FlowSession, FlowWord, Life, SessionLife, SessionWord

NAME = np.dtype(
    [
        ("client", "<u8", (2,)),
        ("client_port", "<u2"),
        ("vip_port", "<u2"),
        ("vip", "<u2"),
    ]
)
FOUND = np.dtype(
    [
        ("is_there", "?"),
        ("has_expired", "?"),
        ("is_guess", "?"),  # a flow that nobody knew when it came
        ("life", "u1"),  # Life of a flow, SessionLife of a session
        ("backend", "<u2"),
        ("idle_ticks", "<u4"),
    ]
)
Rows = NDArray[np.void]
Settings = np.ndarray[tuple[()], np.dtype[np.void]]
Words = NDArray[np.uint64]
CHECK = np.uint64(((1 << FlowWord.CHECK_BITS) - 1) << FlowWord.CHECK_SHIFT)
FLOW_MATCH = CHECK | np.uint64(((1 << FlowWord.VIP_BITS) - 1) << FlowWord.VIP_SHIFT)
SESSION_MATCH = np.uint64(
    ((1 << SessionWord.VIP_BITS) - 1) << SessionWord.VIP_SHIFT
    | ((1 << SessionWord.RANGE_BITS) - 1) << SessionWord.RANGE_SHIFT
)
SECOND_SHIFT = np.uint64(24)  # of the hash, for the second bucket
GUESSED = np.uint64(FlowSession.IN_SESSION | FlowSession.ORPHAN)
RANGE_SHIFT_MASK = np.uint8(15)


class Lookup:
    """The maps of one director, read entry by entry."""

    def __init__(
        self, rows_of: Callable[[str], Rows], settings: Settings, limits: NDArray[np.uint32]
    ) -> None:
        """`rows_of`: the rows of a mapped array; `settings`: those of the program that runs;
        `limits`: idle ticks by VIP id and Life."""
        self._map, self._limits = rows_of, limits
        self._key = int(settings["flow_key"][0]), int(settings["flow_key"][1])
        self._flow_mask = np.uint64(settings["bucket_mask"])
        self._session_mask = np.uint64(settings["session_mask"])

    def has_backends(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these are rows of backends."""
        found: NDArray[np.bool_] = self._map("backends")["encapsulation"][ids] != 0
        return found

    def vip(self, number: int) -> np.void:
        """Row of a VIP; of one that is not there all is 0."""
        found: np.void = self._map("vips")[number]
        return found

    def limits(self, vips: NDArray[np.integer], life: Life) -> NDArray[np.uint32]:
        """Idle ticks after which an entry of these VIPs has expired."""
        found: NDArray[np.uint32] = self._limits[vips, int(life)]
        return found

    # --- Flows ----------------------------------------------------------------------------------

    def flows(self, names: Rows, tick: int) -> Rows:
        """FOUND for each flow (NAME; other fields are not looked at)."""
        vips = names["vip"].astype(np.intp)
        ids, match, places = self._flow_places(names, vips)
        entries = self._map("flows")["entries"].reshape(-1)
        words = entries["word"][places]
        is_it = _is_flow(words, match) & (entries["id"][places] == ids[:, None])
        asked = np.flatnonzero(is_it.any(axis=1))
        way = is_it[asked].argmax(axis=1)
        at, kept_ids, kept = flows.read_whole(entries, places[asked, way], words[asked, way])
        found = np.zeros(len(names), FOUND)
        if len(at) != len(asked):  # some changed all the time
            stable = np.isin(places[asked, way], at)
            asked = asked[stable]
        same = _is_flow(kept[:, None], match[asked])[:, 0] & (kept_ids == ids[asked])
        self._tell_flows(found, asked[same], kept[same], vips, tick)
        return found

    def _flow_places(
        self, names: Rows, vips: NDArray[np.intp]
    ) -> tuple[Words, Words, NDArray[np.intp]]:
        """Id of each flow, what its word has to match, and the places of its two buckets."""
        high, low = _words(names["client"])
        ports = names["client_port"].astype(np.uint64) << np.uint64(16)
        ports |= names["vip_port"].astype(np.uint64)
        is4 = self._map("vips")["family"][vips] == 4
        ids = low << np.uint64(32) | ports
        if not is4.all():
            digest = hashing.mix(hashing.pair(high, low, self._key) ^ ports)
            ids = np.where(is4, ids, digest)
        hashed = hashing.mix(ids ^ np.uint64(self._key[0]))
        match = hashed & CHECK | vips.astype(np.uint64) << np.uint64(FlowWord.VIP_SHIFT)
        return ids, match, _places(hashed, self._flow_mask, self._map("flows")["entries"].shape[1])

    def _tell_flows(
        self, found: Rows, at: NDArray[np.intp], words: Words, vips: NDArray[np.intp], tick: int
    ) -> None:
        life = flows.field(words, "LIFE").astype(np.intp)
        idle = flows.age_of(words, tick)
        found["is_there"][at], found["life"][at] = True, life
        found["backend"][at], found["idle_ticks"][at] = flows.field(words, "BACKEND"), idle
        found["has_expired"][at] = idle > self._limits[vips[at], life]
        session = flows.field(words, "SESSION")
        found["is_guess"][at] = session & GUESSED == FlowSession.ORPHAN

    # --- Sessions -------------------------------------------------------------------------------

    def sessions(self, names: Rows, tick: int) -> Rows:
        """FOUND for the session that each flow would follow: that of its range, if its client is
        split and that session lives, else its client's. None for VIPs with affinity flow."""
        vips = names["vip"].astype(np.intp)
        rows = self._map("vips")[vips]
        ports, ranges = names["client_port"], np.zeros(len(names), np.int64)
        by_ports = rows["affinity"] == Affinity.CLIENT_PORTS
        if by_ports.any():
            ranges[by_ports] = _range(ports[by_ports], rows["range_shift"][by_ports])
        of_client, split = self._sessions(names, ranges, tick)
        has_none = (rows["affinity"] == Affinity.FLOW) | (rows["family"] == 0)
        of_client["is_there"] &= ~has_none
        if split.any():
            asked = np.flatnonzero(split & of_client["is_there"] & ~by_ports)
            ranges = _range(ports[asked], rows["split_shift"][asked])
            of_range, _ = self._sessions(names[asked], ranges, tick)
            lives = of_range["is_there"] & ~of_range["has_expired"]
            of_client[asked[lives]] = of_range[lives]
        return of_client

    def _sessions(
        self, names: Rows, ranges: NDArray[np.integer], tick: int
    ) -> tuple[Rows, NDArray[np.bool_]]:
        """FOUND for the sessions of these keys, and which of them are split."""
        vips = names["vip"].astype(np.intp)
        mask = self._map("vips")["affinity_mask"][vips]
        high, low = _words(names["client"])
        high, low = high & mask[:, 0], low & mask[:, 1]
        wide = ranges.astype(np.uint64)
        key = vips.astype(np.uint64) << np.uint64(SessionWord.RANGE_BITS) | wide
        hashed = hashing.mix(hashing.pair(high, low, self._key) ^ key)
        match = vips.astype(np.uint64) << np.uint64(SessionWord.VIP_SHIFT)
        match |= wide << np.uint64(SessionWord.RANGE_SHIFT)
        rows = self._map("sessions")["entries"]
        places = _places(hashed, self._session_mask, rows.shape[1])
        entries = rows.reshape(-1)
        words, clients = entries["word"][places], entries["client"][places]
        is_it = _is_session(words, match)
        is_it &= (clients[..., 0] == high[:, None]) & (clients[..., 1] == low[:, None])
        found, split = np.zeros(len(names), FOUND), np.zeros(len(names), np.bool_)
        at = np.flatnonzero(is_it.any(axis=1))
        if len(at):
            place = places[at, is_it[at].argmax(axis=1)]
            after = entries["word"][place]  # while it was read it may have become another's
            same = _is_session(after[:, None], match[at])[:, 0]
            at, place, after = at[same], place[same], after[same]
            self._tell_sessions(found, at, after, place, tick)
            split[at] = sessions.field(after, "SPLIT") > 0
        return found, split

    def _tell_sessions(
        self, found: Rows, at: NDArray[np.intp], words: Words, places: NDArray[np.intp], tick: int
    ) -> None:
        life = sessions.field(words, "LIFE")
        idle = sessions.age_of(self._map("session_seen")["seen"].reshape(-1)[places], tick)
        row = np.where(life == SessionLife.OPENING, int(Life.OPENING), int(Life.SESSION))
        limit = self._limits[sessions.field(words, "VIP").astype(np.intp), row]
        found["is_there"][at], found["life"][at] = True, life
        found["backend"][at], found["idle_ticks"][at] = sessions.field(words, "BACKEND"), idle
        found["has_expired"][at] = (life == SessionLife.PAST) | (idle > limit)


def _words(client: NDArray[np.integer]) -> tuple[Words, Words]:
    return client[:, 0].astype(np.uint64), client[:, 1].astype(np.uint64)


def _range(ports: NDArray[np.integer], shift: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Range of a port as keys have it: from 1."""
    return 1 + (ports.astype(np.int64) >> (shift & RANGE_SHIFT_MASK).astype(np.int64))


def _places(hashed: Words, mask: np.uint64, ways: int) -> NDArray[np.intp]:
    """Places of the entries of both buckets, shape (n, 2 * ways)."""
    first, second = hashed & mask, hashed >> SECOND_SHIFT & mask
    second = np.where(second == first, second ^ (np.uint64(1) & mask), second)
    buckets = np.stack([first, second], axis=1).astype(np.intp)
    places: NDArray[np.intp] = buckets[:, :, None] * ways + np.arange(ways)
    return places.reshape(len(hashed), 2 * ways)


def _is_flow(words: Words, match: Words) -> NDArray[np.bool_]:
    """Of words in rows, which are of the flow that the row looks for."""
    life = flows.field(words, "LIFE")
    is_used: NDArray[np.bool_] = (life != Life.EMPTY) & (life != Life.FRAGMENT)
    is_used &= (words & FLOW_MATCH) == match[:, None]
    return is_used


def _is_session(words: Words, match: Words) -> NDArray[np.bool_]:
    is_used: NDArray[np.bool_] = sessions.field(words, "LIFE") >= SessionLife.OPENING
    is_used &= (words & SESSION_MATCH) == match[:, None]
    return is_used
