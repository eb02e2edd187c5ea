# SPDX-License-Identifier: Apache-2.0
"""Checks: what has to fit together in a configuration whose single values are all right.

Each check is a generator that looks at one rule over the whole and yields what breaks it, with the
path of the key in the file. All of them run, so that one run of `limpet check` shows everything.

Not here: the shape of tables and the range of single values (core/document.py, core/values.py),
and what has to fit together in a pool's health check (core/health_checks.py) and among machines
(core/cluster_checks.py).
"""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address

from limpet.core import cluster_checks, health_checks
from limpet.core.affinity import ADDRESS_BITS
from limpet.core.finding import Finding, suggestion
from limpet.core.model import (
    BACKENDS_MAX,
    VIPS_MAX,
    Address,
    Affinity,
    Desired,
    Vip,
)
from limpet.core.registry import network_order

BROADCAST = ip_address("255.255.255.255")


def check(desired: Desired) -> Iterator[Finding]:
    """Everything that does not fit together."""
    for rule in RULES:
        yield from rule(desired)


def _names_are_unique(desired: Desired) -> Iterator[Finding]:
    kinds = {
        "backend": [backend.name for backend in desired.backends],
        "pool": [pool.name for pool in desired.pools],
        "vip": [vip.name for vip in desired.vips],
        "pop": [pop.name for pop in desired.pops],
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


def _vips_use_what_they_set(desired: Desired) -> Iterator[Finding]:
    usual = Vip.__dataclass_fields__["port_ranges"].default
    for index, vip in enumerate(desired.vips):
        bits = ADDRESS_BITS[vip.address.version]
        if vip.prefix is not None and vip.prefix > bits:
            yield Finding(
                ("vip", index, "prefix"),
                f"a prefix of {vip.prefix} bits is longer than an IPv{vip.address.version} address",
                f"write a whole number from 1 to {bits}",
            )
        if vip.prefix is not None and vip.affinity is Affinity.FLOW:
            yield Finding(
                ("vip", index, "prefix"),
                "affinity flow looks at the whole address",
                'leave prefix out, or write affinity = "client" or "client+ports"',
            )
        if vip.port_ranges != usual and vip.affinity is not Affinity.CLIENT_PORTS:
            yield Finding(
                ("vip", index, "port_ranges"),
                f"affinity {vip.affinity} has no port ranges",
                'leave port_ranges out, or write affinity = "client+ports"',
            )


def _proxies_do_not_overlap(desired: Desired) -> Iterator[Finding]:
    wider: list[IPv4Network | IPv6Network] = []  # those that contain the one at hand
    for network in sorted(desired.mega_proxy.prefixes, key=network_order):
        while wider and not _contains(wider[-1], network):
            wider.pop()
        if wider:
            same = wider[-1] == network
            yield Finding(
                ("mega_proxy", "prefixes"),
                f"{network} is listed twice" if same else f"{wider[-1]} contains {network}",
                f"list it once: {network}" if same else f"leave {network} out",
            )
        wider.append(network)


def _contains(wide: IPv4Network | IPv6Network, narrow: IPv4Network | IPv6Network) -> bool:
    return (
        wide.version == narrow.version
        and wide.prefixlen <= narrow.prefixlen
        and narrow.network_address in wide
    )


def _api_over_tcp_is_secured(desired: Desired) -> Iterator[Finding]:
    api = desired.api
    for key, what in (
        ("certificate", "a certificate"),
        ("key", "the key of its certificate"),
        ("tokens", "a file of tokens"),
    ):
        if api.listen and not getattr(api, key):
            yield Finding(
                ("api", "listen"),
                f"the API over TCP needs {what}",
                f"set {key} in [api], or leave listen out and use the unix socket",
            )
        if not api.listen and getattr(api, key):
            yield Finding(
                ("api", key),
                f"{key} is given, but listen is not: nothing is served over TCP",
                'set listen in [api], as listen = "192.0.2.1:8443", or leave all of it out',
            )


def _api_does_not_take_the_metrics_port(desired: Desired) -> Iterator[Finding]:
    if desired.api.listen and desired.api.listen == desired.metrics_listen:
        yield Finding(
            ("api", "listen"),
            f"{desired.api.listen} is where [metrics] listens",
            "use another port",
        )


RULES: tuple[Callable[[Desired], Iterator[Finding]], ...] = (
    _names_are_unique,
    _backend_addresses_are_unique,
    _addresses_are_unicast,
    _vips_do_not_collide,
    _pools_name_known_backends,
    _vips_name_known_pools,
    _sources_are_unused,
    _vips_use_what_they_set,
    health_checks.check,
    cluster_checks.check,
    _proxies_do_not_overlap,
    _api_over_tcp_is_secured,
    _api_does_not_take_the_metrics_port,
    _counts_are_within_limits,
)
