# SPDX-License-Identifier: Apache-2.0
"""Laws of what is announced, over all kinds of facts."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from limpet.core.announcement import (
    GRACEFUL_SHUTDOWN,
    SIGN_S,
    Facts,
    Leaving,
    decide,
    routes,
)
from limpet.core.model import Address, Bgp, Peer, Protocol, Route, Speaker, Vip

ADDRESSES: tuple[Address, ...] = tuple(
    map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"))
)
POOLS = ("a", "b")
PEERS = (
    Peer("r4", ip_address("10.0.0.1"), 64_500),
    Peer("r6", ip_address("2001:db8:1::1"), 64_500),
)
ROUTES = {
    address: Route(((64_501, number),), number or None, number)
    for number, address in enumerate(ADDRESSES)
}

bgps = st.builds(
    Bgp,
    speaker=st.sampled_from(Speaker),
    asn=st.just(64_501),
    peers=st.sampled_from(((), PEERS[:1], PEERS)),
    needs=st.sampled_from(("any", "all")),
    drain_s=st.integers(0, 100),
)


@st.composite
def vips(draw: st.DrawFn) -> tuple[Vip, ...]:
    keys = st.tuples(st.sampled_from(ADDRESSES), st.integers(1, 4))
    return tuple(
        Vip(
            f"v{n}",
            address,
            Protocol.TCP,
            port,
            draw(st.sampled_from(POOLS)),
            route=ROUTES[address],
        )
        for n, (address, port) in enumerate(draw(st.lists(keys, unique=True)))
    )


some_addresses = st.frozensets(st.sampled_from(ADDRESSES))
leavings = st.builds(Leaving, for_s=st.floats(0, 200), quiet=some_addresses)
facts = st.builds(
    Facts,
    not_forwarding=st.sampled_from(("", "the program is attached to no interface")),
    eligible=st.dictionaries(st.sampled_from(POOLS), st.integers(0, 3)),
    leaving=st.none() | leavings,
    announced=some_addresses,
    is_ending=st.booleans(),
)


@given(bgps, vips(), facts)
def test_every_address_has_one_decision_with_its_vips_and_a_reason(
    bgp: Bgp, vips: tuple[Vip, ...], facts: Facts
) -> None:
    found = decide(bgp, vips, facts)
    assert {each.address for each in found} == {vip.address for vip in vips}
    assert len({each.address for each in found}) == len(found)
    assert sorted(name for each in found for name in each.vips) == sorted(v.name for v in vips)
    assert all(each.why for each in found)


@given(bgps, vips(), facts)
def test_only_what_can_be_served_is_announced(
    bgp: Bgp, vips: tuple[Vip, ...], facts: Facts
) -> None:
    for route in routes(decide(bgp, vips, facts)):
        assert not facts.not_forwarding
        assert not facts.is_ending
        able = [bool(facts.eligible.get(v.pool)) for v in vips if v.address == route.address]
        assert all(able) if bgp.needs == "all" else any(able)
        if bgp.speaker is Speaker.BIRD:
            assert route.address.version in {peer.address.version for peer in bgp.peers}


@given(bgps, vips(), facts)
def test_all_that_can_be_served_is_announced_where_nobody_drains(
    bgp: Bgp, vips: tuple[Vip, ...], facts: Facts
) -> None:
    if facts.leaving or facts.not_forwarding or facts.is_ending:
        return
    able = {v.address for v in vips if facts.eligible.get(v.pool)}
    if bgp.needs == "all":
        able -= {v.address for v in vips if not facts.eligible.get(v.pool)}
    if bgp.speaker is Speaker.BIRD:
        families = {peer.address.version for peer in bgp.peers}
        able = {address for address in able if address.version in families}
    assert {route.address for route in routes(decide(bgp, vips, facts))} == able


@given(bgps, vips(), facts)
def test_route_has_the_attributes_of_its_vip_and_the_sign_just_while_it_leaves(
    bgp: Bgp, vips: tuple[Vip, ...], facts: Facts
) -> None:
    for route in routes(decide(bgp, vips, facts)):
        wanted = ROUTES[route.address]
        assert (route.med, route.prepend) == (wanted.med, wanted.prepend)
        sign = (GRACEFUL_SHUTDOWN,) if route.is_leaving else ()
        assert route.communities == (*wanted.communities, *sign)
        assert route.is_leaving == (facts.leaving is not None)


@given(bgps, vips(), facts, st.lists(leavings, max_size=5))
def test_route_that_a_drain_took_back_stays_away_however_often_one_asks(
    bgp: Bgp, vips: tuple[Vip, ...], facts: Facts, later: list[Leaving]
) -> None:
    there = facts.announced
    for leaving in later:
        step = Facts(eligible=facts.eligible, leaving=leaving, announced=there)
        after = frozenset(route.address for route in routes(decide(bgp, vips, step)))
        assert after <= there
        if leaving.for_s >= bgp.drain_s:
            assert not after
        there = after


@given(vips(), st.floats(0, SIGN_S, exclude_max=True))
def test_sign_stands_for_a_moment_even_where_nobody_comes(
    vips: tuple[Vip, ...], for_s: float
) -> None:
    facts = Facts(
        eligible=dict.fromkeys(POOLS, 1),
        leaving=Leaving(for_s, frozenset(ADDRESSES)),
        announced=frozenset(ADDRESSES),
    )
    bgp = Bgp(speaker=Speaker.KERNEL, drain_s=60)
    assert {r.address for r in routes(decide(bgp, vips, facts))} == {v.address for v in vips}
