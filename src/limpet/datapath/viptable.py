# SPDX-License-Identifier: Apache-2.0
"""The VIP lookup as the kernel reads it: two open-addressing tables, built here in one piece.

bpf/vip.h looks a destination up by address, then by what is served there, each by linear probing
with at most `Limit.VIP_PROBES` tries. A seed under which some row would need more tries is not
used: the next one is taken, so a lookup never misses what is there. Pure: arrays out, and back
(`read`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.core import hashing
from limpet.core.model import Address, Affinity, Protocol, Timeouts, VipId, VipRow
from limpet.datapath import rows as rows_of
from limpet.datapath.abi import VIP_ADDRESS, VIP_SERVICE, Limit, Service
from limpet.datapath.rows import mapped

SEEDS_MAX = 1_000
MULTIPLIER = int(hashing.MULTIPLIER)
WORD = 2**64 - 1
Timing = Callable[[int], Timeouts]
Row = tuple[int, int, int, int]  # address id, port, protocol number, service


@dataclass(frozen=True, slots=True)
class VipTable:
    """One half of both tables and the seed they were built with."""

    seed: int
    addresses: NDArray[np.void]  # VIP_ADDRESS[4096]
    services: NDArray[np.void]  # VIP_SERVICE[8192]


class _DoesNotFitError(Exception):
    """Some row needs more probes than the kernel makes."""


def build(vips: Iterable[VipRow]) -> VipTable:
    """Tables for a set of VIPs with distinct (address, protocol, port)."""
    rows = list(vips)
    ids = {address: i for i, address in enumerate(dict.fromkeys(v.address for v in rows), 1)}
    services = _services(rows, ids)
    for seed in range(SEEDS_MAX):
        try:
            addresses = _address_table(ids, services, seed)
            return VipTable(seed, addresses, _service_table(services, seed))
        except _DoesNotFitError:
            continue
    raise AssertionError(f"no seed below {SEEDS_MAX} places {len(rows)} VIPs")


def _services(vips: list[VipRow], ids: dict[Address, int]) -> dict[Row, VipId]:
    services: dict[Row, VipId] = {}
    for vip in vips:
        kind = Service.ALL_PORTS if vip.port is None else Service.PORT
        services[(ids[vip.address], vip.port or 0, vip.protocol.number, kind)] = vip.id
    for (address, protocol), same in _by_address(vips).items():
        if _fragments_are_clear(same):
            key = (ids[address], 0, protocol.number, Service.FRAGMENT)
            services[key] = min(vip.id for vip in same)
    return services


def _by_address(vips: list[VipRow]) -> dict[tuple[Address, Protocol], list[VipRow]]:
    found: dict[tuple[Address, Protocol], list[VipRow]] = {}
    for vip in vips:
        found.setdefault((vip.address, vip.protocol), []).append(vip)
    return found


def _fragments_are_clear(vips: list[VipRow]) -> bool:
    """Whether a fragment without ports has but one home: one pool, by the client alone."""
    return len({vip.pool for vip in vips}) == 1 and all(v.affinity is Affinity.CLIENT for v in vips)


def place(high: int, low: int, seed: int, size: int) -> int:
    """Where a row belongs in a table of `size` (a power of two) places: vip_place of bpf/vip.h."""
    word = ((high ^ seed) * MULTIPLIER & WORD) ^ low
    return ((word ^ word >> 32) * MULTIPLIER & WORD) // (2**64 // size)


def _address_table(ids: dict[Address, int], services: Iterable[Row], seed: int) -> NDArray[np.void]:
    table = np.zeros(Limit.VIP_ADDRESSES, VIP_ADDRESS)
    kinds = dict.fromkeys(ids.values(), 0)
    for number, _, _, service in services:
        kinds[number] |= 1 << service
    for address, number in ids.items():
        row = table[_free(table["id"], place(*hashing.words(address), seed, len(table)))]
        row["address"] = mapped(address)
        row["id"] = number
        row["services"] = kinds[number]
    return table


def _service_table(services: dict[Row, VipId], seed: int) -> NDArray[np.void]:
    table = np.zeros(Limit.VIP_SERVICES, VIP_SERVICE)
    for (address, port, protocol, service), vip in services.items():
        key = service << 40 | protocol << 32 | port << 16 | address
        at = _free(table["service"], place(0, key, seed, len(table)))
        table[at] = (address, port, protocol, service, vip)
    return table


def _free(taken: NDArray[np.integer], first: int) -> int:
    for i in range(Limit.VIP_PROBES):
        at = (first + i) % len(taken)
        if not taken[at]:
            return at
    raise _DoesNotFitError


def read(table: VipTable, vips: NDArray[np.void], timeouts: Timing) -> tuple[VipRow, ...]:
    """The VIPs that tables and the map `vips` (VIP[1024]) describe: the inverse of `build`.

    `timeouts`: of a VIP id, from the map `idle_limits`.
    """
    addresses = {
        int(row["id"]): hashing.address(*np.frombuffer(row["address"].tobytes(), ">u8").tolist())
        for row in table.addresses[table.addresses["id"] > 0]
    }
    used = np.isin(table.services["service"], (Service.PORT, Service.ALL_PORTS))
    rows = []
    for service in table.services[used]:
        number = int(service["vip"])
        served = rows_of.Service(
            address=addresses[int(service["address_id"])],
            protocol=next(p for p in Protocol if p.number == service["protocol"]),
            port=int(service["port"]) if service["service"] == Service.PORT else None,
            timeouts=timeouts(number),
        )
        rows.append(rows_of.decode_vip(number, vips[number], served))
    return tuple(sorted(rows, key=lambda row: row.id))
