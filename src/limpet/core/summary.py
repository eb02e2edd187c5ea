# SPDX-License-Identifier: Apache-2.0
"""Summary: what a change would do, in names and numbers, before it is done.

Compares two images with the registries that name their ids, and says which VIPs, pools and
backends come, go or change, and how many slots of each pool move from whom to whom. `limpet plan`
prints it. A slot that moves changes where *new* sessions of its clients go; live flows stay.

Not here: how many live sessions that touches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from limpet.core.model import SLOTS, BackendId, BackendRow, Image, PoolId, PoolRow, VipRow
from limpet.core.registry import Registry

_Id = TypeVar("_Id", BackendId, PoolId)
NOBODY = "nobody"  # the owner of a slot without a home


@dataclass(frozen=True, slots=True)
class Names:
    """Names of one kind of thing that come, go or change; sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """So many slots of a pool go from one backend to another."""

    source: str
    target: str
    slots: int


@dataclass(frozen=True, slots=True)
class PoolMoves:
    """The slots of one pool that move, the largest part first."""

    pool: str
    moved: int
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a change would do. A backend whose row lingers for its flows counts as removed."""

    vips: Names
    pools: Names
    backends: Names
    moves: tuple[PoolMoves, ...]

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self != Summary(Names(), Names(), Names(), ())

    def __str__(self) -> str:
        """One line per change, fit for a terminal; 'nothing changes' if nothing does."""
        lines = []
        for kind, names in (("VIP", self.vips), ("pool", self.pools), ("backend", self.backends)):
            lines += [f"+ {kind} {name}" for name in names.added]
            lines += [f"- {kind} {name}" for name in names.removed]
            lines += [f"~ {kind} {name}" for name in names.changed]
        for pool in self.moves:
            percent = 100 * pool.moved / SLOTS
            lines.append(
                f"  pool {pool.pool}: {pool.moved} of {SLOTS} slots move ({percent:.2f} %)"
            )
            lines += [f"    {m.slots:5d}  {m.source} -> {m.target}" for m in pool.moves]
        return "\n".join(lines) or "nothing changes"


def summary(before: Image, after: Image, old: Registry, new: Registry) -> Summary:
    """What changes from `before`, planned with `old`, to `after`, planned with `new`."""
    return Summary(
        vips=_names(_vips(before, old), _vips(after, new)),
        pools=_names(_pools(before, old), _pools(after, new)),
        backends=_names(_backends(before, old), _backends(after, new)),
        moves=_moves(before, after, old, new),
    )


def _names(before: Mapping[str, object], after: Mapping[str, object]) -> Names:
    return Names(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(n for n in before.keys() & after.keys() if before[n] != after[n])),
    )


def _vips(image: Image, registry: Registry) -> dict[str, object]:
    names, pools = registry.vip_names(), registry.pool_names()

    def service(row: VipRow) -> tuple[object, ...]:
        return (row.address, row.protocol, row.port, row.affinity, pools.get(row.pool, row.pool))

    return {names.get(row.id, f"#{row.id}"): service(row) for row in image.vips}


def _pools(image: Image, registry: Registry) -> dict[str, object]:
    """Pools by name, with the slots of each backend by name: what shares changed."""
    pools, backends = registry.pool_names(), registry.backend_names()
    return {_name(pools, row.id): _shares(row, backends) for row in image.pools}


def _shares(row: PoolRow, names: Mapping[BackendId, str]) -> dict[str, int]:
    counts = np.bincount(row.slots)
    return {_name(names, BackendId(int(i))): int(counts[i]) for i in np.flatnonzero(counts)}


def _backends(image: Image, registry: Registry) -> dict[str, object]:
    """Backends in use, by name; a lingering row is none of them."""
    in_use = {backend.id: backend.name for backend in registry.backends.values()}

    def target(row: BackendRow) -> tuple[object, ...]:
        return (row.address, row.encapsulation)

    return {in_use[row.id]: target(row) for row in image.backends if row.id in in_use}


def _moves(before: Image, after: Image, old: Registry, new: Registry) -> tuple[PoolMoves, ...]:
    """Slot moves of the pools that both images have."""
    was = {old.pool_names().get(row.id): row for row in before.pools}
    target = new.backend_names()
    # The new registry knows who has lost a name to another machine. An id that the change gives
    # away owned no slot before, so its new name cannot stand for the old owner here.
    source = old.backend_names() | target
    found = []
    for row in after.pools:
        name = new.pool_names().get(row.id)
        earlier = was.get(name)
        if name is None or earlier is None or earlier.digest == row.digest:
            continue
        moves = [
            Move(_name(source, a), _name(target, b), count) for a, b, count in _pairs(earlier, row)
        ]
        moves.sort(key=lambda move: (-move.slots, move.source, move.target))
        found.append(PoolMoves(name, sum(move.slots for move in moves), tuple(moves)))
    return tuple(sorted(found, key=lambda pool: pool.pool))


def _pairs(before: PoolRow, after: PoolRow) -> Iterable[tuple[BackendId, BackendId, int]]:
    """(old home, new home, slots) of all slots that move."""
    at = np.flatnonzero(before.slots != after.slots)
    pairs = before.slots[at].astype(np.uint32) << 16 | after.slots[at]
    for pair, count in zip(*np.unique(pairs, return_counts=True), strict=True):
        yield BackendId(int(pair) >> 16), BackendId(int(pair) & 0xFFFF), int(count)


def _name(names: Mapping[_Id, str], number: _Id) -> str:
    return names.get(number) or (f"#{number}" if number else NOBODY)
