# SPDX-License-Identifier: Apache-2.0
"""A plan brings into the rows who is eligible, who is left, and how clients are told apart."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.diff import Changes, diff
from limpet.core.eligible import Assessment
from limpet.core.model import (
    SLOTS,
    Affinity,
    Backend,
    BackendId,
    Desired,
    Director,
    DrainRule,
    Image,
    MegaProxy,
    Policy,
    Pool,
    PoolRow,
    Protocol,
    Standing,
    Timeouts,
    Vip,
    VipRow,
)
from limpet.core.plan import plan
from limpet.core.registry import Registry
from limpet.core.render import render
from limpet.core.slots import shares
from limpet.core.summary import summary

DIRECTOR = Director("d1", ("eth0",), slot_key=bytes(range(16)))
LEFT = Standing.LEFT_BY_SESSIONS
VIP4, VIP6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")


def desired(weights: Mapping[str, int], *more: Pool, vips: tuple[Vip, ...] = ()) -> Desired:
    """Pool `web` over the backends b1, b2, b3, which all exist."""
    backends = tuple(Backend(f"b{i}", ip_address(f"10.0.0.{i}")) for i in (1, 2, 3))
    return Desired(DIRECTOR, backends, (Pool("web", weights), *more), vips)


def assessed(wanted: Desired, **given: Assessment) -> dict[tuple[str, str], Assessment]:
    """Everybody active and up, but for those given, in every pool."""
    return {
        (pool.name, name): given.get(name, Assessment(weight, weight))
        for pool in wanted.pools
        for name, weight in pool.weights.items()
    }


def row(image: Image, number: int = 0) -> PoolRow:
    return next(row for row in image.pools if row.id == number)


def standing_of(image: Image) -> dict[int, Standing]:
    return {int(number): bits for number, bits in row(image).standing}


def test_without_assessments_everybody_is_active_and_up() -> None:
    wanted = desired({"b1": 2, "b2": 1, "b3": 0})
    same = plan(wanted, Registry(), {}, None)
    registry, image = plan(wanted, Registry(), {}, None, assessed(wanted))
    assert (registry, image) == same
    assert row(image).members == ((1, 2), (2, 1))
    assert row(image).standing == ()
    assert not any(backend.has_standing for backend in image.backends)


def test_draining_backend_has_no_slot_and_is_no_member() -> None:
    wanted = desired({"b1": 1, "b2": 1})
    registry, before = plan(wanted, Registry(), {}, None)
    facts = assessed(wanted, b1=Assessment(0, 1, LEFT))
    after_registry, after = plan(wanted, registry, {}, None, facts)
    assert shares(row(after).slots) == {2: SLOTS}
    assert row(after).members == ((2, 1),)
    assert row(after).standing == ((1, LEFT),)
    assert [b.has_standing for b in after.backends] == [True, False, False]
    _, undrained = plan(wanted, after_registry, {}, None)
    assert np.array_equal(row(undrained).slots, row(before).slots)


def test_standing_alone_is_written_and_moves_no_slot() -> None:
    wanted = desired({"b1": 0, "b2": 1})
    registry, before = plan(wanted, Registry(), {}, None)
    facts = assessed(wanted, b1=Assessment(0, 0, LEFT | Standing.RESET))
    _, after = plan(wanted, registry, {}, None, facts)
    assert row(after).generation == row(before).generation
    assert diff(before, after) == Changes(
        backends_put=(after.backends[0],), pools_put=(row(after),)
    )


def test_policies_are_the_pools() -> None:
    pool = Pool("web", {"b1": 1}, Policy.ROUND_ROBIN, Policy.HASH)
    _, image = plan(replace(desired({}), pools=(pool,)), Registry(), {}, None)
    assert (row(image).policy, row(image).reassign) == (Policy.ROUND_ROBIN, Policy.HASH)


def test_slow_start_counts_where_weights_are_small() -> None:
    wanted = desired({"b1": 1, "b2": 1})
    facts = assessed(wanted, b1=Assessment(1, 1, share=0.1))
    _, image = plan(wanted, Registry(), {}, None, facts)
    assert row(image).members == ((1, 100), (2, 1_000))
    assert shares(row(image).slots)[BackendId(1)] == pytest.approx(SLOTS / 11, abs=1)


def test_slow_start_stays_within_the_largest_weight() -> None:
    wanted = desired({"b1": 65_535, "b2": 1})
    facts = assessed(wanted, b2=Assessment(1, 1, share=0.1))
    _, image = plan(wanted, Registry(), {}, None, facts)
    assert row(image).members == ((1, 65_535), (2, 1))


@pytest.mark.parametrize("rule", DrainRule)
def test_removed_backend_is_left_by_its_sessions_if_the_rule_says_so(rule: DrainRule) -> None:
    wanted = desired({"b1": 1, "b2": 1})
    wanted = replace(wanted, pools=(replace(wanted.pools[0], drain=rule),))
    registry, _ = plan(wanted, Registry(), {}, None)
    pool = replace(wanted.pools[0], weights={"b1": 1})
    gone = replace(wanted, backends=wanted.backends[:1], pools=(pool,))
    _, image = plan(gone, registry, {}, frozenset({BackendId(2)}))
    expected = {2: LEFT} if rule is DrainRule.FLOWS else {}
    assert standing_of(image) == expected
    assert {b.id for b in image.backends if b.has_standing} == expected.keys()


@pytest.mark.parametrize("rule", DrainRule)
def test_backend_taken_out_of_one_pool_is_treated_the_same_there(rule: DrainRule) -> None:
    other = Pool("api", {"b2": 1, "b3": 1}, drain=rule)
    wanted = desired({"b1": 1, "b2": 1}, other)
    wanted = replace(wanted, pools=(replace(wanted.pools[0], drain=rule), other))
    registry, _ = plan(wanted, Registry(), {}, None)
    pools = (replace(wanted.pools[0], weights={"b1": 1}), other)
    _, image = plan(replace(wanted, pools=pools), registry, {}, None)
    assert standing_of(image) == ({2: LEFT} if rule is DrainRule.FLOWS else {})
    assert row(image, 1).standing == ()  # b1 never was there


def vip(name: str, affinity: Affinity = Affinity.CLIENT, family: int = 4) -> Vip:
    address = VIP4 if family == 4 else VIP6
    return Vip(name, address + int(name[1:]), Protocol.TCP, 80, "web", affinity)


def row_of(one: Vip, proxy: MegaProxy, split: int | None = None) -> VipRow:
    wanted = replace(desired({"b1": 1}, vips=(one,)), mega_proxy=proxy)
    numbers = None if split is None else {(one.address, one.protocol, one.port): split}
    _, image = plan(wanted, Registry(), {}, None, None, numbers)
    return image.vips[0]


PROXY = MegaProxy(flows=500, port_ranges=256, prefixes=(ip_network("198.51.100.0/24"),))


def test_vip_row_of_affinity_client() -> None:
    times = Timeouts(5, 6, 7, 8)
    found = row_of(replace(vip("v1"), prefix=24, timeouts=times), PROXY)
    assert (found.prefix, found.timeouts) == (24, times)
    assert (found.split_flows, found.split_ranges, found.looks_at_list) == (500, 256, True)
    assert row_of(vip("v1"), PROXY).prefix == 32
    six = row_of(vip("v1", family=6), PROXY)
    assert (six.prefix, six.looks_at_list) == (64, False)  # no prefix of its family


def test_share_of_the_vip_comes_as_a_number() -> None:
    assert row_of(vip("v1"), PROXY, split=70).split_flows == 70
    assert row_of(vip("v1"), MegaProxy(flows=0)).split_flows == 0


def test_other_affinities_are_not_split_and_have_what_they_use() -> None:
    ports = row_of(replace(vip("v1", Affinity.CLIENT_PORTS), port_ranges=64, prefix=20), PROXY, 70)
    assert (ports.port_ranges, ports.prefix, ports.split_flows) == (64, 20, 0)
    assert not ports.looks_at_list
    flow = row_of(vip("v1", Affinity.FLOW), PROXY, 70)
    assert (flow.prefix, flow.split_flows, flow.looks_at_list) == (None, 0, False)


def test_proxies_are_sorted_and_once() -> None:
    prefixes = tuple(
        ip_network(text) for text in ("2001:db8::/32", "10.9.0.0/16", "10.9.0.0/24", "10.1.0.0/16")
    )
    wanted = replace(desired({}), mega_proxy=MegaProxy(prefixes=(*prefixes, prefixes[0])))
    _, image = plan(wanted, Registry(), {}, None)
    assert [str(p) for p in image.proxies] == [
        "10.1.0.0/16",
        "10.9.0.0/16",
        "10.9.0.0/24",
        "2001:db8::/32",
    ]
    assert diff(Image(), image).proxies == image.proxies


each = st.builds(
    lambda full, part, bits: Assessment(
        max(1, round(full * part)) if full and part else 0, full, Standing(bits), share=part
    ),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 7),
)


@settings(max_examples=50)
@given(st.tuples(each, each, each), st.booleans())
def test_laws_of_members(found: tuple[Assessment, ...], again: bool) -> None:
    facts = dict(zip(("b1", "b2", "b3"), found, strict=True))
    wanted = desired({name: fact.full_weight for name, fact in facts.items()})
    registry, image = plan(wanted, Registry(), {}, None, assessed(wanted, **facts))
    eligible = {i for i, name in enumerate(facts, start=1) if facts[name].weight}
    assert {number for number, _ in row(image).members} == eligible
    assert set(shares(row(image).slots)) == (eligible or {0})
    assert standing_of(image) == {
        i: fact.standing for i, fact in enumerate(facts.values(), start=1) if fact.standing
    }
    assert [b.has_standing for b in image.backends] == [bool(f.standing) for f in facts.values()]
    if again:
        _, same = plan(wanted, registry, {}, None, assessed(wanted, **facts))
        assert not diff(image, same)


def test_summary_says_what_is_different_about_pools_and_vips() -> None:
    wanted = desired({"b1": 2, "b2": 1}, vips=(vip("v1"),))
    old, before = plan(wanted, Registry(), {}, None)
    pool = replace(wanted.pools[0], weights={"b1": 1, "b2": 1}, policy=Policy.ROUND_ROBIN)
    changed = replace(
        wanted,
        pools=(pool,),
        vips=(replace(vip("v1"), prefix=24, timeouts=Timeouts(udp_s=9)),),
        mega_proxy=PROXY,
    )
    new, after = plan(changed, old, {}, None)
    found = str(summary(before, after, old, new)).splitlines()
    assert found[:10] == [
        "~ VIP v1",
        "~ pool web",
        "  VIP v1: prefix 32 -> 24",
        "  VIP v1: split from flows 1000 -> 500",
        "  VIP v1: split ranges 4096 -> 256",
        "  VIP v1: looks at known mega-proxies False -> True",
        "  VIP v1: udp s 1800 -> 9",
        "  pool web: policy hash -> round-robin",
        "  pool web: weight of b1 2 -> 1",
        "~ known mega-proxies: 1 more, 0 fewer",
    ]


def test_summary_does_not_mind_how_weights_are_scaled() -> None:
    wanted = desired({"b1": 2, "b2": 1})
    old, before = plan(wanted, Registry(), {}, None)
    doubled = desired({"b1": 4, "b2": 2})
    new, after = plan(doubled, old, {}, None)
    assert not summary(before, after, old, new)


def test_render_shows_policy_and_standing() -> None:
    wanted = desired({"b1": 1, "b2": 1}, vips=(vip("v1", Affinity.CLIENT_PORTS),))
    facts = assessed(wanted, b1=Assessment(0, 1, LEFT | Standing.RESET))
    wanted = replace(wanted, mega_proxy=PROXY)
    registry, image = plan(wanted, Registry(), {}, None, facts)
    text = render(image, registry)
    assert "policy hash, then least-sessions; b1 left-by-sessions reset" in text
    assert "affinity client+ports /32 16 ranges" in text
    assert text.endswith("proxy   198.51.100.0/24\n")


def test_over_udp_one_packet_holds_as_long_as_two() -> None:
    """A client that sends a datagram now and then has a session, too."""
    times = Timeouts(udp_s=1_800, tcp_opening_s=60)
    vips = tuple(
        Vip(protocol.value, VIP4, protocol, 53, "web", timeouts=times) for protocol in Protocol
    )
    _, image = plan(desired({"b1": 1}, vips=vips), Registry(), {}, None)
    opening = {row.protocol: row.timeouts.tcp_opening_s for row in image.vips}
    assert opening == {Protocol.TCP: 60, Protocol.UDP: 1_800}
