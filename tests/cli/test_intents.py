# SPDX-License-Identifier: Apache-2.0
"""Commands about sessions and intents, against a director that runs."""

import json
import os

import pytest

from cli.operator import COMMAND, Running
from daemon.site import VIP4, Site

pytestmark = pytest.mark.kernel
CLIENT = "10.1.0.2"


def test_every_view_reads_what_a_director_answers(running: Site) -> None:
    running.forwarded(range(54_000, 54_003))
    for argv in (
        ["show"],
        ["top", "--once"],
        ["backend", "list"],
        ["drains"],
        ["sessions"],
        ["sources"],
        ["health"],
        ["history"],
        ["diff"],
        ["audit"],
        ["events"],
    ):
        assert "Traceback" not in running.cli(*argv), argv
        if argv != ["events"]:
            running.cli_json(*argv)


def test_a_session_is_listed_counted_and_found(running: Site) -> None:
    running.forwarded(range(54_010, 54_013))
    found = running.cli_json("sessions", "--vip", "web4", "--client", CLIENT)
    (row,) = found["sessions"]
    assert (found["total"], row["client"], row["vip"]) == (1, CLIENT, "web4")
    where = running.cli_json("where", CLIENT, VIP4)
    assert where["backend"] == row["backend"]
    assert where["sessions"][0]["backend"] == row["backend"]
    text = running.cli("where", CLIENT, VIP4)
    assert f"session of {CLIENT}: {row['backend']}, " in text

    def counted() -> bool:
        shown = {b["name"]: b["sessions"] for b in running.cli_json("show", "backends")}
        return bool(shown[row["backend"]] >= 1)

    running.wait_for(counted)
    assert running.cli_json("sources")[0]["client"] == CLIENT


def test_weights_history_diff_and_rollback(running: Site) -> None:
    before = running.cli_json("backend", "weight", "b1", "3")["revision"]
    assert "3" in running.cli("diff")
    assert "50.00 %" not in running.cli("show", "pools")
    assert "b1" in running.cli("history").splitlines()[2]
    text = running.cli("rollback", str(before - 1))
    assert text.startswith(f"the intents are those of revision {before - 1} again")
    assert running.cli("show", "pools").count("50.00 %") == 2
    assert running.cli("diff") == "everything is as the file says\n"
    stale = ("--if-revision", str(before))
    error = running.cli("backend", "weight", "b1", "3", *stale, status=4)
    assert f"builds on revision {before}, but the intents are at revision {before + 1}" in error
    kinds = [json.loads(line)["kind"] for line in running.cli("events", "--json").splitlines()]
    assert kinds[-2:] == ["weight_set", "rolled_back"]
    newest = running.cli_json("audit", "--limit", "3")
    assert [entry["outcome"] for entry in newest] == ["failed", "done", "done"]


def test_a_preview_says_where_new_sessions_would_go(running: Site) -> None:
    text = running.cli("backend", "drain", "b1", "--dry-run")
    assert "new sessions of pool web go to b2 (50.0 % -> 100.0 %)" in text
    assert running.cli("drains") == "no backend is being drained\n"


def test_names_are_completed_from_a_director_that_runs(running: Site) -> None:
    environment = {
        **os.environ,
        "LIMPET_SOCKET": str(running.places.socket),
        "_LIMPET_COMPLETE": "complete_bash",
        "COMP_WORDS": "limpet backend drain b",
        "COMP_CWORD": "3",
    }
    code = "from limpet.cli.main import app; app(prog_name='limpet')"
    done = Running([*COMMAND[:1], "-c", code], environment).end()
    assert done.out.split() == ["b1", "b2"]


@pytest.mark.parametrize("command", ["sessions", "flows", "sources"])
def test_an_unknown_vip_is_answered_with_the_nearest(running: Site, command: str) -> None:
    error = running.cli(command, "--vip", "wep6", status=3)
    assert "there is no VIP 'wep6'; did you mean 'web6'? VIPs: web6, web4" in error


def test_an_unknown_name_in_a_question_is_answered_with_the_nearest(running: Site) -> None:
    assert "did you mean 'web6'?" in running.cli("where", "10.1.0.2", "wep6", status=3)
    assert "no backend 'b3'" in running.cli("sessions", "--backend", "b3", status=3)
