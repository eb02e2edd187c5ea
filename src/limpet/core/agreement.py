# SPDX-License-Identifier: Apache-2.0
"""Agreement: what all directors of a cluster run together, as one immutable value.

It holds what was wanted (shared document, intents, revision), and what the leader made of it: ids,
slot tables with their history, and the weights that the tables were built for. A director needs
nothing else to forward, also with the store out of reach, so it keeps the last one on its disk.

`ages` say when slots moved: a pair (generation of the pool's table, Unix time) for each change. For
as long as a session may have begun before a slot moved, its owner cannot be taken for granted.

As bytes: a header of JSON, then the arrays, all compressed; equal agreements give equal bytes, and
their SHA-256 is the name of the agreement. decode(encode(x)) == x; anything else is a ValueError.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import numpy as np

from limpet.core.intent import Intents
from limpet.core.intent import decode as decode_intents
from limpet.core.intent import encode as encode_intents
from limpet.core.model import SLOTS, BackendId, Encapsulation, PoolId, Protocol, VipId
from limpet.core.registry import KnownBackend, KnownVip, Registry
from limpet.core.slots import HISTORY_DEPTH, SlotTable

FORMAT = 1
COMPRESSION = 1  # zlib level; the fastest
BYTES_MAX = 4 << 30  # unpacked: 1,024 pools
AGES_MAX = 512  # per pool; beyond it every second of the older half is left out
ARRAYS = (("slots", "<u2", 1), ("former", "<u2", HISTORY_DEPTH), ("left", "<u4", HISTORY_DEPTH))
LENGTH_BYTES = 8

Ages = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is wanted, and the ids and tables that were made of it."""

    revision: int = 0
    text: str = ""
    intents: Intents = field(default_factory=Intents)
    slot_key: bytes = bytes(16)
    registry: Registry = field(default_factory=Registry)
    weights: Mapping[PoolId, Mapping[BackendId, int]] = field(default_factory=dict)
    ages: Mapping[PoolId, Ages] = field(default_factory=dict)  # sorted by generation
    down: frozenset[tuple[str, str]] = frozenset()  # (pool, backend): down for everybody


def aged(ages: Ages, generation: int, now: float) -> Ages:
    """With a new generation, made now. Leaving some out only makes slots look younger."""
    if len(ages) >= AGES_MAX:
        half = len(ages) // 2
        ages = (*ages[1:half:2], *ages[half:])
    return (*ages, (generation, now))


def settled(ages: Ages, since: float) -> int:
    """The newest generation that was made before `since`; 0: none.

    What moved in a later one may have sessions of before.
    """
    return max((generation for generation, made in ages if made < since), default=0)


def without_old(ages: Ages, since: float) -> Ages:
    """Without what `settled` will never look at again: all but the newest of those of before."""
    last = settled(ages, since)
    return tuple(each for each in ages if each[0] >= last)


def moved(before: Registry, after: Registry) -> dict[PoolId, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which slots have another home, for the pools that both have and where any has."""
    found = {}
    for pool, table in after.tables.items():
        was = before.tables.get(pool)
        if was is None or was is table:
            continue
        mask = was.slots != table.slots
        if mask.any():
            found[pool] = mask
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- Bytes -------------------------------------------------------------------------------------


def encode(agreement: Agreement) -> bytes:
    registry = agreement.registry
    header = json.dumps(_header(agreement), separators=(",", ":"), sort_keys=True).encode()
    machine = zlib.compressobj(COMPRESSION)
    parts = [machine.compress(len(header).to_bytes(LENGTH_BYTES, "big")), machine.compress(header)]
    for pool in sorted(registry.tables):
        for name, kind, _ in ARRAYS:
            array = getattr(registry.tables[pool], name).astype(kind, copy=False)
            parts.append(machine.compress(array.tobytes()))
    return b"".join((*parts, machine.flush()))


def decode(data: bytes) -> Agreement:
    """Raises ValueError for what `encode` has not written."""
    machine = zlib.decompressobj()
    try:
        raw = machine.decompress(data, BYTES_MAX)
        size = int.from_bytes(raw[:LENGTH_BYTES], "big")
        header = json.loads(raw[LENGTH_BYTES : LENGTH_BYTES + size])
        if not machine.eof or header["format"] != FORMAT:
            raise ValueError("cut off, or of another format: bring all directors to one version")
        tables = _tables(header["tables"], memoryview(raw)[LENGTH_BYTES + size :])
        return _agreement(header, tables)
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"agreement: {error}") from error


def _header(agreement: Agreement) -> dict[str, Any]:
    registry = agreement.registry
    return {
        "format": FORMAT,
        "revision": agreement.revision,
        "text": agreement.text,
        "intents": encode_intents(agreement.intents),
        "slot_key": agreement.slot_key.hex(),
        "backends": [_backend(each) for each in registry.backends.values()],
        "lingering": [_backend(each) for each in registry.lingering],
        "known_backends": [_backend(each) for each in registry.known_backends],
        "pools": [[name, pool] for name, pool in registry.pools.items()],
        "tables": [[pool, registry.tables[pool].generation] for pool in sorted(registry.tables)],
        "vips": [_vip(each) for each in registry.vips.values()],
        "known_vips": [_vip(each) for each in registry.known_vips],
        "weights": [[pool, sorted(w.items())] for pool, w in sorted(agreement.weights.items())],
        "ages": [[pool, list(ages)] for pool, ages in sorted(agreement.ages.items())],
        "down": sorted(map(list, agreement.down)),
    }


def _agreement(header: dict[str, Any], tables: Mapping[PoolId, SlotTable]) -> Agreement:
    backends = [_to_backend(row) for row in header["backends"]]
    vips = [_to_vip(row) for row in header["vips"]]
    return Agreement(
        revision=header["revision"],
        text=header["text"],
        intents=decode_intents(header["intents"]),
        slot_key=bytes.fromhex(header["slot_key"]),
        registry=Registry(
            backends={each.name: each for each in backends},
            lingering=tuple(map(_to_backend, header["lingering"])),
            known_backends=tuple(map(_to_backend, header["known_backends"])),
            pools={name: PoolId(pool) for name, pool in header["pools"]},
            tables=tables,
            vips={each.key: each for each in vips},
            known_vips=tuple(map(_to_vip, header["known_vips"])),
        ),
        weights={
            PoolId(pool): {BackendId(number): weight for number, weight in rows}
            for pool, rows in header["weights"]
        },
        ages={PoolId(pool): tuple((g, float(t)) for g, t in rows) for pool, rows in header["ages"]},
        down=frozenset((pool, name) for pool, name in header["down"]),
    )


def _tables(rows: list[list[int]], raw: memoryview) -> dict[PoolId, SlotTable]:
    found, parts = {}, _split(raw, len(rows))
    for pool, generation in rows:
        slots, former, left = (next(parts) for _ in ARRAYS)
        found[PoolId(pool)] = SlotTable(generation, slots, former, left)
    return found


def _split(raw: memoryview, tables: int) -> Iterator[np.ndarray[Any, Any]]:
    place = 0
    for _ in range(tables):
        for _, kind, depth in ARRAYS:
            size = SLOTS * depth * np.dtype(kind).itemsize
            flat = np.frombuffer(raw[place : place + size], kind)
            array = flat.astype(np.dtype(kind).newbyteorder("="))
            yield array if depth == 1 else array.reshape(depth, SLOTS)
            place += size
    if place != len(raw):
        raise ValueError(f"{len(raw) - place} bytes more than its tables have")


def _backend(each: KnownBackend) -> list[Any]:
    return [each.id, each.name, str(each.address), str(each.encapsulation)]


def _to_backend(row: list[Any]) -> KnownBackend:
    number, name, address, encapsulation = row
    return KnownBackend(BackendId(number), name, ip_address(address), Encapsulation(encapsulation))


def _vip(each: KnownVip) -> list[Any]:
    return [each.id, each.name, str(each.address), str(each.protocol), each.port]


def _to_vip(row: list[Any]) -> KnownVip:
    number, name, address, protocol, port = row
    return KnownVip(VipId(number), name, ip_address(address), Protocol(protocol), port)
