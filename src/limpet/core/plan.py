# SPDX-License-Identifier: Apache-2.0
"""Plan: the image that the kernel should hold for what is desired, and the registry behind it.

Ids and slot tables carry over from the registry, so a plan changes no more than the configuration
did: the same names keep their ids, tables move as few slots as they can, and planning the same
again gives the same again. A backend that keeps its name but not its address is a new machine: it
gets a new id, and the live flows of the old one stay where they are.

Pure. The daemon brings the facts: next hops, and which backends live flows name. An id is never
given away in the change that frees it; where that leaves none, `Conflict` is raised.
Not here: health and sessions.
"""

from collections.abc import Mapping
from dataclasses import replace

from limpet.core.errors import Conflict
from limpet.core.model import (
    BACKENDS_MAX,
    POOLS_MAX,
    VIPS_MAX,
    Address,
    Backend,
    BackendId,
    BackendRow,
    Desired,
    Image,
    NextHop,
    PoolId,
    PoolRow,
    Vip,
    VipId,
    VipRow,
)
from limpet.core.registry import KnownBackend, KnownVip, Registry, VipKey, free_ids
from limpet.core.slots import build, forget


def plan(
    desired: Desired,
    registry: Registry,
    next_hops: Mapping[Address, NextHop],
    referenced: frozenset[BackendId] | None,
) -> tuple[Registry, Image]:
    """The next registry, and the image to bring into the kernel.

    `next_hops` by backend address; a backend without one is reached through the kernel's routes.
    `referenced`: ids that live flows name; None if unknown, then every removed backend keeps its
    row. Raises Conflict if ids run out.
    """
    following = _with_backends(registry, desired, referenced)
    following = _with_vips(following, desired)
    following = _with_tables(_with_pools(following, desired), desired)
    return following, _image(desired, following, next_hops)


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


# --- Tables and rows ---------------------------------------------------------------------------


def _with_tables(registry: Registry, desired: Desired) -> Registry:
    key = int.from_bytes(desired.director.slot_key, "big")
    tables = {}
    for pool in desired.pools:
        number = registry.pools[pool.name]
        weights = {registry.backends[name].id: w for name, w in pool.weights.items()}
        tables[number] = build(registry.tables.get(number), weights, key)
    return replace(registry, tables=tables)


def _image(desired: Desired, registry: Registry, next_hops: Mapping[Address, NextHop]) -> Image:
    backends = (*registry.backends.values(), *registry.lingering)
    return Image(
        backends=tuple(
            BackendRow(b.id, b.address, b.encapsulation, next_hops.get(b.address))
            for b in sorted(backends, key=lambda b: b.id)
        ),
        pools=tuple(
            PoolRow(number, table.generation, table.slots, table.digest)
            for number, table in sorted(registry.tables.items())
        ),
        vips=tuple(sorted((_vip_row(vip, registry) for vip in desired.vips), key=lambda v: v.id)),
    )


def _vip_row(vip: Vip, registry: Registry) -> VipRow:
    known = registry.vips[(vip.address, vip.protocol, vip.port)]
    return VipRow(
        id=known.id,
        address=vip.address,
        protocol=vip.protocol,
        port=vip.port,
        pool=registry.pools[vip.pool],
        affinity=vip.affinity,
    )
