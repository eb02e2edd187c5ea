# SPDX-License-Identifier: Apache-2.0
"""The laws of diff and apply, on any pair of images."""

from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_network

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core.diff import Changes, apply, diff, steps
from limpet.core.model import (
    SLOTS,
    Affinity,
    BackendId,
    BackendRow,
    Encapsulation,
    Image,
    NextHop,
    Policy,
    PoolId,
    PoolRow,
    Protocol,
    Slots,
    Standing,
    VipId,
    VipRow,
)
from limpet.core.slots import digest

addresses = st.one_of(
    st.integers(1, 3).map(lambda i: IPv4Address(0x0A00_0000 + i)),
    st.integers(1, 3).map(lambda i: IPv6Address((0x2001_0DB8 << 96) + i)),
)
next_hops = st.one_of(
    st.none(),
    st.builds(NextHop, st.integers(1, 2), st.just(bytes(6)), st.just(b"\x02" * 6), st.just(1_500)),
)


networks = st.sampled_from([ip_network("198.51.100.0/24"), ip_network("2001:db8:7::/48")])


def pool_row(number: int, generation: int, owners: list[int]) -> PoolRow:
    slots = repeated(tuple(owners))
    return PoolRow(PoolId(number), generation, slots, digest(slots))


@st.composite
def pool_rows(draw: st.DrawFn, number: int, backends: list[BackendId]) -> PoolRow:
    """A pool of these backends, some of which are left by their sessions."""
    owners = draw(st.lists(st.sampled_from([0, *backends]), min_size=1, max_size=3))
    some = st.lists(st.sampled_from(backends), unique=True).map(sorted) if backends else st.just([])
    return replace(
        pool_row(number, draw(st.integers(1, 2)), owners),
        members=tuple((each, draw(st.integers(1, 2))) for each in draw(some)),
        standing=tuple((each, Standing.RESET) for each in draw(some)),
        policy=draw(st.sampled_from(Policy)),
    )


@cache
def repeated(owners: tuple[int, ...]) -> Slots:
    return np.resize(np.array(owners, np.uint16), SLOTS)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """An image in which every slot has a row and every VIP a pool."""
    ids = st.sets(st.integers(1, 4))
    backends = tuple(
        BackendRow(BackendId(i), draw(addresses), draw(st.sampled_from(Encapsulation)), hop)
        for i, hop in ((i, draw(next_hops)) for i in sorted(draw(ids)))
    )
    with_row = [row.id for row in backends]
    pools = tuple(draw(pool_rows(i, with_row)) for i in sorted(draw(ids)))
    vips = tuple(
        VipRow(
            VipId(i),
            draw(addresses),
            draw(st.sampled_from(Protocol)),
            draw(st.sampled_from([None, 53, 443])),
            draw(st.sampled_from([row.id for row in pools])),
            draw(st.sampled_from(Affinity)),
        )
        for i in sorted(draw(ids) if pools else [])
    )
    return Image(backends, pools, vips, tuple(draw(st.lists(networks, max_size=1))))


def same(a: Image, b: Image) -> bool:
    """Equal, the very slots too."""
    slots = zip(a.pools, b.pools, strict=True) if len(a.pools) == len(b.pools) else []
    return a == b and all(np.array_equal(x.slots, y.slots) for x, y in slots)


LAW = settings(max_examples=80)


@LAW
@given(images())
def test_nothing_differs_from_itself(image: Image) -> None:
    assert diff(image, image) == Changes()
    assert not diff(image, image)


@LAW
@given(images(), images())
def test_applying_the_difference_gives_what_was_wanted(a: Image, b: Image) -> None:
    assert same(apply(a, diff(a, b)), b)
    assert bool(diff(a, b)) == (a != b)


@LAW
@given(images(), images())
def test_steps_one_by_one_give_the_same(a: Image, b: Image) -> None:
    image = a
    for step in steps(diff(a, b)):
        image = apply(image, step)
    assert same(image, b)


@LAW
@given(images(), images())
def test_nothing_dangles_between_the_steps(a: Image, b: Image) -> None:
    image = a
    for step in steps(diff(a, b)):
        image = apply(image, step)
        rows = {0, *(row.id for row in image.backends)}
        pools = {row.id for row in image.pools}
        assert all(vip.pool in pools for vip in image.vips)
        assert all(rows.issuperset(np.unique(pool.slots).tolist()) for pool in image.pools)
        assert all(rows.issuperset(i for i, _ in pool.members) for pool in image.pools)


@LAW
@given(images(), images())
def test_applying_twice_is_applying_once(a: Image, b: Image) -> None:
    changes = diff(a, b)
    assert apply(apply(a, changes), changes) == apply(a, changes)


def test_only_what_differs_is_written() -> None:
    rows = [
        BackendRow(BackendId(i), IPv4Address(f"10.0.0.{i}"), Encapsulation.IPIP) for i in (1, 2)
    ]
    a = Image((rows[0],), (pool_row(0, 1, [1]), pool_row(1, 1, [1])))
    b = Image(tuple(rows), (pool_row(0, 1, [1]), pool_row(1, 2, [1, 2])))
    assert diff(a, b) == Changes(backends_put=(rows[1],), pools_put=(b.pools[1],))
    assert diff(b, Image()) == Changes(
        pools_removed=(PoolId(0), PoolId(1)), backends_removed=(BackendId(1), BackendId(2))
    )


def test_same_generation_with_other_slots_is_written() -> None:
    a, b = Image(pools=(pool_row(0, 1, [0]),)), Image(pools=(pool_row(0, 1, [0, 1]),))
    assert diff(a, b).pools_put == b.pools


def test_any_field_of_a_pool_is_written() -> None:
    row = pool_row(0, 1, [1])
    for other in (
        replace(row, policy=Policy.ROUND_ROBIN),
        replace(row, reassign=Policy.HASH),
        replace(row, members=((BackendId(1), 2),)),
        replace(row, standing=((BackendId(1), Standing.RESET),)),
    ):
        assert diff(Image(pools=(row,)), Image(pools=(other,))) == Changes(pools_put=(other,))
