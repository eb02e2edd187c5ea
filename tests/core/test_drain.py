# SPDX-License-Identifier: Apache-2.0
"""When a drain ends, whatever scans say in whatever order; and how its end is estimated."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.core.drain import (
    RATE_WINDOW_S,
    RESET_WAIT_S,
    SAMPLES_MAX,
    Counts,
    Event,
    State,
    Watch,
    advance,
    estimated_end_s,
    leaving_per_s,
    rule_of,
    state,
)
from limpet.core.intent import Drain
from limpet.core.model import AtDeadline, DrainRule

BEGAN = 1_000.0
NOBODY = Counts(0, 0)


def watch(rule: DrainRule = DrainRule.SESSIONS, **drain: object) -> Watch:
    return Watch(replace(Drain("b1", BEGAN, "anna"), **drain), rule)  # type: ignore[arg-type]


def run(begun: Watch, scans: list[Counts], step_s: float = 1.0) -> tuple[Watch, list[Event]]:
    """Scans one after another, each `step_s` later."""
    events: list[Event] = []
    for number, counts in enumerate(scans, 1):
        begun, new = advance(begun, counts, BEGAN + number * step_s)
        events += new
    return begun, events


counted = st.builds(
    Counts,
    sessions=st.integers(0, 3),
    flows=st.integers(0, 3),
    connections=st.integers(0, 3),
    is_conclusive=st.booleans(),
)
rules = st.sampled_from(DrainRule)


@given(rules, st.lists(counted, max_size=20))
def test_a_drain_ends_with_the_second_of_two_scans_in_a_row_that_find_nobody(
    rule: DrainRule, scans: list[Counts]
) -> None:
    """Against a plain search through the list of scans."""

    def is_empty(counts: Counts) -> bool:
        who = counts.flows + (counts.sessions if rule is DrainRule.SESSIONS else 0)
        return counts.is_conclusive and who == 0

    pairs = [i for i in range(1, len(scans)) if is_empty(scans[i - 1]) and is_empty(scans[i])]
    ended, events = run(watch(rule), scans)
    if pairs:
        assert ended.drain.drained == BEGAN + pairs[0] + 1
        assert [(event["kind"], event["why"]) for event in events] == [("drained", "empty")]
    else:
        assert ended.drain.drained is None
        assert events == []


@given(rules, st.lists(counted, min_size=1, max_size=20), st.sampled_from(AtDeadline))
def test_a_drain_with_a_deadline_always_ends_and_only_once(
    rule: DrainRule, scans: list[Counts], at_deadline: AtDeadline
) -> None:
    begun = watch(rule, deadline=BEGAN + 5, at_deadline=at_deadline)
    late = [Counts(9, 9, 9)] * int(5 + RESET_WAIT_S + 1)
    ended, events = run(begun, scans + late)
    assert ended.drain.drained is not None
    assert len(events) == 1


@given(st.lists(counted, max_size=10))
def test_scans_of_one_drain_change_nothing_but_its_own_end(scans: list[Counts]) -> None:
    """Who asked, since when, by what rule: that stays as it was asked."""
    begun = watch(deadline=BEGAN + 4)
    ended, _ = run(begun, scans)
    assert replace(ended.drain, drained=None) == begun.drain


def test_at_a_deadline_to_keep_those_who_are_left_are_named_and_stay() -> None:
    begun = watch(deadline=BEGAN + 2)
    ended, events = run(begun, [Counts(7, 9, 9), Counts(5, 6, 6)])
    assert ended.drain.drained == BEGAN + 2
    assert (events[0]["why"], events[0]["sessions_left"], events[0]["flows_left"]) == (
        "deadline",
        5,
        6,
    )


def test_at_a_deadline_to_reset_it_waits_for_connections_not_for_datagrams() -> None:
    begun = watch(deadline=BEGAN + 1, at_deadline=AtDeadline.RESET)
    resetting, events = run(begun, [Counts(5, 6, 4), Counts(5, 6, 1)])
    assert state(resetting.drain, BEGAN + 2) is State.RESETTING
    assert events == []
    ended, events = run(begun, [Counts(5, 6, 4), Counts(5, 2, 0), Counts(5, 2, 0)])
    assert state(ended.drain, BEGAN + 3) is State.DRAINED
    assert events[0]["why"] == "reset"


def test_connections_that_no_reset_can_end_do_not_hold_it_for_ever() -> None:
    begun = watch(deadline=BEGAN, at_deadline=AtDeadline.RESET)
    wait = int(RESET_WAIT_S)
    ended, events = run(begun, [Counts(1, 1, 1)] * (wait - 1))
    assert ended.drain.drained is None
    ended, events = run(begun, [Counts(1, 1, 1)] * wait)
    assert events[0]["why"] == "reset-timeout"


def test_a_drain_without_a_deadline_waits_as_long_as_it_takes() -> None:
    ended, _ = run(watch(), [Counts(1, 0)] * 5, step_s=1e6)
    assert ended.drain.drained is None


def test_a_scan_that_began_too_early_proves_nothing() -> None:
    early = replace(NOBODY, is_conclusive=False)
    assert run(watch(), [early, NOBODY])[0].drain.drained is None
    assert run(watch(), [NOBODY, early, NOBODY])[0].drain.drained is None
    assert run(watch(), [early, NOBODY, NOBODY])[0].drain.drained is not None


@pytest.mark.parametrize(
    ("asked", "pools", "holds"),
    [
        (None, {}, DrainRule.SESSIONS),
        (None, {"a": DrainRule.FLOWS}, DrainRule.FLOWS),
        (None, {"a": DrainRule.FLOWS, "b": DrainRule.SESSIONS}, DrainRule.SESSIONS),
        (DrainRule.FLOWS, {"a": DrainRule.SESSIONS}, DrainRule.FLOWS),
        (DrainRule.SESSIONS, {"a": DrainRule.FLOWS}, DrainRule.SESSIONS),
    ],
)
def test_the_rule_that_lets_more_stay_holds(
    asked: DrainRule | None, pools: dict[str, DrainRule], holds: DrainRule
) -> None:
    assert rule_of(Drain("b1", BEGAN, "anna", rule=asked), pools) is holds


@given(st.integers(1, 50), st.integers(2, 300))
def test_an_even_rate_of_leaving_is_found_at_any_length(rate: int, scans: int) -> None:
    left = [Counts(rate * (scans - i), 0) for i in range(scans)]
    seen, _ = run(watch(), left)
    assert leaving_per_s(seen) == pytest.approx(rate)
    assert estimated_end_s(seen, BEGAN + scans) == pytest.approx(1)
    assert len(seen.samples) <= SAMPLES_MAX
    assert seen.at_start == left[0]


def test_the_rate_forgets_what_was_before_its_window() -> None:
    quiet = int(RATE_WINDOW_S) + 1
    seen, _ = run(watch(), [Counts(1_000, 0), *[Counts(10, 0)] * quiet])
    assert leaving_per_s(seen) == 0
    assert estimated_end_s(seen, BEGAN) is None


def test_the_deadline_bounds_the_estimate() -> None:
    seen, _ = run(watch(deadline=BEGAN + 12), [Counts(100, 0), Counts(99, 0)])
    assert estimated_end_s(seen, BEGAN + 2) == 10
