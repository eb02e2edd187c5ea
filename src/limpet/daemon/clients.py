# SPDX-License-Identifier: Apache-2.0
"""Clients: live sessions, and the sources that hold the most, as the JSON of the API.

Rows are decoded and sorted by numpy; text is made in batches, while it is sent, so that a million
sessions take no memory. A VIP whose affinity is `flow` has no sessions beside its flows: those are
what `sources` counts there, and `sessions` lists none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

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


def session_rows(now: Now, rows: Rows) -> list[Json]:
    """SESSION_ROW records as JSON."""
    vips, backends = now.registry.vip_names(), now.registry.backend_names()
    names = {int(number): name for number, name in vips.items()}
    holders = {int(number): name for number, name in backends.items()}
    tick_s, shapes = settings.tick_s(now.machine.hz), _shapes(now)
    return [
        {
            "client": shapes.client(_words(row), int(row["vip"])),
            "ports": shapes.ports(row),
            "vip": names.get(int(row["vip"]), f"#{row['vip']}"),
            "backend": holders.get(int(row["backend"]), f"#{row['backend']}"),
            "life": LIVES[int(row["life"])],
            "idle_s": round(int(row["idle_ticks"]) * tick_s, 1),
            "since_s": round(int(row["age_ticks"]) * tick_s),
            "flows": int(row["flows"]),
            "is_split": bool(row["is_split"]),
        }
        for row in rows
    ]


def _batches(now: Now, rows: Rows) -> Iterator[str]:
    for start in range(0, len(rows), BATCH):
        batch = session_rows(now, rows[start : start + BATCH])
        yield "".join(f"{json.dumps(row)}\n" for row in batch)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How sessions of a VIP are named."""

    family: int
    prefix: int
    shift: int


@dataclass(frozen=True, slots=True)
class _Shapes:
    by_vip: dict[int, _Shape]

    def client(self, words: tuple[int, int], vip: int) -> str:
        """An address, or a prefix where that is what counts."""
        address = hashing.address(*words)
        shape = self.by_vip.get(vip)
        if shape is None or shape.prefix == affinity.ADDRESS_BITS[shape.family]:
            return str(address)
        return str(ip_network((address, shape.prefix), strict=False))

    def ports(self, row: np.void) -> str:
        """The range, as "1024-1039"; empty: all."""
        shape, number = self.by_vip.get(int(row["vip"])), int(row["range"])
        if shape is None or not number:
            return ""
        first = number - 1 << shape.shift
        return f"{first}-{first + (1 << shape.shift) - 1}"


def _shapes(now: Now) -> _Shapes:
    found = {}
    for row in now.image.vips:
        is_by_ports = row.affinity is Affinity.CLIENT_PORTS
        ranges = row.port_ranges if is_by_ports else row.split_ranges
        bits = affinity.prefix(row.address.version, row.prefix)
        found[int(row.id)] = _Shape(row.address.version, bits, affinity.shift(ranges))
    return _Shapes(found)


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
    by_flows = _counted(flows, affinity.mask(Affinity.CLIENT, vip.address.version, vip.prefix))
    by_sessions = _counted(sessions, (affinity.ALL, affinity.ALL))
    split = {_words(row) for row in sessions[sessions["is_split"] != 0]}
    most = sorted(by_flows.keys() | by_sessions.keys(), key=lambda c: -by_flows.get(c, 0))
    names = _shapes(now)
    found = []
    for client in most[: limit or None]:
        count, has = by_flows.get(client, 0), by_sessions.get(client, 0)
        found.append(
            {
                "client": names.client(client, number),
                "vip": vip.name,
                "flows": count,
                "sessions": count if vip.affinity is Affinity.FLOW else has,
                "share_percent": round(100 * count / max(1, len(flows)), 2),
                "is_split": client in split,
                "why": _why(now, number, client) if client in split else "",
            }
        )
    return found


def _counted(rows: Rows, mask: tuple[int, int]) -> dict[tuple[int, int], int]:
    """How many rows each client has."""
    pairs = np.zeros(len(rows), [("high", "<u8"), ("low", "<u8")])
    pairs["high"] = rows["client_high"] & np.uint64(mask[0])
    pairs["low"] = rows["client_low"] & np.uint64(mask[1])
    clients, counts = np.unique(pairs, return_counts=True)
    return {(int(c["high"]), int(c["low"])): int(n) for c, n in zip(clients, counts, strict=True)}


def _words(row: np.void) -> tuple[int, int]:
    return int(row["client_high"]), int(row["client_low"])


def _why(now: Now, number: int, client: tuple[int, int]) -> str:
    address = hashing.address(*client)
    for prefix in now.image.proxies:
        if address in prefix:
            return f"under the known prefix {prefix}"
    row = next(row for row in now.image.vips if row.id == number)
    return f"split from {row.split_flows} flows on"
