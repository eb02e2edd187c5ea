# SPDX-License-Identifier: Apache-2.0
"""Plan: the image that the kernel should hold for what is desired, and the registry behind it.

Ids and slot tables carry over from the registry, so a plan changes no more than the configuration
did: the same names keep their ids, tables move as few slots as they can, and planning the same
again gives the same again. A backend that keeps its name but not its address is a new machine: it
gets a new id, and the live flows of the old one stay where they are.

Two halves: `agree` makes ids and tables, which all directors of a cluster share, so its leader
alone does that; `image` makes the kernel's rows of them and of what this one director sees. `plan`
is both, for a director that stands alone.

Slot tables, members and standing follow what core/eligible.py says of each backend. Fields that a
VIP's affinity does not use stand at their defaults, as the kernel's rows read back.

Pure. The daemon brings the facts: next hops, which backends live flows and sessions name, and from
how many flows on a client is split. An id is never given away in the change that frees it; where
that leaves none, `Conflict` is raised.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from limpet.core import affinity, local_table
from limpet.core.eligible import Assessment
from limpet.core.errors import Conflict
from limpet.core.local_table import LocalTable
from limpet.core.model import (
    BACKENDS_MAX,
    POOLS_MAX,
    VIPS_MAX,
    WEIGHT_MAX,
    Address,
    Affinity,
    Backend,
    BackendId,
    BackendRow,
    Desired,
    DrainRule,
    Image,
    NextHop,
    Pool,
    PoolId,
    PoolRow,
    Protocol,
    Standing,
    Timeouts,
    Vip,
    VipId,
    VipRow,
)
from limpet.core.registry import KnownBackend, KnownVip, Registry, VipKey, free_ids, network_order
from limpet.core.slots import SlotTable, build, forget

SLOW_START_SCALE = 1_000  # of weights, while one of the pool starts slowly


def plan(
    desired: Desired,
    registry: Registry,
    next_hops: Mapping[Address, NextHop],
    referenced: frozenset[BackendId] | None,
    assessments: Mapping[tuple[str, str], Assessment] | None = None,
    split_flows: Mapping[VipKey, int] | None = None,
) -> tuple[Registry, Image]:
    """The next registry, and the image to bring into the kernel.

    `next_hops` by backend address; a backend without one is reached through the kernel's routes.
    `referenced`: ids that live flows or sessions name; None if unknown, then every removed backend
    keeps its row. `assessments`: of every backend of every pool; None: all are active and up.
    `split_flows`: flows from which on a client is split, for VIPs where that is not the number in
    the file. Raises Conflict if ids run out.
    """
    assessed = without_facts(desired) if assessments is None else assessments
    following, weights = agree(desired, registry, referenced, assessed)
    tables = local_table.alone(following, weights)
    return following, image(desired, following, tables, assessed, next_hops, split_flows)


def agree(
    desired: Desired,
    registry: Registry,
    referenced: frozenset[BackendId] | None,
    assessments: Mapping[tuple[str, str], Assessment],
) -> tuple[Registry, dict[PoolId, dict[BackendId, int]]]:
    """The next registry, and the weights that its tables were built for. Raises Conflict."""
    following = _with_backends(registry, desired, referenced)
    following = _with_pools(_with_vips(following, desired), desired)
    weights = {
        following.pools[pool.name]: _weights(pool, following, assessments) for pool in desired.pools
    }
    return _with_tables(following, desired, weights), weights


def image(
    desired: Desired,
    registry: Registry,
    tables: Mapping[PoolId, LocalTable],
    assessments: Mapping[tuple[str, str], Assessment],
    next_hops: Mapping[Address, NextHop],
    split_flows: Mapping[VipKey, int] | None = None,
) -> Image:
    """What the kernel of this director should hold, by the registry that was agreed on."""
    backends, pools = _backends_and_pools(desired, registry, assessments, tables, next_hops)
    vips = (_vip_row(vip, desired, registry, split_flows or {}) for vip in desired.vips)
    proxies = tuple(sorted(set(desired.mega_proxy.prefixes), key=network_order))
    return Image(backends, pools, tuple(sorted(vips, key=lambda v: v.id)), proxies)


def addresses(desired: Desired, registry: Registry) -> frozenset[Address]:
    """Backend addresses whose next hops a plan can use."""
    return registry.addresses() | {backend.address for backend in desired.backends}


# --- Ids ---------------------------------------------------------------------------------------


def _with_backends(
    registry: Registry, desired: Desired, referenced: frozenset[BackendId] | None
) -> Registry:
    gone = {(b.name, b.address): b for b in (*registry.known_backends, *registry.lingering)}
    gone |= {(b.name, b.address): b for b in registry.backends.values()}
    in_use: dict[str, KnownBackend] = {}
    new: list[Backend] = []
    for backend in desired.backends:
        old = gone.pop((backend.name, backend.address), None)
        if old is None:
            new.append(backend)
        else:
            in_use[backend.name] = replace(old, encapsulation=backend.encapsulation)
    # Only those that were known before may pass their id on, not those that this change removes.
    spare = [b for b in registry.known_backends if (b.name, b.address) in gone]
    with_row = (*registry.lingering, *registry.backends.values())
    free = free_ids(1, BACKENDS_MAX, [b.id for b in (*with_row, *in_use.values())], _ids(spare))
    if len(free) < len(new):
        raise Conflict(_no_backend_ids(len(new), len(free), len(registry.lingering)))
    for backend, number in zip(new, free, strict=False):
        known = KnownBackend(
            BackendId(number), backend.name, backend.address, backend.encapsulation
        )
        in_use[backend.name] = known
    reused = set(_ids(spare)) & set(free[: len(new)])
    removed = [b for b in with_row if (b.name, b.address) in gone]
    lingers = {b.id for b in removed if referenced is None or b.id in referenced}
    return replace(
        _without_history(registry, reused),
        backends={name: in_use[name] for name in sorted(in_use)},
        lingering=tuple(b for b in removed if b.id in lingers),
        known_backends=tuple(
            b for b in (*spare, *removed) if b.id not in lingers and b.id not in reused
        ),
    )


def _ids(backends: list[KnownBackend]) -> list[int]:
    return [backend.id for backend in backends]


def _no_backend_ids(wanted: int, free: int, lingering: int) -> str:
    return (
        f"{wanted} new backends, but only {free} of {BACKENDS_MAX - 1} ids are free; {lingering} "
        "removed backends still have live flows. Add them in several steps, or wait until flows end"
    )


def _without_history(registry: Registry, reused: set[int]) -> Registry:
    """Slot histories without the ids that get a new owner, who must not inherit slots."""
    tables = dict(registry.tables)
    for pool, table in tables.items():
        for number in reused:
            tables[pool] = table = forget(table, BackendId(number))
    return replace(registry, tables=tables)


def _with_vips(registry: Registry, desired: Desired) -> Registry:
    gone = {vip.key: vip for vip in (*registry.known_vips, *registry.vips.values())}
    in_use: dict[VipKey, KnownVip] = {}
    new: list[Vip] = []
    for vip in desired.vips:
        old = gone.pop((vip.address, vip.protocol, vip.port), None)
        if old is None:
            new.append(vip)
        else:
            in_use[old.key] = replace(old, name=vip.name)
    spare = [vip for vip in registry.known_vips if vip.key in gone]
    taken = [vip.id for vip in (*registry.vips.values(), *in_use.values())]
    free = free_ids(1, VIPS_MAX, taken, [vip.id for vip in spare])
    if len(free) < len(new):
        raise Conflict(
            f"{len(new)} new VIPs, but only {len(free)} of {VIPS_MAX - 1} ids are free. Remove old "
            "VIPs in one step and add new ones in the next"
        )
    for vip, number in zip(new, free, strict=False):
        known = KnownVip(VipId(number), vip.name, vip.address, vip.protocol, vip.port)
        in_use[known.key] = known
    reused = set(free[: len(new)])
    removed = [vip for vip in registry.vips.values() if vip.key in gone]
    return replace(
        registry,
        vips=in_use,
        known_vips=tuple(vip for vip in (*spare, *removed) if vip.id not in reused),
    )


def _with_pools(registry: Registry, desired: Desired) -> Registry:
    names = [pool.name for pool in desired.pools]
    pools = {name: registry.pools[name] for name in names if name in registry.pools}
    new = [name for name in names if name not in registry.pools]
    # An id that this change frees is used again only later: until the VIPs are switched, its table
    # still serves the pool that goes.
    free = free_ids(0, POOLS_MAX, registry.pools.values(), ())
    if len(free) < len(new):
        raise Conflict(
            f"{len(new)} new pools, but only {len(free)} of {POOLS_MAX} ids are free. Remove old "
            "pools in one step and add new ones in the next"
        )
    pools |= {name: PoolId(number) for name, number in zip(new, free, strict=False)}
    return replace(registry, pools=pools)


# --- Weights and tables ------------------------------------------------------------------------


def without_facts(desired: Desired) -> dict[tuple[str, str], Assessment]:
    """Everybody active and up."""
    return {
        (pool.name, name): Assessment(weight, weight)
        for pool in desired.pools
        for name, weight in pool.weights.items()
    }


def _weights(
    pool: Pool, registry: Registry, assessed: Mapping[tuple[str, str], Assessment]
) -> dict[BackendId, int]:
    """Effective weights above 0, by id.

    While somebody starts slowly, all are scaled up: a share of weight 1 is none in whole numbers.
    """
    found = {registry.backends[name].id: assessed[(pool.name, name)] for name in pool.weights}
    eligible = {number: each for number, each in found.items() if each.weight > 0}
    if all(each.share == 1 for each in eligible.values()):
        return {number: each.weight for number, each in eligible.items()}
    largest = max(each.full_weight for each in eligible.values())
    scale = max(1, min(SLOW_START_SCALE, WEIGHT_MAX // largest))
    return {
        number: max(1, round(each.full_weight * each.share * scale))
        for number, each in eligible.items()
    }


def _with_tables(
    registry: Registry, desired: Desired, weights: Mapping[PoolId, Mapping[BackendId, int]]
) -> Registry:
    key = int.from_bytes(desired.director.slot_key, "big")
    tables = {}
    for pool in desired.pools:
        number = registry.pools[pool.name]
        tables[number] = build(registry.tables.get(number), weights[number], key)
    return replace(registry, tables=tables)


# --- Rows --------------------------------------------------------------------------------------


def _backends_and_pools(
    desired: Desired,
    registry: Registry,
    assessed: Mapping[tuple[str, str], Assessment],
    tables: Mapping[PoolId, LocalTable],
    next_hops: Mapping[Address, NextHop],
) -> tuple[tuple[BackendRow, ...], tuple[PoolRow, ...]]:
    pools = tuple(
        _pool_row(pool, registry, assessed, tables[registry.pools[pool.name]])
        for pool in sorted(desired.pools, key=lambda pool: registry.pools[pool.name])
    )
    with_standing = {number for row in pools for number, _ in row.standing}
    backends = sorted((*registry.backends.values(), *registry.lingering), key=lambda b: b.id)
    rows = tuple(
        BackendRow(
            b.id, b.address, b.encapsulation, next_hops.get(b.address), b.id in with_standing
        )
        for b in backends
    )
    return rows, pools


def _pool_row(
    pool: Pool,
    registry: Registry,
    assessed: Mapping[tuple[str, str], Assessment],
    local: LocalTable,
) -> PoolRow:
    number = registry.pools[pool.name]
    table = registry.tables[number]
    standing = dict.fromkeys(_left(pool, registry, table), Standing.LEFT_BY_SESSIONS)
    for name in pool.weights:
        standing[registry.backends[name].id] = assessed[(pool.name, name)].standing
    return PoolRow(
        id=number,
        generation=table.generation,
        slots=local.slots,
        digest=local.digest,
        members=tuple(sorted(local.weights.items())),
        policy=pool.policy,
        reassign=pool.reassign,
        standing=tuple(sorted((i, bits) for i, bits in standing.items() if bits)),
    )


def _left(pool: Pool, registry: Registry, table: SlotTable) -> Iterator[BackendId]:
    """Backends outside the pool that new flows of its sessions leave, by its drain rule `flows`.

    Removed from the file, or from this pool alone: then its slots remember it.
    """
    if pool.drain is not DrainRule.FLOWS:
        return
    yield from (backend.id for backend in registry.lingering)
    former = frozenset(np.flatnonzero(np.bincount(table.former.ravel())).tolist())
    for backend in registry.backends.values():
        if backend.name not in pool.weights and backend.id in former:
            yield backend.id


def _vip_row(
    vip: Vip, desired: Desired, registry: Registry, split_flows: Mapping[VipKey, int]
) -> VipRow:
    known = registry.vips[(vip.address, vip.protocol, vip.port)]
    proxy = desired.mega_proxy
    row = VipRow(
        id=known.id,
        address=vip.address,
        protocol=vip.protocol,
        port=vip.port,
        pool=registry.pools[vip.pool],
        affinity=vip.affinity,
        timeouts=_timeouts(vip),
    )
    if vip.affinity is Affinity.FLOW:
        return row
    row = replace(row, prefix=affinity.prefix(vip.address.version, vip.prefix))
    if vip.affinity is Affinity.CLIENT_PORTS:
        return replace(row, port_ranges=vip.port_ranges)
    return replace(
        row,
        split_flows=split_flows.get(known.key, proxy.flows),
        split_ranges=proxy.port_ranges,
        looks_at_list=any(p.version == vip.address.version for p in proxy.prefixes),
    )


def _timeouts(vip: Vip) -> Timeouts:
    """Over UDP nothing tells an opening: one packet is as good as two."""
    times = vip.timeouts
    return replace(times, tcp_opening_s=times.udp_s) if vip.protocol is Protocol.UDP else times
