# SPDX-License-Identifier: Apache-2.0
"""What commands make of the intents, what they refuse, and what is in effect then."""

from dataclasses import replace

import pytest

from limpet.api.interface import DrainRequest
from limpet.core.config import parse
from limpet.core.errors import ConfigError, Conflict, NotFound
from limpet.core.health import Health
from limpet.core.intent import Drain, Intents
from limpet.core.model import AtDeadline, Desired, DrainRule
from limpet.daemon import effect, intents

NOW = 1_800_000_000.0
FILE = """
[director]
name = "d1"
interfaces = ["eth0"]

[[backend]]
name = "b1"
address = "10.10.0.11"

[[backend]]
name = "b2"
address = "10.10.0.12"

[[pool]]
name = "web"
backends = { b1 = 1, b2 = 3 }
slow_start_s = 10

[[vip]]
name = "web4"
address = "192.0.2.10"
protocol = "tcp"
port = 80
pool = "web"
"""


@pytest.fixture(scope="module")
def desired() -> Desired:
    return parse(FILE)


def draining(desired: Desired, name: str = "b1", **terms: object) -> Intents:
    request = replace(DrainRequest(), **terms)  # type: ignore[arg-type]
    return intents.drain(desired, Intents(), name, request, "anna", NOW).intents


def test_a_drain_names_who_asked_and_when_it_is_over(desired: Desired) -> None:
    request = DrainRequest(DrainRule.FLOWS, 3_600, AtDeadline.RESET)
    change = intents.drain(desired, Intents(), "b1", request, "anna", NOW)
    assert change.intents.drains["b1"] == Drain(
        "b1", NOW, "anna", DrainRule.FLOWS, NOW + 3_600, AtDeadline.RESET
    )
    assert change.what == "drain b1 (rule flows, reset after 1 h)"
    assert [event["kind"] for event in change.events] == ["drain_began"]


def test_asking_for_what_is_so_changes_nothing(desired: Desired) -> None:
    begun = draining(desired)
    assert intents.drain(desired, begun, "b1", DrainRequest(), "bert", NOW + 9).intents == begun
    weighed = intents.weight(desired, Intents(), ("web", "b1"), 5, "anna", NOW).intents
    assert intents.weight(desired, weighed, ("web", "b1"), 5, "bert", NOW).intents == weighed
    assert intents.weight(desired, Intents(), ("web", "b1"), None, "a", NOW).intents == Intents()


def test_new_terms_of_a_drain_keep_who_began_it_and_when(desired: Desired) -> None:
    begun = draining(desired)
    later = intents.drain(desired, begun, "b1", DrainRequest(None, 60), "bert", NOW + 100)
    drain = later.intents.drains["b1"]
    assert (drain.began, drain.by, drain.deadline) == (NOW, "anna", NOW + 160)


def test_a_drained_backend_has_no_terms_to_change(desired: Desired) -> None:
    drain = Drain("b1", NOW, "anna", drained=NOW + 5)
    ended = Intents(drains={"b1": drain})
    assert intents.drain(desired, ended, "b1", DrainRequest(), "a", NOW + 65).intents == ended
    with pytest.raises(Conflict, match="drained already, for 1 min"):
        intents.drain(desired, ended, "b1", DrainRequest(deadline_s=1), "anna", NOW + 65)


def test_what_does_not_exist_is_refused_with_what_does(desired: Desired) -> None:
    with pytest.raises(NotFound, match=r"no backend 'b9'; backends: b1, b2"):
        draining(desired, "b9")
    with pytest.raises(NotFound, match=r"no backend 'b9'; backends: b1, b2"):
        intents.undrain(desired, Intents(), "b9", "anna", NOW)
    with pytest.raises(Conflict, match=r"'b2' is not draining; draining: b1"):
        intents.undrain(desired, draining(desired), "b2", "anna", NOW)
    with pytest.raises(NotFound, match=r"no pool 'db'; pools: web"):
        intents.weight(desired, Intents(), ("db", "b1"), 1, "anna", NOW)
    with pytest.raises(NotFound, match=r"no backend 'b9' in pool 'web'; it has: b1, b2"):
        intents.weight(desired, Intents(), ("web", "b9"), 1, "anna", NOW)


@pytest.mark.parametrize("value", [-1, 65_536])
def test_a_weight_out_of_range_is_refused(desired: Desired, value: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 65535"):
        intents.weight(desired, Intents(), ("web", "b1"), value, "anna", NOW)


@pytest.mark.parametrize("seconds", [-1.0, 365 * 86_400 + 1, 1e12, float("nan")])
def test_a_deadline_that_is_no_time_is_refused(desired: Desired, seconds: float) -> None:
    with pytest.raises(ConfigError, match="is no time to wait"):
        draining(desired, deadline_s=seconds)


def test_intents_of_a_backend_that_a_reload_removed_can_be_taken_back(desired: Desired) -> None:
    old = Intents(drains={"b9": Drain("b9", NOW, "anna")}, weights={("web", "b9"): 1})
    assert intents.undrain(desired, old, "b9", "anna", NOW).intents.drains == {}
    taken = intents.weight(desired, old, ("web", "b9"), None, "anna", NOW)
    assert taken.intents.weights == {}


def test_a_drain_that_people_changed_meanwhile_does_not_end(desired: Desired) -> None:
    begun = draining(desired)
    done = replace(begun.drains["b1"], drained=NOW + 5)
    event = {"kind": "drained"}
    assert intents.drained(begun, [(done, event)]).intents.drains["b1"] == done
    other = draining(desired, deadline_s=60)
    for meanwhile in (Intents(), other):
        change = intents.drained(meanwhile, [(done, event)])
        assert (change.intents, change.events) == (meanwhile, ())


def test_a_rollback_begins_old_drains_anew_and_leaves_those_that_go_on(desired: Desired) -> None:
    old = Intents(
        drains={
            "b1": Drain("b1", NOW - 1_000, "anna", deadline=NOW - 400),
            "b2": Drain("b2", NOW - 900, "anna"),
        },
        weights={("web", "b1"): 7},
    )
    on = replace(old.drains["b2"], drained=NOW - 100)
    change = intents.rolled_back(Intents(drains={"b2": on}), old, 3, "bert", NOW)
    again = change.intents.drains["b1"]
    assert (again.began, again.deadline, again.by) == (NOW, NOW + 600, "bert")
    assert change.intents.drains["b2"] == on
    assert change.intents.weights == {("web", "b1"): 7}


# --- Effect --------------------------------------------------------------------------------------


def weights(found: effect.Effect) -> dict[str, int]:
    return {backend: each.weight for (_, backend), each in found.assessments.items()}


def test_at_the_first_look_nobody_starts_slowly(desired: Desired) -> None:
    first = effect.weigh(None, desired, (0, Intents()), {}, NOW)
    assert weights(first) == {"b1": 1, "b2": 3}
    assert first.until is None


def test_a_backend_that_comes_back_starts_slowly_and_says_when_it_goes_on(
    desired: Desired,
) -> None:
    first = effect.weigh(None, desired, (0, Intents()), {}, NOW)
    out = effect.weigh(first, desired, (1, draining(desired, "b2")), {}, NOW + 1)
    assert weights(out) == {"b1": 1, "b2": 0}
    back = effect.weigh(out, desired, (2, Intents()), {}, NOW + 2)
    assert back.assessments[("web", "b2")].share == pytest.approx(0.1)
    assert back.until == NOW + 3
    done = effect.weigh(back, desired, (2, Intents()), {}, NOW + 12)
    assert weights(done) == {"b1": 1, "b2": 3}


def test_a_draining_backend_is_excluded_since_the_kernel_has_it(desired: Desired) -> None:
    first = effect.applied(effect.weigh(None, desired, (0, Intents()), {}, NOW), NOW)
    begun = effect.weigh(first, desired, (1, draining(desired)), {}, NOW + 1)
    assert begun.excluded == {}
    there = effect.applied(begun, NOW + 2)
    assert there.excluded == {"b1": NOW + 2}
    later = effect.weigh(there, desired, (1, draining(desired)), {}, NOW + 3)
    assert effect.applied(later, NOW + 4).excluded == {"b1": NOW + 2}
    back = effect.applied(effect.weigh(later, desired, (2, Intents()), {}, NOW + 5), NOW + 6)
    assert back.excluded == {}


def test_health_and_intent_stay_apart(desired: Desired) -> None:
    """A check that nobody configured takes nobody out."""
    health = {("web", "b1"): Health(False, NOW, "refused")}
    found = effect.weigh(None, desired, (0, Intents()), health, NOW)
    assert weights(found) == {"b1": 1, "b2": 3}
    assert found.health == health
