# SPDX-License-Identifier: Apache-2.0
"""What a plan says of changes that no table of the kernel shows."""

from dataclasses import replace
from ipaddress import IPv4Address

from limpet.core.declared import declared
from limpet.core.model import (
    Backend,
    Bgp,
    Cluster,
    Desired,
    Director,
    HealthCheck,
    Hooks,
    OnDown,
    Peer,
    Policy,
    Pool,
    Pop,
    Prefer,
    Protocol,
    Route,
    Speaker,
    Vip,
)

CHECK = HealthCheck(interval_s=1.0)
POOL = Pool("web", {"b1": 1}, health=CHECK)
BEFORE = Desired(Director("fra1", ("eth0",), slot_key=bytes(16)), pools=(POOL,))


def with_pool(**changes: object) -> Desired:
    return replace(BEFORE, pools=(replace(POOL, **changes),))  # type: ignore[arg-type]


def test_the_same_file_changes_nothing() -> None:
    assert declared(BEFORE, BEFORE) == ()


def test_what_the_daemon_does_with_a_pool_is_named_with_both_values() -> None:
    after = with_pool(on_down=OnDown.REHASH, hold_s=5, health=replace(CHECK, interval_s=3.0))
    assert declared(BEFORE, after) == (
        "pool web: health interval_s 1.0 -> 3.0",
        "pool web: hold_s 30 -> 5",
        "pool web: on_down reset -> rehash",
    )


def test_a_check_that_comes_or_goes_is_said_so() -> None:
    none = with_pool(health=None)
    assert declared(BEFORE, none) == ("pool web: health as in the file -> none",)
    assert declared(none, BEFORE) == ("pool web: health none -> as in the file",)


def test_what_tables_show_is_left_to_them() -> None:
    assert declared(BEFORE, with_pool(weights={"b1": 7}, policy=Policy.ROUND_ROBIN)) == ()
    other = replace(BEFORE, pools=(POOL, replace(POOL, name="new")))
    assert declared(BEFORE, other) == ()


def test_secrets_are_named_and_not_shown() -> None:
    director = replace(BEFORE.director, slot_key=b"1" * 16)
    after = replace(BEFORE, director=director, hooks=Hooks(webhook="https://ops/?token=t0p"))
    assert declared(BEFORE, after) == ("director: slot_key changes", "hooks changes")


def test_a_key_that_the_file_leaves_to_the_daemon_is_no_change() -> None:
    left_out = replace(BEFORE, director=replace(BEFORE.director, slot_key=b""))
    assert declared(BEFORE, left_out) == ()


def test_limits_and_places_of_the_director_are_named() -> None:
    director = replace(BEFORE.director, interfaces=("eth0", "eth1"))
    after = replace(BEFORE, director=director, metrics_listen="127.0.0.1:9464")
    assert declared(BEFORE, after) == (
        "director: interfaces eth0 -> eth0 eth1",
        "metrics_listen none -> 127.0.0.1:9464",
    )


ADDRESS = IPv4Address("192.0.2.1")
VIP = Vip("web", ADDRESS, Protocol.TCP, 80, "web")
BACKEND = Backend("b1", ADDRESS, pop="fra")
FRA, PEER = Pop("fra", {"par": 10}), Peer("r1", ADDRESS, 64_500)
BGP = Bgp(speaker=Speaker.BIRD, asn=64_501, peers=(PEER,))


def test_where_near_is_and_what_routers_are_told_is_named() -> None:
    before = replace(BEFORE, vips=(VIP,), backends=(BACKEND,), pops=(FRA,), bgp=BGP)
    other = replace(PEER, name="r2")
    after = replace(
        with_pool(prefer=Prefer.NEAR),
        vips=(replace(VIP, route=Route(med=50)),),
        backends=(replace(BACKEND, pop="par", sessions_max=7),),
        pops=(Pop("fra", {"par": 20}), Pop("ams")),
        bgp=replace(BGP, hold_s=60, peers=(replace(PEER, bfd=True), other)),
    )
    assert declared(before, after) == (
        "pool web: prefer any -> near",
        "VIP web: route med none -> 50",
        "backend b1: pop fra -> par",
        "backend b1: sessions_max 0 -> 7",
        "PoP ams comes",
        "PoP fra: costs par 10 -> par 20",
        "bgp: hold_s 600 -> 60",
        "peer r2 comes",
        "peer r1: bfd False -> True",
    )
    assert declared(after, before)[4] == "PoP ams goes"


def test_what_counts_from_the_next_start_of_the_daemon_says_so() -> None:
    one = replace(BEFORE, cluster=Cluster("edge", ("nats://a",), queries_per_s=5))
    two = replace(BEFORE, cluster=Cluster("edge", ("nats://a", "nats://b"), queries_per_s=6))
    assert declared(one, two) == (
        "cluster: queries_per_s 5 -> 6",
        "cluster: servers nats://a -> nats://a nats://b (when the daemon is started again)",
    )
