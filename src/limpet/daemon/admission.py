# SPDX-License-Identifier: Apache-2.0
"""Admission: what cannot be brought into the kernel that is there, said before anything is written.

Sizes of maps are fixed while they are in use, names are what pins and files go by, and ids must
mean the same to the state file and to the kernel. Each refusal says what to do.
"""

import structlog

from limpet.core.errors import Conflict
from limpet.core.model import Desired, XdpMode
from limpet.core.registry import Registry
from limpet.daemon import links as links_of
from limpet.daemon.links import Link, Links
from limpet.datapath import settings
from limpet.datapath.kernel import Kernel, Sizes

NO_DOWN = "run `limpet down` first; that ends the flows it knows"
FIXED = ("flows_max", "sessions_max", "pools_max")
log = structlog.get_logger()


def check_interfaces(desired: Desired, links: Links) -> None:
    """At least one has to be there."""
    known = links_of.by_name(links)
    if not any(name in known for name in desired.director.interfaces):
        raise Conflict(
            f"director.interfaces: there is no {', '.join(desired.director.interfaces)}; "
            f"this machine has {', '.join(known)}"
        )


def check_live(before: Desired, after: Desired) -> None:
    """What only a fresh start can change."""
    old, new = before.director, after.director
    if old.name != new.name:
        raise Conflict(
            f"director.name cannot change from {old.name!r} to {new.name!r} while it runs: "
            f"{NO_DOWN}"
        )
    if before.cluster.name != after.cluster.name:
        said = [
            f"of cluster {each.cluster.name!r}" if each.cluster.name else "of none"
            for each in (before, after)
        ]
        raise Conflict(
            f"cluster.name: this director is a member {said[0]}, and cannot become one {said[1]} "
            "while it runs: start the daemon again"
        )
    for key in FIXED:
        if getattr(old, key) != getattr(new, key):
            raise Conflict(
                f"director.{key} cannot change from {getattr(old, key)} to {getattr(new, key)} "
                f"while flows are kept: {NO_DOWN}"
            )


def check_room(desired: Desired, sizes: Sizes) -> None:
    if len(desired.pools) > sizes.pools:
        raise Conflict(
            f"{len(desired.pools)} pools, but the kernel has memory for {sizes.pools}: raise "
            f"director.pools_max and {NO_DOWN}"
        )


def check_adopted(kernel: Kernel, registry: Registry, desired: Desired, state: object) -> None:
    """Whether the state file and the kernel mean the same by their ids."""
    sizes = kernel.adopted()
    if sizes is None:
        return
    buckets = settings.buckets(desired.director.flows_max)
    if sizes.buckets != buckets:
        log.warning(
            "director.flows_max was changed, but the connection table keeps its size until "
            "`limpet down`",
            entries=sizes.buckets * settings.WAYS,
            wanted_entries=buckets * settings.WAYS,
        )
    backends = (*registry.backends.values(), *registry.lingering, *registry.known_backends)
    known: set[tuple[object, ...]] = {(b.id, b.address) for b in backends}
    known |= {(v.id, v.key) for v in (*registry.vips.values(), *registry.known_vips)}
    held = kernel.observe()
    found: set[tuple[object, ...]] = {(b.id, b.address) for b in held.backends}
    found |= {(v.id, (v.address, v.protocol, v.port)) for v in held.vips}
    if found - known:
        raise Conflict(
            f"{state} does not know what the kernel forwards by (was it deleted, or "
            "is it another director's?): live flows would reach wrong backends. Restore it, "
            f"or {NO_DOWN}"
        )


def is_other_mode(link: Link, wanted: XdpMode) -> bool:
    """Whether the program runs there in a mode that is not wanted any more."""
    return wanted is not XdpMode.AUTO and bool(link.xdp) and link.xdp != wanted
