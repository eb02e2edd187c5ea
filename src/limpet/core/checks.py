# SPDX-License-Identifier: Apache-2.0
"""Checks: what has to fit together in a configuration whose single values are all right.

Each check is a generator that looks at one rule over the whole and yields what breaks it, with the
path of the key in the file. All of them run, so that one run of `limpet check` shows everything.

Not here: the shape of tables and the range of single values (core/document.py, core/values.py).
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from limpet.core.model import BACKENDS_MAX, VIPS_MAX, Address, Desired, Vip
from limpet.core.source import Path

BROADCAST = ip_address("255.255.255.255")
NAMES_SHOWN = 8  # of known names in a message


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule at a path of the document."""

    path: Path
    why: str
    mend: str


def check(desired: Desired) -> Iterator[Finding]:
    """Everything that does not fit together."""
    for rule in RULES:
        yield from rule(desired)


def suggestion(wrong: str, known: Iterable[str], kind: str) -> str:
    """How to mend a misspelt name: the nearest one, and all that there are."""
    names = list(dict.fromkeys(known))
    if not names:
        return f"there are no {kind}s; add a [[{kind}]]"
    near = difflib.get_close_matches(wrong, names, n=1)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    listing = f"known {kind}s: {shown}"
    return f"did you mean {near[0]!r}? {listing}" if near else f"use one of the {listing}"


def _names_are_unique(desired: Desired) -> Iterator[Finding]:
    kinds = {
        "backend": [backend.name for backend in desired.backends],
        "pool": [pool.name for pool in desired.pools],
        "vip": [vip.name for vip in desired.vips],
    }
    for kind, names in kinds.items():
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            earlier = first.setdefault(name, index)
            if earlier != index:
                yield Finding(
                    (kind, index, "name"),
                    f"the name {name!r} is taken by {kind} {earlier + 1}",
                    f"give each [[{kind}]] a name of its own",
                )


def _backend_addresses_are_unique(desired: Desired) -> Iterator[Finding]:
    first: dict[Address, str] = {}
    for index, backend in enumerate(desired.backends):
        earlier = first.setdefault(backend.address, backend.name)
        if earlier != backend.name:
            yield Finding(
                ("backend", index, "address"),
                f"{backend.address} is the address of backend {earlier!r} too",
                "list a machine once, and name that backend in every pool it serves",
            )


def _addresses_are_unicast(desired: Desired) -> Iterator[Finding]:
    users = [(("backend", index), b.address) for index, b in enumerate(desired.backends)]
    users += [(("vip", index), vip.address) for index, vip in enumerate(desired.vips)]
    for path, address in users:
        word = _special(address)
        if word:
            yield Finding(
                (*path, "address"),
                f"{address} is {word} address",
                "use a unicast address that routers forward",
            )


def _special(address: Address) -> str:
    """What kind of address it is, if it is not one that a packet can be sent to far away."""
    for is_so, word in (
        (address.is_unspecified, "the unspecified"),
        (address.is_loopback, "a loopback"),
        (address.is_multicast, "a multicast"),
        (address.is_link_local, "a link-local"),
        (address == BROADCAST, "the broadcast"),
    ):
        if is_so:
            return word
    return ""


def _vips_do_not_collide(desired: Desired) -> Iterator[Finding]:
    first: dict[tuple[object, ...], Vip] = {}
    backends = {backend.address: backend.name for backend in desired.backends}
    for index, vip in enumerate(desired.vips):
        earlier = first.setdefault((vip.address, vip.protocol, vip.port), vip)
        if earlier is not vip:
            port = "all ports" if vip.port is None else f"port {vip.port}"
            yield Finding(
                ("vip", index, "address"),
                f"{vip.address} {vip.protocol} {port} is VIP {earlier.name!r} already",
                "use another address, protocol or port, or remove one of the two",
            )
        if vip.address in backends:
            yield Finding(
                ("vip", index, "address"),
                f"{vip.address} is the address of backend {backends[vip.address]!r}",
                "give the VIP an address of its own; packets for it would be sent in a circle",
            )


def _pools_name_known_backends(desired: Desired) -> Iterator[Finding]:
    known = [backend.name for backend in desired.backends]
    for index, pool in enumerate(desired.pools):
        for name in pool.weights.keys() - set(known):
            yield Finding(
                ("pool", index, "backends", name),
                f"there is no backend {name!r}",
                suggestion(name, known, "backend"),
            )


def _vips_name_known_pools(desired: Desired) -> Iterator[Finding]:
    known = [pool.name for pool in desired.pools]
    for index, vip in enumerate(desired.vips):
        if vip.pool not in known:
            yield Finding(
                ("vip", index, "pool"),
                f"there is no pool {vip.pool!r}",
                suggestion(vip.pool, known, "pool"),
            )


def _sources_are_unused(desired: Desired) -> Iterator[Finding]:
    users = [*((b.address, f"backend {b.name!r}") for b in desired.backends)]
    users += ((v.address, f"VIP {v.name!r}") for v in desired.vips)
    for key in ("source4", "source6"):
        prefix = getattr(desired.director, key)
        for address, user in users:
            if address in prefix:
                yield Finding(
                    ("director", key),
                    f"{prefix} contains {address}, the address of {user}",
                    "use a prefix from which no machine has its address",
                )


def _counts_are_within_limits(desired: Desired) -> Iterator[Finding]:
    for kind, count, limit, mend in (
        ("backend", len(desired.backends), BACKENDS_MAX - 1, "spread them over more directors"),
        ("vip", len(desired.vips), VIPS_MAX - 1, 'use port = "all" or more directors'),
        ("pool", len(desired.pools), desired.director.pools_max, "raise pools_max in [director]"),
    ):
        if count > limit:
            yield Finding(
                (kind, limit), f"{count} {kind}s are more than the limit of {limit}", mend
            )


RULES: tuple[Callable[[Desired], Iterator[Finding]], ...] = (
    _names_are_unique,
    _backend_addresses_are_unique,
    _addresses_are_unicast,
    _vips_do_not_collide,
    _pools_name_known_backends,
    _vips_name_known_pools,
    _sources_are_unused,
    _counts_are_within_limits,
)
