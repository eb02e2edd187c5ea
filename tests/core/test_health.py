# SPDX-License-Identifier: Apache-2.0
"""The laws of the health machine: rise and fall, damping, and what is said about both."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from limpet.core import health
from limpet.core.health import Health, Track, begin, observe, settle, suppressed_s

RISE, FALL = 2, 3
START = 1_000_000.0

results = st.lists(st.tuples(st.booleans(), st.floats(0.01, 600.0)), max_size=60)


def fed(track: Track, answers: str, now: float = START, step_s: float = 2.0) -> Track:
    """The state after answers such as "gbb", one each `step_s`."""
    for number, answer in enumerate(answers):
        track = observe(
            track,
            is_good=answer == "g",
            reason="answers" if answer == "g" else "timed out after 1 s",
            rise=RISE,
            fall=FALL,
            now=now + number * step_s,
        )
    return track


def counts(track: Track, now: float = START) -> bool:
    return health.health(track, now).is_up


def test_unknown_counts_as_up() -> None:
    found = health.health(begin(START), START)
    assert found == Health(True, START, "not checked yet", False, None)


def test_unknown_stays_up_until_fall_results_are_bad() -> None:
    assert counts(fed(begin(START), "bb"))
    assert not counts(fed(begin(START), "bbb"))


def test_first_verdict_is_no_flap() -> None:
    assert fed(begin(START), "bbb").penalty == 0
    assert fed(begin(START), "ggbbb").penalty > 0


def test_state_from_before_is_kept_until_results_say_otherwise() -> None:
    before = Health(False, START - 50, "connection refused", False, START - 1)
    track = begin(START, before)
    assert health.health(track, START) == before
    assert not counts(fed(track, "g"))
    assert counts(fed(track, "gg"))


def test_one_good_answer_between_bad_ones_keeps_it_up() -> None:
    assert counts(fed(begin(START), "ggbbgbbgbb"))


def test_one_bad_answer_between_good_ones_keeps_it_down() -> None:
    assert not counts(fed(begin(START), "bbbgbgbgb"))


def test_reason_is_that_of_the_last_bad_answer() -> None:
    track = fed(begin(START), "bbb")
    track = observe(
        track, is_good=False, reason="connection refused", rise=RISE, fall=FALL, now=START + 9
    )
    assert health.health(track, START + 9).reason == "connection refused"


def test_since_is_when_it_changed_not_when_it_was_checked() -> None:
    track = fed(begin(START), "bbbbbb")
    found = health.health(track, START + 20)
    assert (found.since, found.checked) == (START + 4, START + 10)


def test_flapping_suppresses_and_time_alone_ends_it() -> None:
    track = fed(begin(START), "gg" + "bbbgg" * 5, step_s=1.0)
    end = START + 27
    found = health.health(track, end)
    assert track.is_up
    assert found.is_suppressed
    assert not found.is_up
    left = suppressed_s(track, end)
    assert f"suppressed for another {-int(-left // 1)} s; answers well now" in found.reason
    assert not counts(track, end + left - 0.1)
    assert counts(track, end + left + 0.1)
    assert settle(track, end + left + 0.1).since == end + left + 0.1


def test_suppressed_and_bad_says_both() -> None:
    track = fed(begin(START), "gg" + "bbbgg" * 4 + "bbb", step_s=1.0)
    found = health.health(track, START + 25)
    assert found.is_suppressed
    assert found.reason.endswith("timed out after 1 s")


def test_two_outages_in_a_row_are_not_suppressed() -> None:
    """As a restart of the service, and another because the first went wrong."""
    track = fed(begin(START), "gg" + "bbbgg" * 2, step_s=1.0)
    assert counts(track, START + 12)


def test_clock_set_back_does_not_prolong_suppression() -> None:
    track = fed(begin(START), "gg" + "bbbgg" * 5, step_s=1.0)
    day_before = START - 86_400
    left = suppressed_s(track, START + 27)
    back = settle(track, day_before)
    assert not counts(back, day_before + left - 1)
    assert counts(back, day_before + left + 1 + 5)  # the last change was up to 5 s ago


def test_endless_flapping_is_suppressed_for_three_half_lives_only() -> None:
    track = fed(begin(START), "gg" + "bbbgg" * 200, step_s=0.1)
    end = START + 100.1
    assert health.HALF_LIFE_S < suppressed_s(track, end) <= 3 * health.HALF_LIFE_S


def test_change_of_a_state_from_before_is_a_change() -> None:
    before = Health(False, START - 50, "connection refused", False, START - 1)
    assert fed(begin(START, before), "gg").penalty == health.PENALTY


@given(results)
def test_suppression_is_bounded(answers: list[tuple[bool, float]]) -> None:
    """However long it flapped, three half-lives without a change end it."""
    track, now = begin(START), START
    for is_good, gap in answers:
        now += gap
        track = observe(track, is_good=is_good, reason="x", rise=1, fall=1, now=now)
        assert 0 <= track.penalty <= health.PENALTY_MAX
    limit = 3 * health.HALF_LIFE_S
    assert not settle(track, now + limit + 0.001).is_suppressed


@given(results, st.integers(1, 5), st.integers(1, 5))
def test_verdict_changes_only_after_as_many_results_as_it_takes(
    answers: list[tuple[bool, float]], rise: int, fall: int
) -> None:
    """An oracle that looks at the last results only."""
    track, now, is_up, seen = begin(START), START, True, list[bool]()
    for is_good, gap in answers:
        now += gap
        seen.append(is_good)
        track = observe(track, is_good=is_good, reason="x", rise=rise, fall=fall, now=now)
        if is_up and len(seen) >= fall and not any(seen[-fall:]):
            is_up = False
        elif not is_up and len(seen) >= rise and all(seen[-rise:]):
            is_up = True
        assert track.is_up == is_up
        assert track.counts_as_up == (is_up and not track.is_suppressed)


@given(results)
def test_steady_answers_end_in_their_verdict(answers: list[tuple[bool, float]]) -> None:
    """Whatever came before, good answers for long make it up, and bad ones down."""
    track, now = begin(START), START
    for is_good, gap in answers:
        now += gap
        track = observe(track, is_good=is_good, reason="x", rise=RISE, fall=FALL, now=now)
    assert counts(fed(track, "g" * 100, now, 5.0), now + 500)
    assert not counts(fed(track, "bbb", now), now + 6)


@given(results, st.floats(0, 1_000), st.floats(0, 1_000))
def test_settling_in_steps_is_settling_at_once(
    answers: list[tuple[bool, float]], first: float, second: float
) -> None:
    """How often somebody looks changes nothing, but for when the end was noticed."""
    track, now = begin(START), START
    for is_good, gap in answers:
        now += gap
        track = observe(track, is_good=is_good, reason="x", rise=1, fall=1, now=now)
    at_once = settle(track, now + first + second)
    in_steps = settle(settle(track, now + first), now + first + second)
    assert replace(at_once, since=0) == replace(in_steps, since=0)
