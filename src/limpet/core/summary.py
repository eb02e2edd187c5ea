# SPDX-License-Identifier: Apache-2.0
"""Summary: what a change would do, in names and numbers, before it is done.

Compares two images with the registries that name their ids, and says which VIPs, pools and
backends come, go or change, in which way, and how many slots of each pool move from whom to whom.
`limpet plan` prints it. A slot that moves changes where *new* sessions of its clients go; live
flows stay. Weights are compared by what they mean: 2 and 1 are the same as 2000 and 1000.

Not here: how many live sessions that touches.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import gcd
from typing import Any, TypeVar

import numpy as np

from limpet.core.model import SLOTS, BackendId, BackendRow, Image, PoolId, PoolRow, VipId, VipRow
from limpet.core.registry import Registry
from limpet.core.slots import homes

_Id = TypeVar("_Id", BackendId, PoolId, VipId)
Facts = Mapping[str, Any]  # what can change about one thing, by the word for it
NAMES_SHOWN = 8  # backends whose weight changes, in one line
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
    details: tuple[str, ...] = ()  # what is different about those that change
    proxies: tuple[int, int] = (0, 0)  # known mega-proxies that come, and that go

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
        lines += [f"  {detail}" for detail in self.details]
        if any(self.proxies):
            lines.append("~ known mega-proxies: {} more, {} fewer".format(*self.proxies))
        for pool in self.moves:
            percent = 100 * pool.moved / SLOTS
            lines.append(
                f"  pool {pool.pool}: {pool.moved} of {SLOTS} slots move ({percent:.2f} %)"
            )
            lines += [f"    {m.slots:5d}  {m.source} -> {m.target}" for m in pool.moves]
        return "\n".join(lines) or "nothing changes"


def summary(before: Image, after: Image, old: Registry, new: Registry) -> Summary:
    """What changes from `before`, planned with `old`, to `after`, planned with `new`."""
    vips = _vips(before, old), _vips(after, new)
    pools = _pools(before, old), _pools(after, new)
    backends = _backends(before, old), _backends(after, new)
    gone, come = set(before.proxies), set(after.proxies)
    return Summary(
        vips=_names(*vips),
        pools=_names(*pools),
        backends=_names(*backends),
        moves=_moves(before, after, old, new),
        details=(
            *_details("VIP", *vips),
            *_details("pool", *pools),
            *_details("backend", *backends),
        ),
        proxies=(len(come - gone), len(gone - come)),
    )


def _names(before: Mapping[str, object], after: Mapping[str, object]) -> Names:
    return Names(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(n for n in before.keys() & after.keys() if before[n] != after[n])),
    )


def _details(kind: str, before: Mapping[str, Facts], after: Mapping[str, Facts]) -> Iterator[str]:
    """What is different about each that was there and changes: "VIP web: prefix 64 -> 56"."""
    for name in sorted(before.keys() & after.keys()):
        was, will = before[name], after[name]
        for key in (key for key in will if will[key] != was[key]):
            if key == "weights":
                yield from _weights(name, was[key], will[key])
            else:
                yield f"{kind} {name}: {key} {was[key]} -> {will[key]}"


def _weights(pool: str, was: Mapping[str, int], will: Mapping[str, int]) -> Iterator[str]:
    names = [n for n in sorted(was.keys() | will.keys()) if was.get(n, 0) != will.get(n, 0)]
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    each = ", ".join(f"{n} {was.get(n, 0)} -> {will.get(n, 0)}" for n in names[:NAMES_SHOWN])
    yield f"pool {pool}: weight of {each}{more}"


def _vips(image: Image, registry: Registry) -> dict[str, Facts]:
    names, pools = registry.vip_names(), registry.pool_names()
    return {_name(names, row.id): _vip(row, pools) for row in image.vips}


def _vip(row: VipRow, pools: Mapping[PoolId, str]) -> Facts:
    timeouts = {key.replace("_", " "): value for key, value in asdict(row.timeouts).items()}
    return {
        "address": row.address,
        "protocol": row.protocol,
        "port": row.port or "all",
        "pool": _name(pools, row.pool),
        "affinity": row.affinity,
        "prefix": row.prefix,
        "port ranges": row.port_ranges,
        "split from flows": row.split_flows,
        "split ranges": row.split_ranges,
        "looks at known mega-proxies": row.looks_at_list,
        **timeouts,
    }


def _pools(image: Image, registry: Registry) -> dict[str, Facts]:
    """Pools by name, with their backends by name."""
    pools, backends = registry.pool_names(), registry.backend_names()
    return {_name(pools, row.id): _pool(row, backends) for row in image.pools}


def _pool(row: PoolRow, names: Mapping[BackendId, str]) -> Facts:
    """In the lowest terms: how weights are scaled in the kernel is nobody's business."""
    common = gcd(*(weight for _, weight in row.members)) or 1
    weights = {_name(names, number): weight // common for number, weight in row.members}
    return {"policy": row.policy, "reassign": row.reassign, "weights": weights}


def _backends(image: Image, registry: Registry) -> dict[str, Facts]:
    """Backends in use, by name; a lingering row is none of them."""
    in_use = {backend.id: backend.name for backend in registry.backends.values()}

    def target(row: BackendRow) -> Facts:
        return {"address": row.address, "encapsulation": row.encapsulation}

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
        if not moves:
            continue  # marks on slots came or went
        moves.sort(key=lambda move: (-move.slots, move.source, move.target))
        found.append(PoolMoves(name, sum(move.slots for move in moves), tuple(moves)))
    return tuple(sorted(found, key=lambda pool: pool.pool))


def _pairs(before: PoolRow, after: PoolRow) -> Iterable[tuple[BackendId, BackendId, int]]:
    """(old home, new home, slots) of all slots that move."""
    was, will = homes(before.slots), homes(after.slots)
    at = np.flatnonzero(was != will)
    pairs = was[at].astype(np.uint32) << 16 | will[at]
    for pair, count in zip(*np.unique(pairs, return_counts=True), strict=True):
        yield BackendId(int(pair) >> 16), BackendId(int(pair) & 0xFFFF), int(count)


def _name(names: Mapping[_Id, str], number: _Id) -> str:
    return names.get(number) or (f"#{number}" if number else NOBODY)
