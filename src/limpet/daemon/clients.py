# SPDX-License-Identifier: Apache-2.0
"""Clients: live sessions, and the sources that hold the most, as the JSON of the API.

Rows are decoded and sorted by numpy; text is made in batches, while it is sent, so that a million
sessions take no memory. A VIP whose affinity is `flow` has no sessions beside its flows: those are
what `sources` counts there, and `sessions` lists none.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from limpet.api.interface import FlowPage, Json, SessionQuery
from limpet.core import affinity, hashing
from limpet.core.errors import NotFound
from limpet.core.model import VIPS_MAX, Address, Affinity, Vip
from limpet.daemon import view
from limpet.daemon.reconcile import Now
from limpet.datapath import settings
from limpet.datapath.abi import SessionLife
from limpet.datapath.flows import Wanted
from limpet.datapath.kernel import Kernel

BATCH = 4_096
LIVES = {int(life): life.name.lower() for life in SessionLife}
Rows = NDArray[np.void]
Words = tuple[int, int]  # of an address, see core/hashing.py


# --- Sessions ------------------------------------------------------------------------------------


def session_page(now: Now, kernel: Kernel, query: SessionQuery) -> FlowPage:
    """Live sessions that match; NotFound for names that nobody has."""
    found = select(now, kernel, query)
    shown = found[: query.limit] if query.limit else found
    return FlowPage(len(found), _batches(now, shown))


def select(now: Now, kernel: Kernel, query: SessionQuery) -> Rows:
    """SESSION_ROW records of a query."""
    client = _address(query.client) if query.client else None
    vips = view.vip_ids(now, query.vip) if query.vip else [None]
    backend = view.backend_id(now, query.backend) if query.backend else None
    table, tick = kernel.sessions(), kernel.tick()
    found = np.concatenate([table.decode(tick, Wanted(vip, backend)) for vip in vips])
    return found if client is None else found[_is_of(now, found, client)]


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise NotFound(f"client: {error}") from None


def _is_of(now: Now, rows: Rows, client: Address) -> NDArray[np.bool_]:
    """Whether sessions are this client's, under the prefix of each one's VIP."""
    high, low = hashing.words(client)
    masks = np.full((VIPS_MAX, 2), affinity.ALL, np.uint64)
    for row in now.image.vips:
        masks[row.id] = affinity.mask(row.affinity, row.address.version, row.prefix)
    keep = masks[rows["vip"]]
    is_high = rows["client_high"] == (np.uint64(high) & keep[:, 0])
    is_low = rows["client_low"] == (np.uint64(low) & keep[:, 1])
    found: NDArray[np.bool_] = is_high & is_low
    return found


def _batches(now: Now, rows: Rows) -> Iterator[str]:
    for start in range(0, len(rows), BATCH):
        yield session_lines(now, rows[start : start + BATCH])


def session_rows(now: Now, rows: Rows) -> list[Json]:
    """SESSION_ROW records as JSON."""
    return [json.loads(line) for line in session_lines(now, rows).splitlines()]


def session_lines(now: Now, rows: Rows) -> str:
    """SESSION_ROW records as JSON, one a line; put together by hand, as flows are."""
    vips = view.Quoted({int(i): name for i, name in now.registry.vip_names().items()})
    backends = view.Quoted({int(i): name for i, name in now.registry.backend_names().items()})
    tick_s, shapes = settings.tick_s(now.machine.hz), _shapes(now)
    columns = [rows[name].tolist() for name in rows.dtype.names or ()]
    return "".join(
        f'{{"client": "{view.address_text(high, low)}{shapes[vip].suffix}", '
        f'"ports": "{shapes[vip].ports(number)}", "vip": {vips[vip]}, '
        f'"backend": {backends[backend]}, "life": "{LIVES[life]}", "idle_s": {idle * tick_s:.1f}, '
        f'"since_s": {age * tick_s:.0f}, "flows": {flows}, '
        f'"is_split": {"true" if is_split else "false"}}}\n'
        for high, low, vip, backend, number, life, is_split, idle, age, flows in zip(
            *columns, strict=True
        )
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """How sessions of a VIP are named."""

    suffix: str = ""  # of the client, where a prefix of its address is what counts: "/64"
    shift: int = 0  # of a port, to its range

    def ports(self, number: int) -> str:
        """A range, as "1024-1039"; empty: all ports."""
        if not number:
            return ""
        first = number - 1 << self.shift
        return f"{first}-{first + (1 << self.shift) - 1}"


def _shapes(now: Now) -> Mapping[int, _Shape]:
    """By VIP id; of one that is gone nothing is known."""
    found: defaultdict[int, _Shape] = defaultdict(_Shape)
    for row in now.image.vips:
        is_by_ports = row.affinity is Affinity.CLIENT_PORTS
        ranges = row.port_ranges if is_by_ports else row.split_ranges
        bits = affinity.prefix(row.address.version, row.prefix)
        is_whole = bits == affinity.ADDRESS_BITS[row.address.version]
        found[row.id] = _Shape("" if is_whole else f"/{bits}", affinity.shift(ranges))
    return found


# --- Sources -------------------------------------------------------------------------------------


def sources(now: Now, kernel: Kernel, vip: str, limit: int) -> list[Json]:
    """The clients with the most open flows, over all VIPs or those of a name."""
    wanted = now.desired.vips
    if vip:
        numbers = view.vip_ids(now, vip)
        wanted = tuple(each for each in wanted if _number(now, each) in numbers)
    found: list[Json] = []
    for each in wanted:
        found += _sources(now, kernel, each, limit)
    found.sort(key=lambda row: (-row["flows"], -row["sessions"], row["client"]))
    return found[:limit] if limit else found


def _number(now: Now, vip: Vip) -> int:
    return int(now.registry.vips[(vip.address, vip.protocol, vip.port)].id)


def _sources(now: Now, kernel: Kernel, vip: Vip, limit: int) -> list[Json]:
    number, tick = _number(now, vip), kernel.tick()
    flows = kernel.flows().decode(tick, Wanted(vip=number))
    sessions = kernel.sessions().decode(tick, Wanted(vip=number))
    mask = affinity.mask(Affinity.CLIENT, vip.address.version, vip.prefix)
    by_flows, by_sessions = _tally(flows, mask), _tally(sessions, mask)
    split = {_words(row) for row in sessions[sessions["is_split"]]}
    shape = _shapes(now)[number]
    found = []
    for client in dict.fromkeys((*by_flows.top(limit), *by_sessions.top(limit))):
        count, has = by_flows.of(client), by_sessions.of(client)
        found.append(
            {
                "client": view.address_text(*client) + shape.suffix,
                "vip": vip.name,
                "flows": count,
                "sessions": count if vip.affinity is Affinity.FLOW else has,
                "share_percent": round(100 * count / max(1, len(flows)), 2),
                "is_split": client in split,
                "why": _why(now, number, client) if client in split else "",
            }
        )
    return found


@dataclass(frozen=True, slots=True)
class _Tally:
    """How many rows each client has, the one with the most first."""

    counts: dict[Words, int]

    def top(self, limit: int) -> Iterator[Words]:
        return islice(self.counts, limit or None)

    def of(self, client: Words) -> int:
        return self.counts.get(client, 0)


def _tally(rows: Rows, mask: tuple[int, int]) -> _Tally:
    high = rows["client_high"] & np.uint64(mask[0])
    low = rows["client_low"] & np.uint64(mask[1])
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    at = np.flatnonzero(is_first)
    counts = np.diff(at, append=len(rows))
    most = np.argsort(-counts, kind="stable")
    words = zip(high[at[most]].tolist(), low[at[most]].tolist(), strict=True)
    return _Tally(dict(zip(words, counts[most].tolist(), strict=True)))


def split_clients(now: Now, kernel: Kernel) -> dict[tuple[int, Words], Json]:
    """Clients whose affinity is split by ranges of their ports now, by VIP and address words."""
    rows = kernel.sessions().decode(kernel.tick())
    rows = rows[rows["is_split"] & (rows["range"] == 0)]
    return {
        (int(row["vip"]), _words(row)): said
        for row, said in zip(rows, session_rows(now, rows), strict=True)
    }


def _words(row: np.void) -> Words:
    return int(row["client_high"]), int(row["client_low"])


def _why(now: Now, number: int, client: Words) -> str:
    address = hashing.address(*client)
    for prefix in now.image.proxies:
        if address in prefix:
            return f"under the known prefix {prefix}"
    row = next(row for row in now.image.vips if row.id == number)
    return f"split from {row.split_flows} flows on"
