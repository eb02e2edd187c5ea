# SPDX-License-Identifier: Apache-2.0
"""Diff: what must be written to get from the image that is there to the one that is wanted.

The fields of `Changes` stand in the order in which they are written: make before break. A backend
has its row before a slot names it, a slot table is whole before a VIP uses it, and what nobody
uses any more goes last. VIPs are one set, written as a whole and switched at once.

Promises: diff(x, x) is empty; apply(a, diff(a, b)) == b; after every step of `steps` no VIP names
a missing pool, and no slot a missing backend, if that was so in both images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from limpet.core.model import BackendId, BackendRow, Image, PoolId, PoolRow, VipRow


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows to write and ids to remove, in this order."""

    backends_put: tuple[BackendRow, ...] = ()
    pools_put: tuple[PoolRow, ...] = ()  # those of which any field differs
    proxies: tuple[IPv4Network | IPv6Network, ...] | None = None  # the whole list; None: leave it
    vips: tuple[VipRow, ...] | None = None  # the whole set; None: leave it
    pools_removed: tuple[PoolId, ...] = ()
    backends_removed: tuple[BackendId, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self != Changes()


def diff(observed: Image, wanted: Image) -> Changes:
    """The changes that make `wanted` out of `observed`."""
    backends = {row.id: row for row in observed.backends}
    pools = {row.id: row for row in observed.pools}
    return Changes(
        backends_put=tuple(row for row in wanted.backends if backends.get(row.id) != row),
        pools_put=tuple(row for row in wanted.pools if pools.get(row.id) != row),
        proxies=None if observed.proxies == wanted.proxies else wanted.proxies,
        vips=None if observed.vips == wanted.vips else wanted.vips,
        pools_removed=tuple(sorted(pools.keys() - {row.id for row in wanted.pools})),
        backends_removed=tuple(sorted(backends.keys() - {row.id for row in wanted.backends})),
    )


def steps(changes: Changes) -> Iterator[Changes]:
    """The changes one field at a time, in the order in which they must be written."""
    if changes.backends_put:
        yield Changes(backends_put=changes.backends_put)
    if changes.pools_put:
        yield Changes(pools_put=changes.pools_put)
    if changes.proxies is not None:
        yield Changes(proxies=changes.proxies)
    if changes.vips is not None:
        yield Changes(vips=changes.vips)
    if changes.pools_removed:
        yield Changes(pools_removed=changes.pools_removed)
    if changes.backends_removed:
        yield Changes(backends_removed=changes.backends_removed)


def apply(image: Image, changes: Changes) -> Image:
    """The image after the changes. Removing what is not there is fine."""
    backends = {row.id: row for row in (*image.backends, *changes.backends_put)}
    pools = {row.id: row for row in (*image.pools, *changes.pools_put)}
    for backend in changes.backends_removed:
        backends.pop(backend, None)
    for pool in changes.pools_removed:
        pools.pop(pool, None)
    return replace(
        image,
        backends=tuple(backends[i] for i in sorted(backends)),
        pools=tuple(pools[i] for i in sorted(pools)),
        vips=image.vips if changes.vips is None else changes.vips,
        proxies=image.proxies if changes.proxies is None else changes.proxies,
    )
