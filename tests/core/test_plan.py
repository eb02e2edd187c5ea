# SPDX-License-Identifier: Apache-2.0
"""A plan keeps ids and slots for whoever keeps their identity, and gives away nothing in use."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.diff import apply, diff
from limpet.core.errors import Conflict
from limpet.core.model import (
    BACKENDS_MAX,
    SLOTS,
    Backend,
    BackendId,
    Desired,
    Director,
    Encapsulation,
    Image,
    NextHop,
    Pool,
    Protocol,
    Vip,
)
from limpet.core.plan import addresses, plan
from limpet.core.registry import Registry
from limpet.core.render import render
from limpet.core.slots import shares
from limpet.core.summary import Move, Names, summary

DIRECTOR = Director("d1", ("eth0",), slot_key=bytes(range(16)))
NONE: frozenset[BackendId] = frozenset()
HOP = NextHop(3, b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02", 1_500)


def backend(number: int, name: str = "") -> Backend:
    return Backend(name or f"b{number}", ip_address(f"10.0.{number >> 8}.{number & 255}"))


def desired(
    backends: Iterable[Backend] | int,
    weights: Mapping[str, int] | None = None,
    vips: tuple[Vip, ...] = (),
) -> Desired:
    """One pool `web` over the backends, each with weight 1 unless said otherwise."""
    rows = [backend(i) for i in range(1, backends + 1)] if isinstance(backends, int) else backends
    rows = tuple(rows)
    pool = Pool("web", weights if weights is not None else {row.name: 1 for row in rows})
    return Desired(DIRECTOR, rows, (pool,), vips)


def vip(name: str, port: int | None, pool: str = "web") -> Vip:
    return Vip(name, ip_address("192.0.2.1"), Protocol.TCP, port, pool)


def ids(image: Image) -> list[int]:
    return [row.id for row in image.backends]


def test_planning_again_changes_nothing() -> None:
    wanted = desired(3, vips=(vip("v1", 443), vip("v2", None)))
    registry, image = plan(wanted, Registry(), {}, None)
    again, same = plan(wanted, registry, {}, NONE)
    assert (again, same) == (registry, image)
    assert not diff(image, same)


def test_order_in_the_file_does_not_matter_once_ids_are_given() -> None:
    registry, image = plan(desired(3), Registry(), {}, None)
    turned = desired([backend(3), backend(1), backend(2)])
    assert plan(turned, registry, {}, None) == (registry, image)


def test_removed_backend_keeps_its_row_while_flows_name_it() -> None:
    registry, _ = plan(desired(3), Registry(), {}, None)
    for referenced in (None, frozenset({BackendId(3)})):
        lingering, image = plan(desired(2), registry, {}, referenced)
        assert ids(image) == [1, 2, 3]
        assert set(shares(image.pools[0].slots)) == {1, 2}
        assert [b.name for b in lingering.lingering] == ["b3"]
    _, image = plan(desired(2), lingering, {}, NONE)
    assert ids(image) == [1, 2]


def test_row_does_not_come_back_once_it_is_gone() -> None:
    registry, _ = plan(desired(3), Registry(), {}, None)
    registry, _ = plan(desired(2), registry, {}, NONE)
    _, image = plan(desired(2), registry, {}, None)
    assert ids(image) == [1, 2]


@pytest.mark.parametrize("referenced", [None, NONE], ids=["lingering", "known"])
def test_returning_backend_gets_id_and_slots_back(referenced: frozenset[BackendId] | None) -> None:
    registry, before = plan(desired(3), Registry(), {}, None)
    registry, _ = plan(desired([backend(1), backend(3)]), registry, {}, referenced)
    registry, _ = plan(desired([backend(1), backend(3)]), registry, {}, referenced)
    registry, after = plan(desired(3), registry, {}, referenced)
    assert ids(after) == [1, 2, 3]
    assert np.array_equal(before.pools[0].slots, after.pools[0].slots)
    assert not registry.lingering
    assert not registry.known_backends


def test_same_name_at_another_address_is_a_new_machine() -> None:
    registry, _ = plan(desired(2), Registry(), {}, None)
    moved = desired([backend(1), backend(9, "b2")])
    registry, image = plan(moved, registry, {}, frozenset({BackendId(2)}))
    assert [(row.id, str(row.address)) for row in image.backends] == [
        (1, "10.0.0.1"),
        (2, "10.0.0.2"),
        (3, "10.0.0.9"),
    ]
    assert set(shares(image.pools[0].slots)) == {1, 3}
    assert registry.backend_names() == {1: "b1", 2: "b2@10.0.0.2", 3: "b2"}
    _, image = plan(desired(2), registry, {}, None)
    assert set(shares(image.pools[0].slots)) == {1, 2}


def test_other_encapsulation_is_the_same_machine() -> None:
    registry, _ = plan(desired(1), Registry(), {}, None)
    changed = desired([replace(backend(1), encapsulation=Encapsulation.L2)])
    _, image = plan(changed, registry, {}, None)
    assert [(row.id, row.encapsulation) for row in image.backends] == [(1, Encapsulation.L2)]


def test_unused_ids_go_first_then_the_longest_known() -> None:
    registry, _ = plan(desired(3), Registry(), {}, None)
    registry, _ = plan(desired([backend(1), backend(3)]), registry, {}, NONE)  # 2 goes
    registry, _ = plan(desired([backend(1)]), registry, {}, NONE)  # then 3
    assert [b.id for b in registry.known_backends] == [2, 3]
    crowd = [backend(1), *(backend(100 + i) for i in range(BACKENDS_MAX - 4))]
    registry, _ = plan(desired(crowd), registry, {}, NONE)
    assert registry.backends["b100"].id == 4
    assert [b.id for b in registry.known_backends] == [2, 3]
    registry, _ = plan(desired([*crowd, backend(50)]), registry, {}, NONE)
    assert registry.backends["b50"].id == 2
    assert not (registry.tables[registry.pools["web"]].former == 2).any()


def test_id_is_not_given_away_while_flows_name_it_nor_when_just_removed() -> None:
    full = [backend(i) for i in range(1, BACKENDS_MAX)]
    registry, _ = plan(desired(full), Registry(), {}, NONE)
    other = [*full[1:], backend(5_000)]
    with pytest.raises(Conflict, match="only 0 of 4095 ids are free"):
        plan(desired(other), registry, {}, NONE)
    lingering, _ = plan(desired(full[1:]), registry, {}, None)
    with pytest.raises(Conflict, match="1 removed backends still have live flows"):
        plan(desired(other), lingering, {}, None)
    known, _ = plan(desired(full[1:]), lingering, {}, NONE)
    registry, _ = plan(desired(other), known, {}, NONE)
    assert registry.backends["b5000"].id == 1


def test_vip_id_stays_with_address_protocol_and_port() -> None:
    registry, first = plan(desired(1, vips=(vip("a", 80), vip("b", 443))), Registry(), {}, None)
    registry, second = plan(desired(1, vips=(vip("renamed", 443),)), registry, {}, None)
    assert [row.id for row in second.vips] == [2]
    registry, third = plan(desired(1, vips=(vip("b", 443), vip("c", 8_080))), registry, {}, None)
    assert {row.port: row.id for row in third.vips} == {443: 2, 8_080: 3}
    _, fourth = plan(desired(1, vips=(vip("a", 80),)), registry, {}, None)
    assert [row.id for row in fourth.vips] == [1]
    assert [row.id for row in first.vips] == [1, 2]


def test_vip_ids_are_not_given_away_in_the_change_that_frees_them() -> None:
    vips = tuple(vip(f"v{i}", i) for i in range(1, 1_024))
    registry, _ = plan(desired(1, vips=vips), Registry(), {}, None)
    with pytest.raises(Conflict, match="only 0 of 1023 ids"):
        plan(desired(1, vips=(*vips[1:], vip("new", 2_000))), registry, {}, None)
    registry, _ = plan(desired(1, vips=vips[1:]), registry, {}, None)
    registry, _ = plan(desired(1, vips=(*vips[1:], vip("new", 2_000))), registry, {}, None)
    assert not registry.known_vips


def test_vip_may_change_its_pool() -> None:
    base = desired(2, vips=(vip("v", 80),))
    pools = (*base.pools, Pool("other", {"b2": 1}))
    registry, before = plan(replace(base, pools=pools), Registry(), {}, None)
    moved = replace(base, pools=pools, vips=(vip("v", 80, "other"),))
    _, after = plan(moved, registry, {}, None)
    assert (before.vips[0].pool, after.vips[0].pool) == (0, 1)
    assert before.vips[0].id == after.vips[0].id


def test_pool_id_is_not_reused_in_the_change_that_frees_it() -> None:
    registry, _ = plan(desired(1), Registry(), {}, None)
    renamed = replace(desired(1), pools=(Pool("other", {"b1": 1}),))
    registry, image = plan(renamed, registry, {}, None)
    assert [row.id for row in image.pools] == [1]
    _, image = plan(replace(renamed, pools=(*renamed.pools, Pool("x", {}))), registry, {}, None)
    assert [row.id for row in image.pools] == [0, 1]


def test_empty_pool_has_slots_without_a_home() -> None:
    _, image = plan(desired(1, weights={}), Registry(), {}, None)
    assert shares(image.pools[0].slots) == {0: SLOTS}


def test_slot_key_decides_the_slots() -> None:
    other = replace(desired(2), director=replace(DIRECTOR, slot_key=bytes(16)))
    digests = {plan(d, Registry(), {}, None)[1].pools[0].digest for d in (desired(2), other)}
    assert len(digests) == 2


def test_next_hop_is_a_fact_of_the_address() -> None:
    registry, image = plan(desired(2), Registry(), {ip_address("10.0.0.1"): HOP}, None)
    assert [row.next_hop for row in image.backends] == [HOP, None]
    _, image = plan(desired([backend(2)]), registry, {ip_address("10.0.0.1"): HOP}, None)
    assert [row.next_hop for row in image.backends] == [HOP, None]
    assert addresses(desired([backend(7)]), registry) == {
        ip_address(f"10.0.0.{i}") for i in (1, 2, 7)
    }


@st.composite
def configurations(draw: st.DrawFn) -> Desired:
    numbers = sorted(draw(st.sets(st.integers(1, 6))))
    # A name may come back at another address.
    backends = [backend(i + 100 * draw(st.integers(0, 1)), f"b{i}") for i in numbers]
    pools = tuple(
        Pool(name, {b.name: draw(st.integers(0, 3)) for b in backends if draw(st.booleans())})
        for name in sorted(draw(st.sets(st.sampled_from("pqr"))))
    )
    ports = sorted(draw(st.sets(st.sampled_from([53, 80, 443])))) if pools else []
    vips = (vip(f"v{port}", port, draw(st.sampled_from(pools)).name) for port in ports)
    return Desired(DIRECTOR, tuple(backends), pools, tuple(vips))


@settings(max_examples=60)
@given(st.lists(st.tuples(configurations(), st.booleans()), min_size=2, max_size=6))
def test_laws_hold_over_any_history(history: list[tuple[Desired, bool]]) -> None:
    registry, image = Registry(), Image()
    for wanted, flows_end in history:
        identity = {row.id: row.address for row in image.backends}
        registry, following = plan(wanted, registry, {}, NONE if flows_end else None)
        rows = {row.id: row.address for row in following.backends}
        # A row that stays is the same machine; without an end of flows every row stays.
        assert all(rows[i] == address for i, address in identity.items() if i in rows)
        assert flows_end or identity.keys() <= rows.keys()
        used = {b.id for b in registry.backends.values()}
        assert all(set(shares(pool.slots)) <= used | {0} for pool in following.pools)
        assert {row.pool for row in following.vips} <= {row.id for row in following.pools}
        everyone = (*registry.backends.values(), *registry.lingering, *registry.known_backends)
        assert len({b.id for b in everyone}) == len(everyone)
        assert apply(image, diff(image, following)) == following
        image = following


def test_summary_says_what_changes_in_names_and_slots() -> None:
    old, before = plan(desired(2, vips=(vip("v1", 80), vip("v2", 443))), Registry(), {}, None)
    wanted = desired([backend(1), backend(3)], vips=(vip("v1", 80), vip("v3", 22)))
    new, after = plan(wanted, old, {}, None)
    found = summary(before, after, old, new)
    assert found.vips == Names(added=("v3",), removed=("v2",))
    assert found.backends == Names(added=("b3",), removed=("b2",))
    assert found.pools == Names(changed=("web",))
    assert found.moves[0].moves == (Move("b2", "b3", 32_768),)
    assert str(found) == (
        "+ VIP v3\n- VIP v2\n~ pool web\n+ backend b3\n- backend b2\n"
        "  pool web: weight of b2 1 -> 0, b3 0 -> 1\n"
        "  pool web: 32768 of 65536 slots move (50.00 %)\n    32768  b2 -> b3"
    )


def test_summary_of_nothing() -> None:
    registry, image = plan(desired(2, vips=(vip("v1", 80),)), Registry(), {}, None)
    found = summary(image, image, registry, registry)
    assert not found
    assert str(found) == "nothing changes"


def test_summary_tells_machines_of_one_name_apart() -> None:
    old, before = plan(desired(1), Registry(), {}, None)
    new, after = plan(desired([backend(9, "b1")]), old, {}, None)
    found = summary(before, after, old, new)
    assert found.backends == Names(changed=("b1",))
    assert found.moves[0].moves == (Move("b1@10.0.0.1", "b1", SLOTS),)


def test_render_shows_every_row() -> None:
    hops = {ip_address("10.0.0.1"): HOP, ip_address("10.0.0.2"): replace(HOP, mac=bytes(6))}
    registry, _ = plan(desired(3, vips=(vip("v1", 80),)), Registry(), hops, None)
    wanted = desired(2, {"b1": 1, "b2": 3}, vips=(vip("v1", 80), vip("v2", None)))
    registry, image = plan(wanted, registry, hops, None)
    digest = image.pools[0].digest
    assert render(image, registry) == (
        "backend    1 b1 10.0.0.1 ipip via ifindex 3 02:00:00:00:00:01 mtu 1500\n"
        "backend    2 b2 10.0.0.2 ipip via ifindex 3 unresolved mtu 1500\n"
        "backend    3 b3 10.0.0.3 ipip via kernel lingering\n"
        f"pool       0 web generation 2 digest {digest}: b1 16384, b2 49152; "
        "policy hash, then least-sessions\n"
        "vip        1 v1 192.0.2.1 tcp 80 pool web affinity client "
        "/32 split into 4096 from 1000 flows\n"
        "vip        2 v2 192.0.2.1 tcp all pool web affinity client "
        "/32 split into 4096 from 1000 flows\n"
    )
    assert render(Image(), Registry()) == ""
