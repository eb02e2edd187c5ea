# SPDX-License-Identifier: Apache-2.0
"""What one director makes of an agreed table, and the marks that make up for the difference."""

from dataclasses import replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpet.core import agreement as agreement_of
from limpet.core.agreement import (
    AGES_MAX,
    Ages,
    Agreement,
    aged,
    decode,
    encode,
    settled,
    without_old,
)
from limpet.core.eligible import Assessment
from limpet.core.intent import Intents, PopDrain
from limpet.core.local_table import UNSURE_S, LocalTable, Surroundings, full, member
from limpet.core.model import (
    SLOT_BACKEND,
    SLOT_TELL,
    SLOT_UNSURE,
    Backend,
    BackendId,
    Desired,
    Director,
    Policy,
    Pool,
    PoolId,
    Pop,
    Prefer,
    Protocol,
    Vip,
)
from limpet.core.plan import agree, without_facts
from limpet.core.registry import Registry
from limpet.core.slots import homes, shares

KEY = bytes(range(16))
POPS = {"b1": "fra", "b2": "fra", "b3": "par", "b4": "ams"}
NOW = 1e9


def desired_of(weights: dict[str, int], prefer: Prefer = Prefer.ANY, full_at: int = 0) -> Desired:
    return Desired(
        director=Director("d", ("eth0",), slot_key=KEY),
        backends=tuple(
            Backend(name, ip_address(f"10.0.0.{name[1]}"), pop=pop, sessions_max=full_at)
            for name, pop in POPS.items()
        ),
        pools=(Pool("web", weights, prefer=prefer),),
        vips=(Vip("v", ip_address("192.0.2.1"), Protocol.TCP, 80, "web"),),
        pops=(Pop("fra", {"par": 10, "ams": 20}), Pop("par"), Pop("ams")),
    )


def agreed(desired: Desired, before: Agreement | None = None, at: float = 0.0) -> Agreement:
    base = before or Agreement(slot_key=KEY)
    registry, weights = agree(desired, base.registry, None, without_facts(desired))
    ages = {
        pool: aged(base.ages.get(pool, ()), table.generation, at)
        for pool, table in registry.tables.items()
    }
    return Agreement(1, "text", Intents(), KEY, registry, weights, ages)


def table_of(
    desired: Desired,
    agreement: Agreement,
    around: Surroundings = Surroundings(now=NOW),  # noqa: B008
    down: frozenset[str] = frozenset(),
) -> LocalTable:
    seen = {
        key: Assessment(0 if key[1] in down else each.weight, each.full_weight)
        for key, each in without_facts(desired).items()
    }
    return member(desired, agreement, seen, around)[PoolId(0)]


ALL = dict.fromkeys(POPS, 1)


def ids(agreement: Agreement, *names: str) -> set[BackendId]:
    return {agreement.registry.backends[name].id for name in names}


def test_where_all_is_as_agreed_the_table_is_the_agreed_one_without_marks() -> None:
    desired = desired_of(ALL)
    agreement = agreed(desired)
    found = table_of(desired, agreement)
    assert np.array_equal(found.slots, agreement.registry.tables[PoolId(0)].slots)


def test_a_backend_that_is_down_here_is_bypassed_and_that_is_told() -> None:
    desired = desired_of(ALL)
    agreement = agreed(desired)
    found = table_of(desired, agreement, down=frozenset({"b2"}))
    table = agreement.registry.tables[PoolId(0)]
    (gone,) = ids(agreement, "b2")
    assert set(shares(found.slots)) == ids(agreement, "b1", "b3", "b4")
    differs = table.slots == gone
    assert np.array_equal(homes(found.slots) != table.slots, differs)
    marks = np.where(differs, SLOT_TELL | SLOT_UNSURE, 0)
    assert np.array_equal(found.slots & ~np.uint16(SLOT_BACKEND), marks)
    assert found.homes != table.digest


@pytest.mark.parametrize(
    ("pop", "is_full", "down", "used"),
    [
        ("fra", set(), set(), {"b1", "b2"}),
        ("fra", {"b1"}, set(), {"b2"}),
        ("fra", {"b1"}, {"b2"}, {"b3"}),
        ("fra", set(), {"b1", "b2", "b3"}, {"b4"}),
        ("fra", {"b1", "b2", "b3", "b4"}, set(), {"b1", "b2"}),
        ("par", set(), set(), {"b3"}),
        ("par", set(), {"b3"}, {"b1", "b2", "b4"}),
    ],
)
def test_near_backends_first_then_by_cost(
    pop: str, is_full: set[str], down: set[str], used: set[str]
) -> None:
    desired = desired_of(ALL, Prefer.NEAR)
    agreement = agreed(desired)
    around = Surroundings(pop, full=frozenset(is_full), now=NOW)
    found = table_of(desired, agreement, around, frozenset(down))
    assert set(shares(found.slots)) == ids(agreement, *used)
    assert set(found.weights) == ids(agreement, *used)
    assert (found.slots & SLOT_UNSURE).all()
    assert (found.slots & SLOT_TELL).all()  # others place new sessions by what is near to them


def test_a_slot_stays_unsure_for_as_long_as_a_session_may_live_from_before_it_moved() -> None:
    desired = desired_of(ALL)
    first = agreed(desired, at=NOW - 1e7)
    after = desired_of({**ALL, "b4": 0})
    second = agreed(after, first, at=NOW)
    moved = agreement_of.moved(first.registry, second.registry)[PoolId(0)]
    for passed, is_marked in ((1.0, True), (UNSURE_S + 1_700, True), (UNSURE_S + 1_900, False)):
        found = table_of(after, second, Surroundings(now=NOW + passed))
        assert np.array_equal((found.slots & SLOT_UNSURE) > 0, moved & is_marked)
        assert not (found.slots & SLOT_TELL).any()


def test_slots_that_a_change_under_way_moves_are_told_and_asked_for() -> None:
    desired = desired_of(ALL)
    first = agreed(desired)
    second = agreed(desired_of({**ALL, "b4": 3}), first, at=NOW)
    found = table_of(desired, first, Surroundings(following=second.registry, now=NOW))
    moved = agreement_of.moved(first.registry, second.registry)[PoolId(0)]
    assert moved.any()
    assert np.array_equal((found.slots & SLOT_TELL) > 0, moved)
    assert np.array_equal((found.slots & SLOT_UNSURE) > 0, moved)
    assert np.array_equal(homes(found.slots), first.registry.tables[PoolId(0)].slots)


@pytest.mark.parametrize("policy", [Policy.ROUND_ROBIN, Policy.LEAST_SESSIONS])
def test_without_hash_no_slot_says_where_a_flow_is(policy: Policy) -> None:
    desired = desired_of(ALL)
    desired = replace(desired, pools=(replace(desired.pools[0], policy=policy),))
    found = table_of(desired, agreed(desired))
    assert (found.slots & SLOT_UNSURE).all()
    assert (found.slots & SLOT_TELL).all()


def test_where_another_directors_table_differs_nothing_is_sure() -> None:
    desired = desired_of(ALL)
    around = Surroundings(elsewhere=frozenset({"web"}), now=NOW)
    assert (table_of(desired, agreed(desired), around).slots & SLOT_UNSURE).all()


def test_full_is_what_all_directors_count_and_not_at_once_over() -> None:
    desired = desired_of(ALL, Prefer.NEAR, full_at=100)
    assert full(desired, [{"b1": 60}, {"b1": 39}], ()) == frozenset()
    assert full(desired, [{"b1": 60}, {"b1": 40}], ()) == {"b1"}
    assert full(desired, [{"b1": 90}], {"b1"}) == {"b1"}
    assert full(desired, [{"b1": 89}], {"b1"}) == frozenset()


# --- Ages and bytes ----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), max_size=40).map(sorted), st.floats(0, 1e6))
def test_leaving_ages_out_never_makes_a_slot_look_older(times: list[float], since: float) -> None:
    every: Ages = ()
    kept: Ages = ()
    for generation, at in enumerate(times * (AGES_MAX // 20), 1):
        every = (*every, (generation, at))
        kept = aged(kept, generation, at)
    assert len(kept) <= AGES_MAX
    assert settled(kept, since) <= settled(every, since)
    assert settled(without_old(kept, since), since) == settled(kept, since)


weights = st.fixed_dictionaries({name: st.integers(0, 5) for name in POPS})


@settings(max_examples=40)  # each packs and unpacks tables several times
@given(st.lists(weights, min_size=1, max_size=3), weights)
def test_what_is_written_is_read_back(changes: list[dict[str, int]], last: dict[str, int]) -> None:
    found: Agreement | None = None
    for number, each in enumerate([*changes, last]):
        found = agreed(desired_of(each), found, at=float(number))
    assert found is not None
    found = replace(
        found,
        intents=Intents(pop_drains={"fra": PopDrain("fra", 1.0, "ann")}),
        down=frozenset({("web", "b1")}),
    )
    data = encode(found)
    assert decode(data) == found
    assert encode(decode(data)) == data
    for damaged in (data[:-1], data[:40], b"", bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(ValueError, match="agreement"):
            decode(damaged)


def test_nothing_moves_between_pools_that_come_and_go() -> None:
    assert agreement_of.moved(Registry(), agreed(desired_of(ALL)).registry) == {}
