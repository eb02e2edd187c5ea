# SPDX-License-Identifier: Apache-2.0
"""`limpet backend drain` and `undrain`: what an operator sees, and what is refused."""

import json
import time
from datetime import datetime

import pytest

from cli.memory import now_iso
from cli.operator import Operator
from limpet.cli import progress
from limpet.daemon import draining


def test_drain_says_who_is_there_and_how_to_take_it_back(operator: Operator) -> None:
    text = operator.reads("backend", "drain", "b1", "--deadline", "1h30m", "--at-deadline", "reset")
    assert "b1 drains: 12 sessions and 30 flows are there; those left at 20" in text
    assert "are reset (revision 1; `limpet backend undrain b1` takes it back)" in text
    drain = operator.director.draining["b1"]
    began, deadline = (datetime.fromisoformat(drain[key]) for key in ("began", "deadline"))
    assert (deadline - began).total_seconds() == pytest.approx(5_400, abs=0.1)
    assert (drain["at_deadline"], drain["rule"]) == ("reset", None)
    assert "(root)" in drain["by"] or "uid" in drain["by"]


def test_drain_as_json_has_the_revision(operator: Operator) -> None:
    found = operator.json("backend", "drain", "b1", "--rule", "flows")
    assert (found["revision"], found["backend"], found["is_changed"]) == (1, "b1", True)
    assert operator.director.draining["b1"]["rule"] == "flows"


def test_dry_run_changes_nothing_and_says_where_new_sessions_go(operator: Operator) -> None:
    assert operator.reads("backend", "drain", "b1", "--dry-run") == (
        "b1 has 12 sessions, which stay\n"
    )
    assert operator.json("backend", "drain", "b1", "--dry-run")["last_active_in"] == []
    assert operator.director.draining == {}


def test_a_drain_that_is_on_says_since_when_and_by_whom(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    began = operator.director.draining["b1"]["began"]
    text = operator.reads("backend", "drain", "b1")
    assert f"b1 is being drained already, since {began[:10]} {began[11:19]}" in text
    assert "by uid 0 (root); nothing was changed" in text
    assert not operator.json("backend", "drain", "b1")["is_changed"]
    assert len(operator.director.revisions) == 1


def test_other_terms_for_a_drain_that_is_on_keep_those_not_named(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1", "--deadline", "2h", "--rule", "flows")
    before = operator.director.draining["b1"]["deadline"]
    text = operator.reads("backend", "drain", "b1", "--at-deadline", "reset")
    assert "by uid 0 (root); its terms are changed" in text
    drain = operator.director.draining["b1"]
    assert (drain["rule"], drain["at_deadline"]) == ("flows", "reset")
    moved = datetime.fromisoformat(drain["deadline"]) - datetime.fromisoformat(before)
    assert abs(moved.total_seconds()) < 1
    operator.director.finish("b1")
    error = operator.refused(4, "backend", "drain", "b1", "--deadline", "1h")
    assert "is drained already" in error


def test_draining_the_last_active_backend_of_a_pool_needs_force(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    error = operator.refused(4, "backend", "drain", "b2")
    assert "b2 is the last active backend of pool web: while it drains, new sessions there" in error
    assert "or use --force; nothing was changed" in error
    warned = operator.runs("backend", "drain", "b2", "--dry-run")
    assert (warned.status, "warning: b2 is the last active" in warned.err) == (0, True)
    assert operator.json("backend", "drain", "b2", "--dry-run")["last_active_in"] == ["web"]
    assert list(operator.director.draining) == ["b1"]
    operator.reads("backend", "drain", "b2", "--force")
    assert list(operator.director.draining) == ["b1", "b2"]


def test_a_backend_that_is_down_does_not_count_as_active(operator: Operator) -> None:
    operator.director.down["b2"] = "refused"
    assert "b1 is the last active backend of pool web" in operator.refused(
        4, "backend", "drain", "b1"
    )
    operator.reads("backend", "drain", "b2")  # gets nothing as it is


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("120", "'120' lacks a unit: 120s, 120m and 120h are not the same"),
        ("-5m", "'-5m' is in the past"),
        ("soon", "'soon' is not a duration; write one, as in 90s, 10m, 2h, 1d or 1h30m"),
        ("2h3", "'2h3' is not a duration"),
        ("400d", "'400d' is beyond 365 days"),
    ],
)
def test_a_deadline_that_is_no_duration_says_what_is(
    operator: Operator, given: str, told: str
) -> None:
    assert told in operator.refused(2, "backend", "drain", "b1", "--deadline", given)
    assert operator.director.draining == {}


def test_an_unknown_name_lists_the_known_ones_nearest_first(operator: Operator) -> None:
    operator.director.sessions_at |= {"web-fra-1": 0, "web-fra-2": 0}
    operator.director.flows_at |= {"web-fra-1": 0, "web-fra-2": 0}
    error = operator.refused(3, "backend", "drain", "web-fr-2")
    assert (
        "no backend 'web-fr-2'; did you mean 'web-fra-2'? backends: web-fra-2, web-fra-1" in error
    )
    error = operator.refused(3, "backend", "undrain", "b9")
    assert "there is no backend 'b9'; backends: b1, b2, b3, web-fra-1, web-fra-2" in error


def test_undrain_takes_it_back_and_says_of_whom(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    operator.director.down["b1"] = "no answer"
    text = operator.reads("backend", "undrain", "b1")
    assert "b1 is active again: the drain of 20" in text
    assert "by uid 0 (root) is taken back" in text
    assert "no new sessions yet: down: no answer" in text
    assert operator.director.draining == {}


def test_undrain_of_what_is_not_draining_says_what_is(operator: Operator) -> None:
    operator.reads("backend", "drain", "b3")
    error = operator.refused(3, "backend", "undrain", "b1")
    assert "b1 is not being drained; these are: b3" in error


def test_a_revision_that_has_moved_on_changes_nothing(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1", "--if-revision", "0")
    for argv in (
        ["backend", "drain", "b3"],
        ["backend", "undrain", "b1"],
        ["backend", "weight", "b1", "5"],
        ["backend", "weight", "b1", "--reset"],
        ["rollback", "0"],
    ):
        error = operator.refused(4, *argv, "--if-revision", "0")
        assert "builds on revision 0, but the intents are at revision 1" in error
    assert list(operator.director.draining) == ["b1"]


def test_drains_shows_how_far_each_is(operator: Operator) -> None:
    assert operator.reads("drains") == "no backend is being drained\n"
    operator.reads("backend", "drain", "b1", "--deadline", "2h")
    words = operator.reads("drains").split()
    for word in ("b1", "draining", "keep", "12", "30", "0.5", "24"):
        assert word in words, word
    (found,) = operator.json("drains")
    assert (found["backend"], found["sessions"], found["flows"]) == ("b1", 12, 30)


# --- Waiting ---------------------------------------------------------------------------------


def test_wait_ends_with_status_0_soon_after_the_last_session(operator: Operator) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--wait")
    assert "b1 drains" in waiting.line()
    assert "b1: 12 sessions and 30 flows left; 0.5 leave per s; about 24 s to go" in waiting.line()
    operator.director.finish("b1")
    done = waiting.end()
    # Two seconds are promised; these are the pauses between looks, the daemon's and ours.
    assert draining.PERIOD_S + draining.CONFIRM_S + progress.PERIOD_S < 1
    assert [look["b1"] for look in operator.director.looks if look].count("drained") == 1
    assert (done.status, done.out.strip()) == (
        0,
        "b1 is drained: no session is left, it may be switched off",
    )


def test_wait_ends_with_status_8_if_the_drain_is_taken_back(operator: Operator) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--wait")
    waiting.line(), waiting.line()
    operator.reads("backend", "undrain", "b1")
    done = waiting.end()
    assert (done.status, done.out.strip()) == (8, "the drain of b1 was taken back")


@pytest.mark.parametrize(
    ("why", "status", "told"),
    [
        ("deadline", 9, "12 sessions and 30 flows are still at b1, and are kept; `limpet sessions"),
        ("reset-timeout", 9, "12 sessions and 30 flows are still at b1, and did not answer the"),
        ("reset", 0, "b1 is drained: who was left at the deadline was reset"),
    ],
)
def test_wait_says_what_became_of_those_left_at_the_deadline(
    operator: Operator, why: str, status: int, told: str
) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--wait", "--deadline", "1s")
    waiting.line(), waiting.line()
    operator.director.finish("b1", why)
    done = waiting.end()
    assert (done.status, told in done.out) == (status, True), done


def test_wait_knows_what_was_kept_without_the_event(operator: Operator) -> None:
    """A daemon that was restarted remembers the drain, not the event."""
    waiting = operator.begins("backend", "drain", "b1", "--wait", "--deadline", "1s")
    waiting.line(), waiting.line()
    time.sleep(1)
    operator.director.draining["b1"] |= {"state": "drained", "drained": now_iso()}
    done = waiting.end()
    assert (done.status, "are kept" in done.out) == (9, True), done


def test_wait_outlives_a_restart_of_the_daemon(operator: Operator) -> None:
    away = operator.socket.with_suffix(".away")
    waiting = operator.begins("backend", "drain", "b1", "--wait")
    waiting.line(), waiting.line()
    operator.socket.rename(away)
    waiting.complains("the daemon does not answer")
    time.sleep(3 * progress.PERIOD_S)
    assert waiting.process.poll() is None
    away.rename(operator.socket)
    operator.director.finish("b1")
    done = waiting.end()
    assert (done.status, done.err.count("the daemon does not answer")) == (0, 1)


def test_ctrl_c_ends_the_waiting_and_not_the_drain(operator: Operator) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--wait")
    waiting.line(), waiting.line()
    waiting.interrupt()
    done = waiting.end()
    assert done.status == 130
    assert "b1 still drains; only the waiting has ended" in done.err
    assert "Traceback" not in done.err
    assert list(operator.director.draining) == ["b1"]


def test_wait_as_json_ends_with_the_outcome(operator: Operator) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--wait", "--json")
    assert json.loads(waiting.line())["sessions"] == 12
    operator.director.finish("b1")
    last = json.loads(waiting.end().out.splitlines()[-1])
    assert (last["outcome"], last["sessions"]) == ("drained", 0)


def test_wait_at_a_terminal_shows_a_bar(operator: Operator) -> None:
    terminal = operator.sits_at("backend", "drain", "b1", "--wait")
    terminal.shows("12 sessions and 30 flows left")
    operator.director.sessions_at["b1"], operator.director.flows_at["b1"] = 3, 3
    terminal.shows("3 sessions and 3 flows left")
    assert "━" in terminal.screen
    assert "draining b1" in terminal.screen
    operator.director.finish("b1")
    done = terminal.end()
    assert done.status == 0
    assert "100%" in done.out
    assert done.out.rstrip().endswith("b1 is drained: no session is left, it may be switched off")


def test_the_bar_stays_a_bar_on_a_narrow_terminal(operator: Operator) -> None:
    """It says less, rather than have its columns squeezed by words."""
    terminal = operator.sits_at("backend", "drain", "b1", "--deadline", "2h", "--wait")
    terminal.shows("12 sessions and 30 flows left")
    operator.director.sessions_at["b1"], operator.director.flows_at["b1"] = 7, 7
    terminal.shows("7 sessions and 7 flows left; about")
    assert "━" * 10 in terminal.screen
    assert "…" not in terminal.screen
    operator.director.finish("b1")
    assert terminal.end().status == 0


def test_a_drain_by_flows_does_not_say_that_sessions_have_gone(operator: Operator) -> None:
    waiting = operator.begins("backend", "drain", "b1", "--rule", "flows", "--wait")
    waiting.line(), waiting.line()
    operator.director.finish("b1", "empty", sessions_left=3)
    done = waiting.end()
    assert (done.status, done.out.strip()) == (
        0,
        "b1 is drained: no flow is left, it may be switched off",
    )


def test_reset_without_a_deadline_is_refused(operator: Operator) -> None:
    error = operator.refused(2, "backend", "drain", "b1", "--at-deadline", "reset")
    assert "--at-deadline reset needs a --deadline" in error
    assert operator.director.draining == {}


def test_ctrl_c_at_a_terminal_gives_it_back(operator: Operator) -> None:
    terminal = operator.sits_at("backend", "drain", "b1", "--wait")
    terminal.shows("12 sessions and 30 flows left")
    terminal.press_ctrl_c()
    done = terminal.end()
    assert (done.status, "b1 still drains" in done.out) == (130, True)


def test_waiting_for_a_drain_that_is_on_is_possible(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    operator.director.finish("b1")
    text = operator.reads("backend", "drain", "b1", "--wait")
    assert "b1 has been drained, since" in text
    assert text.rstrip().endswith("it may be switched off")
