# SPDX-License-Identifier: Apache-2.0
"""Scan: which live sessions and flows of this director's tables are exceptions.

A session is one if somebody would look for it elsewhere than at its backend, or if it is split by
ranges of ports. A flow is one if affinity is `flow` and the same holds; else if it stays with
another backend than its session, which has left it behind, or than its home if its session is gone.
A session at its home is a candidate, too, if the directory has it elsewhere: whoever comes last is
right, and that is decided later, with what is known then.

Pure: arrays in, candidates out. A scan looks at every entry once, without a Python object each.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.core import exception
from limpet.core.exception import KEY, RECORD, Flag, Kind, Records
from limpet.daemon.directory.clock import Clock
from limpet.daemon.directory.placement import FLOW_S, GRACE_S, Lookup
from limpet.daemon.directory.table import Table
from limpet.datapath.abi import Life, SessionLife

HASH_KEY = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)  # of the join below, within one process
GRACE_MS, FLOW_MS = np.uint64(GRACE_S * 1_000), np.uint64(FLOW_S * 1_000)


@dataclass(frozen=True, slots=True)
class Live:
    """What the data path holds: SESSION_ROW and FLOW records of one reading."""

    sessions: NDArray[np.void]
    flows: NDArray[np.void]


def scan(live: Live, lookup: Lookup, clock: Clock, known: Table) -> Records:
    """Candidates: `time` is when they were last seen; generation and origin are left 0."""
    sessions = live.sessions[lookup.is_known[live.sessions["vip"]]]
    flows = live.flows[lookup.is_known[live.flows["vip"]]]
    by_flow = lookup.is_by_flow[flows["vip"]]
    left_behind, left = _left_behind(flows[~by_flow], sessions, lookup, clock)
    own = _of_sessions(sessions, left, lookup, clock, known)
    return np.concatenate([own, _alone(flows[by_flow], lookup, clock), left_behind])


def session_keys(sessions: NDArray[np.void]) -> NDArray[np.void]:
    """Names of SESSION_ROW records."""
    keys = np.zeros(len(sessions), KEY)
    keys["client"][:, 0], keys["client"][:, 1] = sessions["client_high"], sessions["client_low"]
    keys["range"], keys["vip"], keys["kind"] = sessions["range"], sessions["vip"], Kind.SESSION
    return keys


def flow_keys(flows: NDArray[np.void]) -> NDArray[np.void]:
    """Names of FLOW records."""
    keys = np.zeros(len(flows), KEY)
    keys["client"][:, 0], keys["client"][:, 1] = flows["client_high"], flows["client_low"]
    keys["range"] = flows["client_port"].astype(np.uint32) << 16 | flows["vip_port"]
    keys["vip"], keys["kind"] = flows["vip"], Kind.FLOW
    return keys


def _of_sessions(
    sessions: NDArray[np.void],
    left: NDArray[np.bool_],
    lookup: Lookup,
    clock: Clock,
    known: Table,
) -> Records:
    """`left`: those that have left flows behind."""
    slots = lookup.session_slots(
        sessions["client_high"], sessions["client_low"], sessions["range"].astype(np.uint64)
    )
    told = lookup.is_told(sessions["vip"], slots, sessions["backend"]) | sessions["is_split"] | left
    if len(known):
        home = np.flatnonzero(~told)
        there = known.find(session_keys(sessions[home]))
        is_elsewhere = known.at(there)["backend"] != sessions["backend"][home]
        told[home[(there > 0) & is_elsewhere]] = True
    rows, left = sessions[told], left[told]
    records = np.zeros(len(rows), RECORD)
    records["key"] = session_keys(rows)
    records["backend"], records["time"] = rows["backend"], clock.ago(rows["idle_ticks"])
    idle = np.where(rows["life"] == SessionLife.LIVE, lookup.idle_ms[rows["vip"]], np.uint64(0))
    records["expiry"] = records["time"] + idle + GRACE_MS
    records["flags"] = np.where(rows["is_split"], Flag.SPLIT, 0) | np.where(left, Flag.ASK, 0)
    return records


def _flow_records(flows: NDArray[np.void], lookup: Lookup, clock: Clock) -> Records:
    records = np.zeros(len(flows), RECORD)
    records["key"], records["backend"] = flow_keys(flows), flows["backend"]
    records["time"] = clock.ago(flows["idle_ticks"])
    is_open = (flows["life"] == Life.ESTABLISHED) | (flows["life"] == Life.DATAGRAM)
    lasting = lookup.idle_ms[flows["vip"]] + GRACE_MS
    records["expiry"] = records["time"] + np.where(is_open, lasting, FLOW_MS)
    return records


def _alone(flows: NDArray[np.void], lookup: Lookup, clock: Clock) -> Records:
    """Flows that are sessions of their own."""
    told = lookup.is_told(flows["vip"], lookup.flow_slots(flows), flows["backend"])
    return _flow_records(flows[told], lookup, clock)


def _left_behind(
    flows: NDArray[np.void], sessions: NDArray[np.void], lookup: Lookup, clock: Clock
) -> tuple[Records, NDArray[np.bool_]]:
    """Flows that are elsewhere than their session, and which sessions have such flows."""
    has_left = np.zeros(len(sessions), np.bool_)
    vips = flows["vip"]
    high = flows["client_high"] & lookup.mask[vips, 0]
    low = flows["client_low"] & lookup.mask[vips, 1]
    ranges = (flows["client_port"].astype(np.uint64) >> lookup.shift[vips]) + np.uint64(1)
    by_ports, hashed = lookup.is_by_ports[vips], _Join(sessions)
    session = hashed.find(high, low, vips, np.where(by_ports, ranges, np.uint64(0)))
    maybe = np.flatnonzero(~by_ports & (session < 0))
    if len(sessions):
        is_split = (session >= 0) & sessions["is_split"][session] & ~by_ports
        maybe = np.flatnonzero(is_split | (~by_ports & (session < 0)))
    of_range = hashed.find(high[maybe], low[maybe], vips[maybe], ranges[maybe])
    session[maybe] = np.where(of_range >= 0, of_range, session[maybe])
    with_session = np.flatnonzero(session >= 0)
    differ = sessions["backend"][session[with_session]] != flows["backend"][with_session]
    has_left[session[with_session[differ]]] = True
    without = np.flatnonzero(session < 0)
    slots = lookup.session_slots(
        high[without], low[without], np.where(by_ports, ranges, np.uint64(0))[without]
    )
    told = lookup.is_told(vips[without], slots, flows["backend"][without])
    found = np.concatenate([with_session[differ], without[told]])
    return _flow_records(flows[found], lookup, clock), has_left


class _Join:
    """Finds sessions by the parts of their names: sorted hashes, compared in full."""

    def __init__(self, sessions: NDArray[np.void]) -> None:
        self._words = exception.words(session_keys(sessions))
        hashed = exception.hashes(self._words, HASH_KEY)
        self._order = np.argsort(hashed)
        self._hashes = hashed[self._order]

    def find(
        self,
        high: NDArray[np.uint64],
        low: NDArray[np.uint64],
        vips: NDArray[np.uint16],
        ranges: NDArray[np.uint64],
    ) -> NDArray[np.intp]:
        """Number of each session, -1 if there is none."""
        keys = np.zeros(len(high), KEY)
        keys["client"][:, 0], keys["client"][:, 1] = high, low
        keys["range"], keys["vip"], keys["kind"] = ranges, vips, Kind.SESSION
        if not len(self._hashes):
            return np.full(len(keys), -1)
        names = exception.words(keys)
        hashed = exception.hashes(names, HASH_KEY)
        place = np.minimum(np.searchsorted(self._hashes, hashed), len(self._hashes) - 1)
        found = self._order[place]
        is_same = (self._words[found] == names).all(axis=1)
        return np.where(is_same, found, -1)
