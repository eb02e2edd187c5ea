# SPDX-License-Identifier: Apache-2.0
"""Rows: the registry as rows of the state file, and back.

Addresses and enums are stored as their text, arrays little-endian and compressed. Decoding trusts
nothing: a row that cannot be what was written raises ValueError, and the state is reported as
damaged. decode(encode(x)) == x.
"""

import zlib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpet.core.model import SLOTS, BackendId, Encapsulation, PoolId, Protocol, VipId
from limpet.core.registry import KnownBackend, KnownVip, Registry
from limpet.core.slots import HISTORY_DEPTH, SlotTable

Row = tuple[Any, ...]  # as SQLite gives it

COMPRESSION = 1  # zlib level; the fastest
USED, LINGERING, KNOWN = "used", "lingering", "known"

# `place` is one of the three words above; `position` keeps the order of removal.
SCHEMA = """
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE backends (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, address TEXT NOT NULL,
    encapsulation TEXT NOT NULL, place TEXT NOT NULL, position INTEGER NOT NULL
) STRICT;
CREATE TABLE vips (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, address TEXT NOT NULL, protocol TEXT NOT NULL,
    port INTEGER, place TEXT NOT NULL, position INTEGER NOT NULL
) STRICT;
CREATE TABLE pools (id INTEGER PRIMARY KEY, name TEXT NOT NULL, position INTEGER NOT NULL) STRICT;
CREATE TABLE slot_tables (
    pool INTEGER PRIMARY KEY, generation INTEGER NOT NULL, digest TEXT NOT NULL,
    slots BLOB NOT NULL, former BLOB NOT NULL, lost BLOB NOT NULL
) STRICT;
"""

# What a member of a cluster last brought into its kernel, to start with the store out of reach.
KEPT_SCHEMA = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""


def backend_rows(registry: Registry) -> Iterator[Row]:
    places = (
        (USED, registry.backends.values()),
        (LINGERING, registry.lingering),
        (KNOWN, registry.known_backends),
    )
    for place, backends in places:
        for position, b in enumerate(backends):
            yield b.id, b.name, str(b.address), str(b.encapsulation), place, position


def vip_rows(registry: Registry) -> Iterator[Row]:
    for place, vips in ((USED, registry.vips.values()), (KNOWN, registry.known_vips)):
        for position, v in enumerate(vips):
            yield v.id, v.name, str(v.address), str(v.protocol), v.port, place, position


def pool_rows(registry: Registry) -> Iterator[Row]:
    for position, (name, pool) in enumerate(registry.pools.items()):
        yield pool, name, position


def table_row(pool: PoolId, table: SlotTable) -> Row:
    arrays = (_encode(a) for a in (table.slots, table.former, table.left))
    return pool, table.generation, table.digest, *arrays


def registry(
    backends: Iterable[Row], vips: Iterable[Row], pools: Iterable[Row], tables: Iterable[Row]
) -> Registry:
    """The registry of these rows, each kind in the order of `position`."""
    backend_at: dict[str, list[KnownBackend]] = {USED: [], LINGERING: [], KNOWN: []}
    for number, name, address, encapsulation, place, _ in backends:
        known = KnownBackend(
            BackendId(number), name, ip_address(address), Encapsulation(encapsulation)
        )
        _at(backend_at, place).append(known)
    vip_at: dict[str, list[KnownVip]] = {USED: [], KNOWN: []}
    for number, name, address, protocol, port, place, _ in vips:
        vip = KnownVip(VipId(number), name, ip_address(address), Protocol(protocol), port)
        _at(vip_at, place).append(vip)
    return Registry(
        backends={backend.name: backend for backend in backend_at[USED]},
        lingering=tuple(backend_at[LINGERING]),
        known_backends=tuple(backend_at[KNOWN]),
        pools={name: PoolId(number) for number, name, _ in pools},
        tables={PoolId(row[0]): _table(row) for row in tables},
        vips={vip.key: vip for vip in vip_at[USED]},
        known_vips=tuple(vip_at[KNOWN]),
    )


def _at(places: dict[str, list[Any]], place: str) -> list[Any]:
    if place not in places:
        raise ValueError(f"unknown place {place!r}")
    return places[place]


def _table(row: Row) -> SlotTable:
    pool, generation, digest, slots, former, lost = row
    depth = (HISTORY_DEPTH, SLOTS)
    table = SlotTable(
        generation,
        _decode(slots, "<u2", (SLOTS,)),
        _decode(former, "<u2", depth),
        _decode(lost, "<u4", depth),
    )
    if table.digest != digest:
        raise ValueError(f"slot table of pool {pool} does not have its digest")
    return table


def _encode(array: NDArray[Any]) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return zlib.compress(little.tobytes(), COMPRESSION)


def _decode(blob: bytes, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        flat = np.frombuffer(zlib.decompress(blob), kind)
    except zlib.error as error:
        raise ValueError(f"slot table: {error}") from error
    return flat.astype(np.dtype(kind).newbyteorder("=")).reshape(shape)
