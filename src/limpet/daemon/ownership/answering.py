# SPDX-License-Identifier: Apache-2.0
"""Answering: what this director knows of flows that another asks for.

The flow itself counts more than its client's session: first the connection table, with what has
expired and is remembered, then what the session directory says of the flow, then the session table
and the directory for the client. Of a flow that nobody knew when it came, the entry is a guess, and
is said to be one: whoever knows better counts for more. Nothing is changed by being asked.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limpet.core.ownership import IDLE_MAX_MS, Known, Records, nothing
from limpet.datapath import abi
from limpet.datapath.abi import Affinity, ExceptionFlag, ExceptionKind, Life
from limpet.datapath.lookup import NAME, Lookup

Rows = NDArray[np.void]
TICK_BITS = 32
OPEN = (Life.ESTABLISHED, Life.DATAGRAM)
HALF_OPEN = (Life.OPENING, Life.CLOSING)


class DirectoryMap(Protocol):
    """What is asked of the map of exceptions."""

    def get(self, key: Rows) -> Rows | None: ...
    def put(self, keys: Rows, values: Rows) -> int: ...
    def remove(self, keys: Rows) -> int: ...
    def items(self) -> tuple[Rows, Rows]: ...


class Tables(Protocol):
    """What is asked of a director's kernel to answer."""

    def lookup(self) -> Lookup: ...
    def directory(self) -> DirectoryMap: ...
    def tick(self) -> int: ...


class Answering:
    """The answers of one director."""

    def __init__(self, tables: Tables, generation: Callable[[], int], tick_ms: float) -> None:
        """`generation`: of the registry that is in effect here."""
        self._tables, self._generation, self._tick_ms = tables, generation, tick_ms

    def answer(self, questions: Records) -> Records:
        """ANSWER to each QUESTION."""
        answers = nothing(len(questions))
        tick, names = self._tables.tick(), _names(questions)
        lookup = self._tables.lookup()
        self._by_flow(answers, lookup.flows(names, tick), lookup, names)
        self._by_told_flow(answers, names, tick)
        rest = np.flatnonzero(answers["known"] == Known.NOTHING)
        if len(rest):
            found = lookup.sessions(names[rest], tick)
            self._by_session(answers, rest, found, ~found["has_expired"], Known.SESSION)
            self._by_told_session(answers, names, tick, lookup)
            is_left = answers["known"][rest] == Known.NOTHING
            self._by_session(
                answers, rest, found, found["has_expired"] & is_left, Known.SESSION_PAST
            )
        answers["generation"] = self._generation()
        return answers

    def _by_flow(self, answers: Records, found: Rows, lookup: Lookup, names: Rows) -> None:
        life, lives = found["life"], found["is_there"] & ~found["has_expired"]
        known = np.zeros(len(answers), np.uint8)
        known[lives & np.isin(life, OPEN)] = Known.OPEN
        known[lives & np.isin(life, HALF_OPEN)] = Known.HALF_OPEN
        remembered = found["idle_ticks"] <= lookup.limits(names["vip"], Life.LATE)
        late = (life == Life.LATE) | ((life == Life.ESTABLISHED) & found["has_expired"])
        known[found["is_there"] & late & remembered] = Known.LATE
        known[(known > 0) & found["is_guess"]] = Known.GUESSED
        at = np.flatnonzero(known)
        answers["known"][at] = known[at]
        self._tell(answers, at, found["backend"][at], found["idle_ticks"][at])

    def _by_session(
        self,
        answers: Records,
        rest: NDArray[np.intp],
        found: Rows,
        of: NDArray[np.bool_],
        known: Known,
    ) -> None:
        which = found["is_there"] & of
        at = rest[which]
        answers["known"][at] = known
        self._tell(answers, at, found["backend"][which], found["idle_ticks"][which])

    def _tell(
        self,
        answers: Records,
        at: NDArray[np.intp],
        backends: NDArray[np.uint16],
        idle_ticks: NDArray[np.uint32],
    ) -> None:
        answers["backend"][at] = backends
        answers["idle_ms"][at] = np.minimum(idle_ticks * self._tick_ms, IDLE_MAX_MS)

    # --- The session directory --------------------------------------------------------------------

    def _by_told_flow(self, answers: Records, names: Rows, tick: int) -> None:
        for i in np.flatnonzero(np.isin(answers["known"], (Known.NOTHING, Known.GUESSED))).tolist():
            name = names[i]
            ports = int(name["client_port"]) << 16 | int(name["vip_port"])
            key = exception_key(name["client"], ports, name["vip"], ExceptionKind.FLOW)
            self._told(answers, i, key, tick, Known.TOLD)

    def _by_told_session(self, answers: Records, names: Rows, tick: int, lookup: Lookup) -> None:
        for i in np.flatnonzero(answers["known"] == Known.NOTHING).tolist():
            vip = lookup.vip(int(names[i]["vip"]))
            if vip["affinity"] == Affinity.FLOW or not vip["family"]:
                continue
            client, port = names[i]["client"] & vip["affinity_mask"], int(names[i]["client_port"])
            own = int(vip["affinity"] == Affinity.CLIENT_PORTS)
            ranges = own and own + (port >> int(vip["range_shift"]))
            key = exception_key(client, ranges, names[i]["vip"], ExceptionKind.SESSION)
            flags = self._told(answers, i, key, tick, Known.SESSION_TOLD)
            if flags & ExceptionFlag.SPLIT:
                key["range"] = 1 + (port >> int(vip["split_shift"]))
                self._told(answers, i, key, tick, Known.SESSION_TOLD)

    def _told(self, answers: Records, i: int, key: Rows, tick: int, known: Known) -> int:
        """Take over what the directory says under this key, if anything; its flags."""
        found = self._tables.directory().get(key)
        if found is None or _is_before(int(found["until"]), tick):
            return 0
        flags = int(found["flags"])
        if not flags & ExceptionFlag.ORPHAN:
            answers["known"][i], answers["backend"][i] = known, found["backend"]
            idle = 0 if _is_before(tick, int(found["since"])) else tick - int(found["since"])
            answers["idle_ms"][i] = min(idle % (1 << TICK_BITS) * self._tick_ms, IDLE_MAX_MS)
        return flags


def exception_key(client: NDArray[np.integer], ranges: int, vip: int, kind: ExceptionKind) -> Rows:
    """One EXCEPTION_KEY, shape ()."""
    key = np.zeros((), abi.EXCEPTION_KEY)
    key["client"], key["range"], key["vip"], key["kind"] = client, ranges, vip, kind
    return key


def _names(questions: Records) -> Rows:
    """Flows as the tables of this machine name them; a VIP that cannot be is VIP 0, which has no
    flows and no sessions."""
    names = np.zeros(len(questions), NAME)
    for field in ("client", "client_port", "vip_port"):
        names[field] = questions[field]
    names["vip"] = np.where(questions["vip"] < int(abi.Limit.VIPS), questions["vip"], 0)
    return names


def _is_before(one: int, other: int) -> bool:
    """Of ticks, which begin anew after 2^32."""
    return (one - other) % (1 << TICK_BITS) >= 1 << TICK_BITS - 1
