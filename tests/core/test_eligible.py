# SPDX-License-Identifier: Apache-2.0
"""Who gets new sessions and who loses old ones follows from file, intents and health, in words."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.eligible import Assessment, assess, stamp
from limpet.core.health import Health
from limpet.core.intent import Drain, Intents
from limpet.core.model import (
    AtDeadline,
    Backend,
    Desired,
    Director,
    DrainRule,
    HealthCheck,
    OnDown,
    Pool,
    Standing,
)

NOW = 1_800_000_000.0
POOL = Pool("web", {"b1": 10, "b2": 10, "b3": 0}, health=HealthCheck(), hold_s=30)
NORMAL, LEFT = Standing.NORMAL, Standing.LEFT_BY_SESSIONS


def desired(*pools: Pool) -> Desired:
    names = sorted({name for pool in pools for name in pool.weights})
    backends = tuple(Backend(n, ip_address(f"10.0.0.{i}")) for i, n in enumerate(names, start=1))
    return Desired(Director("d1", ("eth0",)), backends, pools)


def of_b1(
    pool: Pool = POOL,
    drain: Drain | None = None,
    health: Mapping[str, Health] | None = None,
    weight: int | None = None,
    came: float | None = None,
) -> Assessment:
    """What becomes of b1."""
    intents = Intents(
        {drain.backend: drain} if drain else {}, {} if weight is None else {("web", "b1"): weight}
    )
    found = assess(
        desired(pool),
        intents,
        {("web", name): each for name, each in (health or {}).items()},
        NOW,
        {} if came is None else {("web", "b1"): came},
    )
    return found[("web", "b1")]


def down(since: float = NOW - 10, is_suppressed: bool = False) -> Health:
    return Health(False, since, "connection refused", is_suppressed, NOW)


UP = Health(True, NOW - 100, "", False, NOW)


def test_backend_without_intent_and_check_has_the_weight_of_the_file() -> None:
    assert of_b1() == Assessment(10, 10)
    assert of_b1(health={"b1": UP}) == Assessment(10, 10)


def test_weight_by_command_beats_that_of_the_file() -> None:
    found = of_b1(weight=3)
    assert (found.weight, found.full_weight) == (3, 3)
    assert found.reasons == ("weight 3 by command, 10 in the file",)
    assert of_b1(weight=0).weight == 0


def test_weight_0_moves_no_session() -> None:
    found = assess(desired(POOL), Intents(), {}, NOW, {})[("web", "b3")]
    assert found == Assessment(0, 0, NORMAL, ("weight 0",))


@pytest.mark.parametrize(
    ("of_pool", "of_drain", "standing"),
    [
        (DrainRule.SESSIONS, None, NORMAL),
        (DrainRule.FLOWS, None, LEFT),
        (DrainRule.SESSIONS, DrainRule.FLOWS, LEFT),
        (DrainRule.FLOWS, DrainRule.SESSIONS, NORMAL),
    ],
)
def test_draining_backend_gets_nothing_and_keeps_by_the_rule(
    of_pool: DrainRule, of_drain: DrainRule | None, standing: Standing
) -> None:
    found = of_b1(replace(POOL, drain=of_pool), Drain("b1", NOW - 5, "ann", of_drain))
    assert (found.weight, found.full_weight, found.standing) == (0, 10, standing)
    assert found.reasons == (f"draining since {stamp(NOW - 5)}",)
    assert found.until is None


def test_drained_backend_is_left_by_its_sessions() -> None:
    found = of_b1(drain=Drain("b1", NOW - 90, "ann", drained=NOW - 7))
    assert (found.weight, found.standing) == (0, LEFT)
    assert found.reasons == (f"drained since {stamp(NOW - 7)}",)


@pytest.mark.parametrize("at", AtDeadline)
def test_deadline_is_when_the_answer_changes(at: AtDeadline) -> None:
    drain = Drain("b1", NOW - 90, "ann", deadline=NOW + 2, at_deadline=at)
    before = of_b1(drain=drain)
    assert (before.standing, before.until) == (NORMAL, NOW + 2)
    after = of_b1(drain=replace(drain, deadline=NOW))
    reset = Standing.RESET if at is AtDeadline.RESET else NORMAL
    assert (after.weight, after.standing, after.until) == (0, LEFT | reset, None)
    done = of_b1(drain=replace(drain, deadline=NOW, drained=NOW))
    assert done.standing == LEFT


@pytest.mark.parametrize(
    ("on_down", "after"),
    [
        (OnDown.HOLD, NORMAL),
        (OnDown.RESET, Standing.RESET),
        (OnDown.REHASH, Standing.LEFT_BY_FLOWS),
    ],
)
def test_down_backend_is_held_and_then_left(on_down: OnDown, after: Standing) -> None:
    pool = replace(POOL, on_down=on_down)
    held = of_b1(pool, health={"b1": down(NOW - 29)})
    assert (held.weight, held.standing) == (0, LEFT)
    assert held.until == (NOW + 1 if after else None)
    assert held.reasons == ("down: connection refused",)
    over = of_b1(pool, health={"b1": down(NOW - 30)})
    assert (over.standing, over.until) == (LEFT | after, None)


def test_suppressed_backend_loses_no_flow() -> None:
    found = of_b1(health={"b1": down(NOW - 1_000, is_suppressed=True)})
    assert (found.weight, found.standing, found.until) == (0, LEFT, None)
    answers = Health(True, NOW - 1_000, "", is_suppressed=True)
    assert of_b1(health={"b1": answers}).standing == LEFT


def test_health_without_a_check_is_nobodys() -> None:
    assert of_b1(replace(POOL, health=None), health={"b1": down()}) == Assessment(10, 10)


def test_drain_and_down_add_up() -> None:
    found = of_b1(drain=Drain("b1", NOW, "ann", deadline=NOW + 50), health={"b1": down()})
    assert (found.standing, found.until) == (LEFT, NOW + 20)
    assert [reason.split()[0] for reason in found.reasons] == ["draining", "down:"]
    over = Drain("b1", NOW - 9, "ann", deadline=NOW, at_deadline=AtDeadline.RESET)
    assert of_b1(drain=over, health={"b1": down()}).standing == LEFT | Standing.RESET


def test_fail_open_uses_all_when_all_are_down() -> None:
    pool = replace(POOL, fail_open=True)
    everybody = {"b1": down(), "b2": down(NOW - 500), "b3": UP}
    found = of_b1(pool, health=everybody)
    assert (found.weight, found.standing, found.until) == (10, NORMAL, None)
    assert "fail-open" in found.reasons[0]
    assert of_b1(pool, health={"b1": down()}).weight == 0  # b2 is up
    assert of_b1(POOL, health=everybody).weight == 0  # not asked for


def test_fail_open_looks_at_active_backends_only_and_spares_no_drain() -> None:
    pool = replace(POOL, fail_open=True)
    for of_the_draining_one in (down(NOW - 99), UP):
        found = assess(
            desired(pool),
            Intents({"b1": Drain("b1", NOW, "ann")}),
            {("web", "b1"): of_the_draining_one, ("web", "b2"): down(NOW - 99)},
            NOW,
            {},
        )
        assert found[("web", "b2")].weight == 10
        assert (found[("web", "b1")].weight, found[("web", "b1")].standing) == (0, NORMAL)


def test_nobody_active_is_no_reason_to_fail_open() -> None:
    pool = Pool("web", {"b1": 0}, health=HealthCheck(), fail_open=True)
    found = of_b1(pool, health={"b1": down()})
    assert (found.weight, found.standing) == (0, LEFT)


def test_slow_start_rises_from_a_tenth_by_the_second() -> None:
    pool = replace(POOL, weights={"b1": 1_000}, slow_start_s=90)
    seen = [of_b1(pool, came=NOW - age) for age in (0, 0.9, 1, 45, 89.5, 90)]
    assert [each.weight for each in seen] == [100, 100, 110, 550, 990, 1_000]
    assert [each.until for each in seen] == [
        NOW + 1,
        NOW - 0.9 + 1,
        NOW + 1,
        NOW + 1,
        NOW + 0.5,
        None,
    ]
    assert seen[3].reasons == ("slow start 55 %",)
    assert of_b1(pool, came=NOW + 5).weight == 100  # the clock was set back


def test_slow_start_is_never_nothing() -> None:
    pool = replace(POOL, weights={"b1": 1}, slow_start_s=100)
    found = of_b1(pool, came=NOW)
    assert found.weight == 1
    assert found.share == pytest.approx(0.1)


def test_intents_for_unknown_names_have_no_effect() -> None:
    intents = Intents({"b9": Drain("b9", NOW, "ann")}, {("web", "b9"): 5, ("old", "b1"): 5})
    found = assess(desired(POOL), intents, {}, NOW, {})
    assert found.keys() == {("web", "b1"), ("web", "b2"), ("web", "b3")}
    assert found[("web", "b1")] == Assessment(10, 10)


def test_each_pool_is_by_itself() -> None:
    other = Pool("api", {"b1": 4}, health=HealthCheck())
    found = assess(desired(POOL, other), Intents(), {("api", "b1"): down()}, NOW, {})
    assert found[("web", "b1")].weight == 10
    assert found[("api", "b1")].weight == 0


drains = st.builds(
    Drain,
    st.just("b1"),
    st.just(NOW - 50),
    st.just("ann"),
    st.none() | st.sampled_from(DrainRule),
    st.none() | st.floats(NOW - 40, NOW + 40),
    st.sampled_from(AtDeadline),
    st.none() | st.floats(NOW - 40, NOW),
)
healths = st.builds(
    Health, st.booleans(), st.floats(NOW - 60, NOW), st.just("why"), st.booleans(), st.just(NOW)
)
pools = st.builds(
    replace,
    st.just(POOL),
    weights=st.fixed_dictionaries({"b1": st.integers(0, 20), "b2": st.integers(0, 2)}),
    drain=st.sampled_from(DrainRule),
    slow_start_s=st.integers(0, 60),
    hold_s=st.integers(0, 60),
    on_down=st.sampled_from(OnDown),
    fail_open=st.booleans(),
)


@given(pools, st.none() | drains, st.none() | healths, st.floats(NOW - 70, NOW), st.floats(0, 1))
def test_answer_holds_until_it_says(
    pool: Pool, drain: Drain | None, health: Health | None, came: float, part: float
) -> None:
    """Nothing changes by itself before `until`, and every zero and every standing has a reason."""

    def at(now: float) -> Assessment:
        return assess(
            desired(pool),
            Intents({"b1": drain} if drain else {}),
            {("web", "b1"): health} if health else {},
            now,
            {("web", "b1"): came},
        )[("web", "b1")]

    found = at(NOW)
    assert found.until is None or found.until > NOW
    later = NOW + 10_000 if found.until is None else NOW + part * (found.until - NOW) * 0.999
    assert at(later) == found
    assert found.reasons or (found.weight == found.full_weight and not found.standing)
    assert (found.weight == 0) or drain is None
