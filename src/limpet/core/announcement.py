# SPDX-License-Identifier: Apache-2.0
"""Announcement: which VIP addresses routers are told of, with which attributes, or why not.

A route draws clients here, so it is only there while this director can serve them: its program is
attached, it knows its tables and what the others have told of sessions (a route that is there
already stays meanwhile), and the VIPs of the address have eligible backends in reach. One
address may carry several VIPs and is announced as a whole: `needs` says whether one of them that
can serve is enough, or all have to.

A drain of the PoP goes in two steps: first the route says "graceful shutdown" (RFC 8326), so that
routers move traffic while the route still carries what is under way; then, when no packets come any
more or the time is up, it goes. A route that has gone does not come back before the drain ends,
however often this is asked: what is announced now is one of the facts.

Pure. Not here: how routers are told (announce/), and how the facts are gathered
(daemon/announcing.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from limpet.core.model import Address, Bgp, Route, Speaker, Vip

GRACEFUL_SHUTDOWN = (65_535, 0)  # the community of RFC 8326
SIGN_S = 3.0  # that a sign of leaving stands at least, for routers to act on it


@dataclass(frozen=True, slots=True)
class Leaving:
    """A drain of this director's PoP."""

    for_s: float  # since when
    quiet: frozenset[Address] = frozenset()  # addresses to which no packets come any more


@dataclass(frozen=True, slots=True)
class Facts:
    """What counts of the director."""

    not_forwarding: str = ""  # why its data plane serves nobody; empty: it does
    not_ready: str = ""  # why nothing more than before is announced yet; empty: it may be
    eligible: Mapping[str, int] = field(default_factory=dict)  # backends in reach, by pool
    leaving: Leaving | None = None
    announced: frozenset[Address] = frozenset()  # what routers are told of now
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Announced:
    """One route as routers are to get it."""

    address: Address
    communities: tuple[tuple[int, int], ...] = ()
    med: int | None = None
    prepend: int = 0
    is_leaving: bool = False  # with the community of graceful shutdown

    @property
    def prefix(self) -> str:
        return f"{self.address}/{self.address.max_prefixlen}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one address, and why."""

    address: Address
    vips: tuple[str, ...]
    route: Announced | None  # None: it is withdrawn
    why: str


def decide(bgp: Bgp, vips: tuple[Vip, ...], facts: Facts) -> tuple[Decision, ...]:
    """One decision for every address, sorted."""
    by_address: dict[Address, list[Vip]] = {}
    for vip in vips:
        by_address.setdefault(vip.address, []).append(vip)
    ordered = sorted(by_address, key=lambda address: (address.version, int(address)))
    return tuple(_decide(bgp, by_address[address], facts) for address in ordered)


def routes(decisions: tuple[Decision, ...]) -> tuple[Announced, ...]:
    """The routes that are to be there."""
    return tuple(each.route for each in decisions if each.route is not None)


def _decide(bgp: Bgp, vips: list[Vip], facts: Facts) -> Decision:
    address, names = vips[0].address, tuple(vip.name for vip in vips)
    why_not = next(_objections(bgp, vips, facts), "")
    if why_not:
        return Decision(address, names, None, why_not)
    if facts.leaving is not None:
        return _leave(bgp, vips, facts.leaving, is_there=address in facts.announced)
    lame = _lame(vips, facts)
    why = "it can be served"
    if lame:
        why = f"it can be served, but for {_listed(lame)} (needs = any)"
    return Decision(address, names, _route(vips, is_leaving=False), why)


def _objections(bgp: Bgp, vips: list[Vip], facts: Facts) -> Iterator[str]:
    """Reasons why the address is not announced, the weightiest first."""
    version = vips[0].address.version
    if facts.is_ending:
        yield "the director is being taken down"
    if facts.not_forwarding:
        yield facts.not_forwarding
    if facts.not_ready and vips[0].address not in facts.announced:
        yield facts.not_ready
    if bgp.speaker is Speaker.BIRD and all(p.address.version != version for p in bgp.peers):
        yield f"no peer has an IPv{version} address"
    lame = _lame(vips, facts)
    if len(lame) == len(vips):
        yield f"no eligible backend is in reach for {_listed(lame)}"
    elif lame and bgp.needs == "all":
        yield f"no eligible backend is in reach for {_listed(lame)} (needs = all)"


def _leave(bgp: Bgp, vips: list[Vip], leaving: Leaving, *, is_there: bool) -> Decision:
    address, names = vips[0].address, tuple(vip.name for vip in vips)
    if not is_there:
        return Decision(address, names, None, "the PoP is drained")
    if leaving.for_s >= bgp.drain_s:
        why = f"the PoP is drained: its time of {bgp.drain_s} s is up"
        return Decision(address, names, None, why)
    if leaving.for_s >= SIGN_S and address in leaving.quiet:
        return Decision(address, names, None, "the PoP is drained: no packets come any more")
    why = "the PoP is draining: routers are asked to move traffic (graceful shutdown)"
    return Decision(address, names, _route(vips, is_leaving=True), why)


def _route(vips: list[Vip], *, is_leaving: bool) -> Announced:
    """VIPs of one address have the same route; the configuration makes sure of it."""
    wanted: Route = vips[0].route
    communities = wanted.communities
    if is_leaving and GRACEFUL_SHUTDOWN not in communities:
        communities = (*communities, GRACEFUL_SHUTDOWN)
    return Announced(vips[0].address, communities, wanted.med, wanted.prepend, is_leaving)


def _lame(vips: list[Vip], facts: Facts) -> list[Vip]:
    return [vip for vip in vips if not facts.eligible.get(vip.pool)]


def _listed(vips: list[Vip]) -> str:
    return ", ".join(f"{vip.name} (pool {vip.pool})" for vip in vips)
