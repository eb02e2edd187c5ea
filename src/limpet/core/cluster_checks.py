# SPDX-License-Identifier: Apache-2.0
"""Cluster checks: what has to fit together in [cluster], [bgp], [[pop]] and the routes of VIPs.

A director that believed itself in a cluster, but could not be asked by the others, would lose the
sessions that they look for; routers that were told of a VIP in two ways would choose at random. So
half a configuration is refused, with what is missing.

Part of core/checks.py; a rule is a generator of findings over the whole.
"""

from collections.abc import Callable, Iterator
from ipaddress import ip_address

from limpet.core.finding import Finding, suggestion
from limpet.core.model import Address, Bgp, Cluster, Desired, Peer, Prefer, Speaker, Vip

POPS_MAX = 100


def check(desired: Desired) -> Iterator[Finding]:
    """Everything that does not fit together."""
    for rule in RULES:
        yield from rule(desired)


def _members_can_be_asked(desired: Desired) -> Iterator[Finding]:
    cluster = desired.cluster
    if not cluster.name:
        for key in Cluster.__dataclass_fields__:
            if getattr(cluster, key) != getattr(Cluster(), key):
                mend = 'name the cluster, as name = "edge", or leave the table out'
                yield Finding(
                    ("cluster", key), f"{key} is given, but the cluster has no name", mend
                )
        return
    for key, mend in (
        ("listen", 'write where other directors reach this one, as listen = "10.9.0.11:7117"'),
        ("key_file", "make a secret (openssl rand -out FILE 32), the same on every director"),
    ):
        if not getattr(cluster, key):
            yield Finding(("cluster", "name"), f"a member of a cluster needs {key}", mend)
    if cluster.listen and ip_address(cluster.listen.rpartition(":")[0].strip("[]")).is_unspecified:
        yield Finding(
            ("cluster", "listen"),
            f"{cluster.listen} is every address of this machine, and no place to be asked at",
            "write the address by which other directors reach this one",
        )
    if not desired.director.pop:
        yield Finding(
            ("director", "pop"),
            "a member of a cluster stands in a PoP",
            'write its name, as pop = "fra"',
        )
    if desired.director.slot_key:
        yield Finding(
            ("director", "slot_key"),
            "the cluster makes its slot key itself, and shares it",
            "leave slot_key out",
        )


def _tls_is_whole(desired: Desired) -> Iterator[Finding]:
    cluster = desired.cluster
    if bool(cluster.tls_certificate) != bool(cluster.tls_key):
        yield Finding(
            ("cluster", "tls_certificate" if cluster.tls_certificate else "tls_key"),
            "a certificate and its key go together",
            "give both, or neither",
        )
    if cluster.tls_certificate and not cluster.tls_ca:
        yield Finding(
            ("cluster", "tls_certificate"),
            "without tls_ca there is no TLS to the servers",
            "give the CA of the servers in tls_ca",
        )


def _speaker_knows_whom_to_tell(desired: Desired) -> Iterator[Finding]:
    bgp = desired.bgp
    if bgp.speaker is Speaker.BIRD:
        if not bgp.asn:
            yield Finding(("bgp", "speaker"), "bird needs an AS number", "set asn, as asn = 64512")
        if not bgp.peers:
            yield Finding(
                ("bgp", "speaker"), "bird has nobody to tell", "add a [[bgp.peer]] per router"
            )
    else:
        who = "kernel only writes routes" if bgp.speaker else "without a speaker nobody is told"
        for key, is_set in (("asn", bgp.asn), ("router_id", bgp.router_id), ("peer", bgp.peers)):
            if is_set:
                yield Finding(("bgp", key), f"{key} is not used: {who}", 'set speaker = "bird"')
    if bgp.table != Bgp().table and bgp.speaker is not Speaker.KERNEL:
        yield Finding(("bgp", "table"), "table is used by the speaker kernel alone", "leave it out")


def _peers_are_different(desired: Desired) -> Iterator[Finding]:
    names: dict[str, Peer] = {}
    addresses: dict[Address, Peer] = {}
    for index, peer in enumerate(desired.bgp.peers):
        if names.setdefault(peer.name, peer) is not peer:
            why = f"the name {peer.name!r} is taken by another peer"
            yield Finding(("bgp", "peer", index, "name"), why, "give each peer a name of its own")
        earlier = addresses.setdefault(peer.address, peer)
        if earlier is not peer:
            why = f"{peer.address} is the address of peer {earlier.name!r} too"
            yield Finding(("bgp", "peer", index, "address"), why, "list a router once")


def _pops_are_known(desired: Desired) -> Iterator[Finding]:
    known = [pop.name for pop in desired.pops]
    if len(known) > POPS_MAX:
        why = f"{len(known)} PoPs are more than the limit of {POPS_MAX}"
        yield Finding(("pop", POPS_MAX), why, "use several clusters")
    for index, backend in enumerate(desired.backends):
        if backend.pop and backend.pop not in known:
            why = f"there is no pop {backend.pop!r}"
            yield Finding(("backend", index, "pop"), why, suggestion(backend.pop, known, "pop"))
    for index, pop in enumerate(desired.pops):
        for name in pop.costs.keys() - set(known):
            why, mend = f"there is no pop {name!r}", suggestion(name, known, "pop")
            yield Finding(("pop", index, "costs", name), why, mend)
        if pop.name in pop.costs:
            why = f"{pop.name} is this PoP itself"
            yield Finding(("pop", index, "costs", pop.name), why, "leave it out: it costs nothing")


def _near_means_something(desired: Desired) -> Iterator[Finding]:
    stands = {backend.name: backend.pop for backend in desired.backends}
    for index, pool in enumerate(desired.pools):
        if pool.prefer is Prefer.NEAR and not any(stands.get(name) for name in pool.weights):
            yield Finding(
                ("pool", index, "prefer"),
                "no backend of the pool stands in a PoP",
                'write where each stands, as pop = "fra" in [[backend]], or leave prefer out',
            )


def _routes_of_an_address_agree(desired: Desired) -> Iterator[Finding]:
    first: dict[Address, Vip] = {}
    for index, vip in enumerate(desired.vips):
        earlier = first.setdefault(vip.address, vip)
        if earlier.route != vip.route:
            why = f"{vip.address} is announced otherwise for VIP {earlier.name!r}"
            mend = "an address has one route: write the same for both"
            yield Finding(("vip", index, "route"), why, mend)


RULES: tuple[Callable[[Desired], Iterator[Finding]], ...] = (
    _members_can_be_asked,
    _tls_is_whole,
    _speaker_knows_whom_to_tell,
    _peers_are_different,
    _pops_are_known,
    _near_means_something,
    _routes_of_an_address_agree,
)
