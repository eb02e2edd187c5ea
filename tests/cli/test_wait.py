# SPDX-License-Identifier: Apache-2.0
"""Commands that wait and follow, of a director that is killed meanwhile."""

import json

import pytest

from cli.operator import COMMAND, Running
from daemon.site import VIP4, Site, surroundings

pytestmark = pytest.mark.kernel
CLIENT = "10.1.0.2"
LONG = "[director.timeouts]\nudp_s = 600\n\n[[backend]]"
SHORT = LONG.replace("600", "1")


def test_wait_ends_with_the_last_session_across_a_kill_of_the_daemon(site: Site) -> None:
    site.edit('[[backend]]\nname = "b1"', LONG + '\nname = "b1"')
    daemon = site.start()
    site.forwarded(range(55_000, 55_003))
    name = site.cli_json("where", CLIENT, VIP4)["backend"]
    other = {"b1": "b2", "b2": "b1"}[name]
    environment = {**surroundings(), "LIMPET_SOCKET": str(site.places.socket)}
    waiting = Running([*COMMAND, "backend", "drain", name, "--wait"], environment)
    assert f"{name} drains: " in waiting.line()
    assert "1 session and 3 flows left" in waiting.line()
    shown = site.cli("show", "backends")
    assert f"{name} gets no new sessions: draining since" in shown
    assert f"{name} is the last" not in shown
    assert f"{other} is the last active backend of pool web" in site.cli(
        "backend", "drain", other, status=4
    )
    daemon.kill()
    daemon.wait()
    assert waiting.process.poll() is None
    site.edit(LONG, SHORT)  # now they go
    site.start()
    done = waiting.end()
    assert (done.status, "it may be switched off" in done.out) == (0, True), done
    assert site.cli_json("drains")[0]["state"] == "drained"
    assert f"{name} has been drained, since" in site.cli("backend", "drain", name)
    assert f"{name} is active again" in site.cli("backend", "undrain", name)


def test_wait_ends_with_status_9_when_some_are_kept_at_the_deadline(site: Site) -> None:
    site.start()
    site.forwarded(range(56_000, 56_002))
    name = site.cli_json("where", CLIENT, VIP4)["backend"]
    environment = {**surroundings(), "LIMPET_SOCKET": str(site.places.socket)}
    argv = [*COMMAND, "backend", "drain", name, "--deadline", "2s", "--wait"]
    done = Running(argv, environment).end()
    assert (
        done.status,
        f"1 session and 2 flows are still at {name}, and are kept" in done.out,
    ) == (
        9,
        True,
    ), done
    again = Running([*COMMAND, "backend", "drain", name, "--wait", "--json"], environment).end()
    assert (again.status, json.loads(again.out.splitlines()[-1])["outcome"]) == (9, "kept")


def test_events_are_followed_across_a_kill_of_the_daemon(site: Site) -> None:
    daemon = site.start()
    environment = {**surroundings(), "LIMPET_SOCKET": str(site.places.socket)}
    following = Running([*COMMAND, "events", "--follow", "--since", "0", "--json"], environment)

    def next_of(kind: str) -> dict[str, object]:
        while (event := json.loads(following.line()))["kind"] != kind:
            pass
        found: dict[str, object] = event
        return found

    try:
        site.cli("backend", "weight", "b1", "3")
        assert next_of("weight_set")["weight"] == 3
        daemon.kill()
        daemon.wait()
        site.start()
        site.cli("backend", "weight", "b1", "4")
        assert next_of("weight_set")["weight"] == 4
    finally:
        following.interrupt()
        assert following.end().status == 130
