# SPDX-License-Identifier: Apache-2.0
"""Drains of a running director: who stays, when it ends, who is told, and what a crash changes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.site import VIP6, Site
from limpet.core.errors import Conflict, NotFound

pytestmark = pytest.mark.kernel
PORTS, LATER = range(20_000, 20_040), range(30_000, 30_040)
IDLE = "timeouts = {{ udp_s = {} }}"  # of the IPv4 VIP; at the other one flows stay for long
LONG, SHORT = IDLE.format(600), IDLE.format(1)


@pytest.fixture
def flows(site: Site) -> Site:
    """Every flow is a session of its own, and ends when a test lets it go."""
    text = site.file.read_text().replace('pool = "web"\n', 'pool = "web"\naffinity = "flow"\n')
    site.file.write_text(text.replace('affinity = "flow"\n', f'affinity = "flow"\n{LONG}\n', 1))
    return site


def let_go(flows: Site) -> None:
    """From now on a flow to the IPv4 VIP ends a second after its last packet."""
    flows.edit(LONG, SHORT)
    flows.api.post("/v1/reload")


def is_drained(flows: Site, backend: str = "b1") -> bool:
    return bool(flows.drains()[backend]["state"] == "drained")


def events_in(told: Path) -> list[dict[str, Any]]:
    """What hooks have written, whole lines."""
    text = told.read_text() if told.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def hooked(site: Site) -> Path:
    """A file that gets every event that hooks are told."""
    told = site.file.with_name("told")
    command = f"""[hooks]\ncommand = ["sh", "-c", "cat >> {told}"]\n\n"""
    site.file.write_text(site.file.read_text() + "\n" + command)
    return told


def on(backend: str, seen: dict[int, str]) -> list[int]:
    return [port for port, name in seen.items() if name == backend]


def test_new_sessions_go_elsewhere_and_live_ones_stay(flows: Site) -> None:
    flows.start()
    before = flows.forwarded(PORTS)
    answer = flows.drain("b1")
    assert answer["revision"] == 1
    assert flows.forwarded(PORTS) == before
    assert set(flows.forwarded(LATER).values()) == {"b2"}
    row = flows.drains()["b1"]
    assert (row["state"], row["flows"]) == ("draining", len(on("b1", before)))
    assert row["sessions"] == row["sessions_at_start"] == len(on("b1", before))
    backend = next(b for b in flows.get("/v1/backends") if b["name"] == "b1")
    assert backend["intent"] == "draining"
    assert backend["pools"][0]["effective_weight"] == 0
    assert backend["why_no_new_sessions"][0].startswith("draining since")


def test_a_drain_ends_when_the_last_has_gone_and_the_hook_is_told_once(flows: Site) -> None:
    told = hooked(flows)
    flows.start()
    before = flows.forwarded(PORTS)
    flows.drain("b1")
    assert flows.drains()["b1"]["state"] == "draining"
    flows.wait_for(lambda: "drain_progress" in kinds(flows))
    assert not is_drained(flows)
    let_go(flows)
    flows.wait_for(lambda: is_drained(flows))
    flows.wait_for(lambda: events_in(told))
    time.sleep(0.3)
    events = [(e["kind"], e["backend"], e["why"]) for e in events_in(told)]
    assert events == [("drained", "b1", "empty")]
    assert len(on("b1", before)) > 0
    assert kinds(flows)[0] == "drain_began"
    assert kinds(flows)[-1] == "drained"


def kinds(flows: Site) -> list[str]:
    return [event["kind"] for event in flows.api.events(0, follow=False)]


def test_a_drain_goes_on_where_a_killed_daemon_left_it(flows: Site) -> None:
    told = hooked(flows)
    flows.start()
    before = flows.forwarded(PORTS)
    flows.drain("b1", deadline_s=600)
    row = flows.drains()["b1"]
    flows.kill()
    assert flows.forwarded(PORTS) == before
    flows.start()
    again = flows.drains()["b1"]
    terms = ("began", "by", "deadline", "at_deadline", "state")
    assert {key: again[key] for key in terms} == {key: row[key] for key in terms}
    assert set(flows.forwarded(LATER).values()) == {"b2"}
    let_go(flows)
    flows.wait_for(lambda: is_drained(flows))
    flows.wait_for(lambda: events_in(told))
    flows.kill()
    flows.start()
    assert is_drained(flows)
    assert set(flows.forwarded(range(21_000, 21_040)).values()) == {"b2"}
    time.sleep(1)
    deliveries = {event["delivery"] for event in events_in(told)}
    assert len(deliveries) == 1  # at least once; a second time bears the same number


def test_at_a_deadline_to_keep_it_ends_and_flows_stay(flows: Site) -> None:
    flows.start()
    before = flows.forwarded(PORTS)
    flows.drain("b1", deadline_s=0.5)
    flows.wait_for(lambda: is_drained(flows))
    event = next(e for e in flows.api.events(0, follow=False) if e["kind"] == "drained")
    assert event["why"] == "deadline"
    assert event["flows_left"] == len(on("b1", before))
    assert flows.forwarded(PORTS) == before


def test_an_undrained_backend_has_its_slots_again(flows: Site) -> None:
    flows.start()
    before = flows.get("/v1/pools")[0]["digest"]
    flows.drain("b1")
    assert flows.shares() == {"b1": 0, "b2": 100}
    assert flows.api.delete("/v1/backends/b1/drain")["revision"] == 2
    assert flows.get("/v1/pools")[0]["digest"] == before
    assert flows.drains() == {}
    with pytest.raises(Conflict, match="'b1' is not draining"):
        flows.api.delete("/v1/backends/b1/drain")
    with pytest.raises(NotFound, match="backends: b1, b2"):
        flows.drain("b9")


def test_several_drains_at_once_end_each_in_its_own_time(flows: Site) -> None:
    flows.add_third()
    flows.start()
    flows.forwarded(PORTS)
    flows.drain("b2", rule="flows")
    held = on("b1", flows.forwarded(PORTS, VIP6))
    flows.drain("b1")
    let_go(flows)
    flows.wait_for(lambda: is_drained(flows, "b2"))
    flows.wait_for(lambda: flows.drains()["b1"]["flows"] == len(held))
    assert held
    states = {name: row["state"] for name, row in flows.drains().items()}
    assert states == {"b1": "draining", "b2": "drained"}
    assert set(flows.forwarded(LATER).values()) == {"b3"}


def test_sessions_of_a_client_follow_or_leave_by_the_rule(site: Site) -> None:
    """With affinity `client`, all flows of one client are one session."""
    site.start()
    (home,) = set(site.forwarded(range(20_000, 20_002)).values())
    other = {"b1": "b2", "b2": "b1"}[home]
    site.drain(home)
    assert set(site.forwarded(range(21_000, 21_002)).values()) == {home}
    asked = site.get("/v1/where", client="10.1.0.2", vip="web4", client_port=22_000)
    assert (asked["rung"], asked["backend"]) == ("session_new", home)
    site.drain(home, rule="flows")
    assert set(site.forwarded(range(22_000, 22_002)).values()) == {other}
    assert set(site.forwarded(range(20_000, 20_002)).values()) == {home}
    sessions: list[Any] = [json.loads(line) for line in site.api.lines("/v1/sessions")][1:]
    assert [(row["client"], row["backend"]) for row in sessions] == [("10.1.0.2", other)]


def test_a_preview_changes_nothing_and_says_what_would_be(flows: Site) -> None:
    flows.start()
    before = flows.forwarded(PORTS)
    said = flows.api.put("/v1/backends/b1/drain", {}, dry_run="true")
    assert (said["sessions"], said["flows"]) == (len(on("b1", before)), len(on("b1", before)))
    moves = {row["backend"]: row for row in said["new_sessions_go_to"]}
    assert (moves["b2"]["percent_before"], moves["b2"]["percent_after"]) == (50.0, 100.0)
    assert moves["b1"]["percent_after"] == 0
    assert flows.drains() == {}
    assert flows.get("/v1/intents")["revision"] == 0
    assert flows.shares() == {"b1": 50, "b2": 50}


def test_a_drain_of_the_last_backend_refuses_new_sessions_and_says_so_before(flows: Site) -> None:
    flows.start()
    flows.drain("b2")
    said = flows.api.put("/v1/backends/b1/drain", {}, dry_run="true")
    assert "are REFUSED" in said["summary"]


def test_a_backend_that_is_drained_and_removed_is_let_go(flows: Site) -> None:
    flows.start()
    flows.forwarded(PORTS)
    flows.drain("b1")
    flows.edit("b1 = 1, b2 = 1", "b2 = 1")
    flows.edit('[[backend]]\nname = "b1"\naddress = "10.10.0.11"\n', "")
    let_go(flows)
    flows.wait_for(lambda: is_drained(flows))
    assert flows.get("/v1/diff")["summary"].startswith("drain of b1: without effect")
