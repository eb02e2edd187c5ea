# SPDX-License-Identifier: Apache-2.0
"""Weights by command, their history, and slow start, in a running director."""

import time

import pytest

from daemon.site import Site
from limpet.api.problem import Malformed, Stale
from limpet.core.errors import NotFound
from limpet.daemon import pacing

pytestmark = pytest.mark.kernel
WEIGHT = "/v1/pools/web/backends/b1/weight"
SLOW_START_S = 5


def test_a_weight_by_command_survives_restarts_and_reloads(site: Site) -> None:
    site.start()
    assert site.api.put(WEIGHT, {"weight": 3})["revision"] == 1
    assert site.shares() == {"b1": 75, "b2": 25}
    site.kill()
    site.start()
    assert site.shares() == {"b1": 75, "b2": 25}
    site.edit("b2 = 1 }", "b2 = 6 }")
    site.cli("reload")
    assert site.shares() == pytest.approx({"b1": 100 / 3, "b2": 200 / 3}, abs=0.01)
    site.api.delete(WEIGHT)
    assert site.shares() == pytest.approx({"b1": 100 / 7, "b2": 600 / 7}, abs=0.01)


def test_weight_0_takes_no_session_away(site: Site) -> None:
    site.start()
    (home,) = set(site.forwarded(range(20_000, 20_002)).values())
    site.api.put(f"/v1/pools/web/backends/{home}/weight", {"weight": 0})
    assert site.shares()[home] == 0
    assert set(site.forwarded(range(21_000, 21_002)).values()) == {home}
    backend = next(b for b in site.get("/v1/backends") if b["name"] == home)
    assert backend["why_no_new_sessions"] == ["weight 0 by command, 1 in the file"]
    assert backend["intent"] == "active"


def test_a_change_that_builds_on_an_old_revision_is_refused(site: Site) -> None:
    site.start()
    site.api.put(WEIGHT, {"weight": 3}, if_revision=0)
    with pytest.raises(Stale, match="revision 0, but the intents are at revision 1"):
        site.api.put(WEIGHT, {"weight": 9}, if_revision=0)
    assert site.shares() == {"b1": 75, "b2": 25}
    assert site.api.put(WEIGHT, {"weight": 1}, if_revision=1)["revision"] == 2


def test_a_refused_change_leaves_no_trace(site: Site) -> None:
    site.start()
    with pytest.raises(Malformed, match="65535"):
        site.api.put(WEIGHT, {"weight": 70_000})
    with pytest.raises(NotFound, match="pools: web"):
        site.api.put("/v1/pools/db/backends/b1/weight", {"weight": 1})
    assert site.get("/v1/history") == []
    assert site.get("/v1/intents")["revision"] == 0


def test_history_says_who_did_what_and_a_rollback_takes_it_back(site: Site) -> None:
    site.start()
    site.api.put(WEIGHT, {"weight": 3})
    site.drain("b2")
    site.api.post_json("/v1/rollback", {"revision": 1})
    assert site.drains() == {}
    assert site.shares() == {"b1": 75, "b2": 25}
    newest, drained, weighed = site.get("/v1/history")
    assert [each["revision"] for each in (newest, drained, weighed)] == [3, 2, 1]
    assert newest["what"] == "rollback to revision 1"
    assert newest["changes"] == ["b2: draining -> active"]
    assert drained["changes"] == ["b2: active -> draining"]
    assert weighed["changes"] == ["b1 in web: weight of the file -> 3"]
    assert weighed["by"]
    site.api.post_json("/v1/rollback", {"revision": 0})
    assert site.shares() == {"b1": 50, "b2": 50}


def test_diff_says_what_the_file_and_what_commands_want(site: Site) -> None:
    site.start()
    assert site.get("/v1/diff")["summary"] == "everything is as the file says"
    site.api.put(WEIGHT, {"weight": 3})
    found = site.get("/v1/diff")
    assert found["file"]["pools"] == {"web": {"b1": 1, "b2": 1}}
    (row, _) = found["effective"]
    assert (row["file_weight"], row["command_weight"], row["effective_weight"]) == (1, 3, 3)
    assert "b1: file 1, command 3, in effect 3" in found["summary"]


def test_a_backend_that_comes_back_gets_its_share_step_by_step(site: Site) -> None:
    site.edit('name = "web"\nbackends', f'name = "web"\nslow_start_s = {SLOW_START_S}\nbackends')
    site.start()
    assert site.shares() == {"b1": 50, "b2": 50}
    site.drain("b1")
    back = time.monotonic()
    site.api.delete("/v1/backends/b1/drain")
    seen: list[float] = []

    def look() -> bool:
        seen.append(site.shares()["b1"])
        passed = (time.monotonic() - back) / SLOW_START_S
        assert seen[-1] <= most(passed), "no step comes before its time"
        return seen[-1] == 50

    site.wait_for(look)
    assert seen == sorted(seen)
    assert seen[0] > 0
    assert len(set(seen)) >= 3, "it does not come all at once"


def most(passed: float) -> float:
    """The share in percent that a backend may have beside one like it, after such a part of the
    slow start, and a step of a tenth more."""
    weight = min(max(passed, 0.0) + 0.1, 1.0)
    return 100 * weight / (weight + 1) + 0.5


def test_a_new_weight_is_in_effect_when_it_is_acknowledged(site: Site) -> None:
    site.file.write_text(
        site.file.read_text().replace('pool = "web"\n', 'pool = "web"\naffinity = "flow"\n')
    )
    site.start()
    began = time.monotonic()
    site.api.put(WEIGHT, {"weight": 0})
    assert time.monotonic() - began < pacing.FULL_S / 2  # it does not wait for a pass on the timer
    assert set(site.forwarded(range(20_000, 20_020)).values()) == {"b2"}


def test_a_plan_without_a_daemon_knows_what_commands_have_set(site: Site) -> None:
    site.start()
    site.api.put(WEIGHT, {"weight": 3})
    site.drain("b2")
    argv = ("plan", str(site.file), "--state", str(site.places.state))
    assert not site.cli_json(*argv)["changes"]
    site.kill()
    assert not site.cli_json(*argv)["changes"]
    site.add_third()
    moves = site.cli_json(*argv)["moves"][0]["moves"]
    assert [(move["from"], move["to"], move["slots"]) for move in moves] == [("b1", "b3", 16_384)]
