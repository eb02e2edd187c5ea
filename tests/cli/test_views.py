# SPDX-License-Identifier: Apache-2.0
"""Commands that look, change weights and go back, with a director in memory."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cli.operator import COMMAND, WAIT_S, Operator
from limpet.api import client


def test_show_says_intent_and_health_apart_and_why_one_gets_nothing(operator: Operator) -> None:
    operator.director.down["b2"] = "connection refused"
    operator.reads("backend", "drain", "b1", "--force")
    text = operator.reads("show", "backends")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("b")}
    assert rows["b1"][2:4] == ["draining", "up"]
    assert rows["b2"][2:4] == ["active", "down"]
    assert "b2 gets no new sessions: down: connection refused" in text
    assert "b1 gets no new sessions: draining since" in text
    assert "b3 gets no new sessions" not in text
    assert "0 of 2" in text


def test_show_fits_80_columns_of_a_terminal(operator: Operator) -> None:
    text = operator.reads("show", "backends")
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80, text


def test_backend_list_has_a_row_for_each_pool(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    lines = operator.reads("backend", "list").splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        ["b1", "web"],
        ["b2", "web"],
        ["api", "active"],
        ["b3", "api"],
    ]
    assert "draining since" in lines[2]
    assert lines[2].split()[4:8] == ["2", "0", "12", "30"]
    assert operator.json("backend", "list")[0]["intent"] == "draining"


def test_where_shows_the_session(operator: Operator) -> None:
    text = operator.reads("where", "10.1.0.2", "web4")
    assert "10.1.0.2 -> web4: b1 (10.0.0.1)" in text
    assert "rung session_new: a live session of the client" in text
    assert "session of 10.1.0.2: b1, live, 2 flows, idle 1.5 s, since 1 h 2 min" in text
    assert operator.json("where", "10.1.0.2", "web4")["sessions"][0]["backend"] == "b1"


def test_sessions_as_rows_count_and_json(operator: Operator) -> None:
    rows = operator.reads("sessions", "--limit", "0").splitlines()
    assert rows[0].split() == [
        "client", "ports", "vip", "backend", "life", "flows", "idle_s", "since_s",
    ]  # fmt: skip
    assert len(rows) == 1 + 15
    assert operator.reads("sessions", "--backend", "b2", "--count") == "3\n"
    found = operator.json("sessions", "--backend", "b1", "--limit", "2")
    assert (found["total"], len(found["sessions"])) == (12, 2)
    done = operator.runs("sessions", "--limit", "2")
    assert "2 of 15 sessions; --limit 0 shows all" in done.err


def test_sessions_of_what_is_no_address_are_refused(operator: Operator) -> None:
    assert "'b1' is not an IP address" in operator.refused(2, "sessions", "--client", "b1")


def test_sources_say_who_is_split_and_why(operator: Operator) -> None:
    words = " ".join(operator.reads("sources").split())
    assert "10.9.9.9 web4 1200 80 79.50 % yes 1200 flows, 1000 split it" in words
    assert operator.json("sources")[0]["is_split"]


def test_health_says_what_is_down_since_when_and_why(operator: Operator) -> None:
    operator.director.down["b3"] = "timeout after 1 s"
    text = operator.reads("health")
    (line,) = [line for line in text.splitlines() if " b3 " in line]
    assert "down" in line
    assert "2023-11-14 22:13:20" in line
    assert "timeout after 1 s" in line
    assert [row["is_up"] for row in operator.json("health")] == [True, True, True, False]


def test_top_has_sessions(operator: Operator) -> None:
    text = operator.reads("top", "--once")
    assert "7 sessions in 4096 entries" in text
    assert "sessions" in text.split("VIPs")[1]


def test_top_at_a_terminal_follows_and_ends_with_ctrl_c(operator: Operator) -> None:
    terminal = operator.sits_at("top")
    terminal.shows("7 sessions in 4096 entries")
    operator.director.sessions_at["b1"] = 4711
    terminal.shows("4711")
    terminal.press_ctrl_c()
    assert terminal.end().status == 130


def test_audit_names_who_changed_what(operator: Operator) -> None:
    assert operator.reads("audit") == "nobody has changed anything\n"
    operator.reads("backend", "drain", "b1", "--deadline", "90s")
    operator.refused(3, "rollback", "7")
    failed, done = operator.json("audit")
    assert (failed["outcome"], done["outcome"]) == ("failed", "done")
    assert (done["by"], done["revision"]) == ("uid 0 (root)", 1)
    words = " ".join(operator.reads("audit", "--limit", "1").split())
    assert "failed POST /v1/rollback {'revision': 7} there is no revision 7" in words


# --- Weights, history ------------------------------------------------------------------------


def test_weight_is_set_and_taken_back(operator: Operator) -> None:
    text = operator.reads("backend", "weight", "b1", "7")
    assert text == "weight of b1 in pool web: 7 (revision 1)\n"
    assert operator.director.weights == {("web", "b1"): 7}
    text = operator.reads("backend", "weight", "b1", "--reset")
    assert text == "weight of b1 in pool web: that of the file (revision 2)\n"
    assert operator.director.weights == {}


def test_weight_of_a_backend_in_several_pools_needs_the_pool(operator: Operator) -> None:
    assert "b2 is in pools web, api: say --pool" in operator.refused(
        4, "backend", "weight", "b2", "7"
    )
    assert operator.json("backend", "weight", "b2", "7", "--pool", "api")["revision"] == 1
    assert operator.director.weights == {("api", "b2"): 7}


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["b1", "70000"], 2, "weight 70000 is beyond 0 to 65535"),
        (["b1"], 2, "say a WEIGHT, or --reset"),
        (["b1", "5", "--reset"], 2, "say a WEIGHT, or --reset"),
        (["b1", "many"], 2, "'many' is not a valid integer"),
        (["b9", "5"], 3, "there is no backend 'b9'"),
        (["b1", "5", "--pool", "wep"], 3, "no pool 'wep'; did you mean 'web'? pools: web, api"),
        (["b1", "5", "--pool", "api"], 3, "there is no backend 'b1' in pool api"),
    ],
)
def test_a_weight_that_cannot_be_says_why(
    operator: Operator, argv: list[str], status: int, told: str
) -> None:
    assert told in operator.refused(status, "backend", "weight", *argv)
    assert operator.director.weights == {}


def test_history_and_rollback(operator: Operator) -> None:
    assert operator.reads("history").startswith("no intent was ever set")
    operator.reads("backend", "drain", "b1")
    text = operator.reads("rollback", "0")
    assert text == "the intents are those of revision 0 again, as revision 2\n"
    lines = operator.reads("history").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["2", "1"]
    assert "drain b1" in lines[-1]
    assert [row["revision"] for row in operator.json("history", "--limit", "1")] == [2]
    assert "there is no revision 99" in operator.refused(3, "rollback", "99")


def test_diff_says_what_commands_have_set_over_the_file(operator: Operator) -> None:
    operator.reads("backend", "drain", "b1")
    assert operator.reads("diff") == "1 drains over the file\n"
    assert set(operator.json("diff")) == {"file", "intents", "effective", "summary"}


# --- Events ----------------------------------------------------------------------------------


def test_events_prints_what_has_happened_and_ends(operator: Operator) -> None:
    assert operator.reads("events").startswith("nothing has happened since the daemon started")
    assert operator.reads("events", "--json") == ""
    operator.reads("backend", "drain", "b1")
    operator.reads("backend", "undrain", "b1")
    lines = operator.reads("events").splitlines()
    assert [line.split()[2:] for line in lines] == [
        ["drain_began", "backend=b1"],
        ["drain_ended", "backend=b1"],
    ]
    first = json.loads(operator.reads("events", "--json").splitlines()[0])
    assert first["kind"] == "drain_began"
    (later,) = operator.reads("events", "--json", "--since", str(first["id"])).splitlines()
    assert json.loads(later)["kind"] == "drain_ended"


def test_events_are_followed_as_they_happen(operator: Operator) -> None:
    following = operator.begins("events", "--follow", "--json")
    deadline = time.monotonic() + WAIT_S
    while not operator.director.feed.followers:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    operator.reads("backend", "weight", "b1", "5")
    assert json.loads(following.line())["kind"] == "weight_set"
    following.interrupt()
    done = following.end()
    assert (done.status, done.err) == (130, "")


# --- Tokens, completion ----------------------------------------------------------------------


def test_token_prints_the_secret_once_and_a_line_that_knows_it(operator: Operator) -> None:
    from limpet.api.tokens import Tokens, parse

    found = operator.json("token", "new", "viewer", "grafana")
    assert found["secret"] not in found["line"]
    tokens: Tokens = parse(found["line"], "here")
    token = tokens.find(found["secret"])
    assert token is not None
    assert (str(token.role), token.name) == ("viewer", "grafana")
    done = operator.runs("token", "new", "operator", "ansible")
    assert done.out.split()[:2] == ["operator", "ansible"]
    assert "shown only now" in done.err
    assert "Invalid value for 'ROLE'" in operator.refused(2, "token", "new", "admin", "x")
    assert "'a b' is not a name" in operator.refused(2, "token", "new", "viewer", "a b")


HEAVY = ("fastapi", "numpy", "pydantic", "pyroute2", "uvicorn", "structlog")


@pytest.mark.parametrize(
    "argv",
    [
        ["backend", "--help"],
        ["backend", "drain", "b1", "--dry-run"],
        ["backend", "weight", "b1", "5"],
        ["backend", "list", "--json"],
        ["drains"],
        ["sessions"],
        ["events"],
        ["rollback", "0"],
        ["token", "new", "viewer", "x"],
    ],
    ids=" ".join,
)
def test_commands_import_nothing_heavy(operator: Operator, argv: list[str]) -> None:
    code = (
        "import sys\nfrom limpet.cli.main import main\nsys.argv[1:] = "
        f"{argv!r}\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [*COMMAND[:1], "-c", code], capture_output=True, text=True, env=operator.environment
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def completions(operator: Operator, line: str) -> tuple[list[str], str]:
    """What bash offers for a line, with what was said meanwhile."""
    environment = operator.environment | {
        "_LIMPET_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = subprocess.run(
        [*COMMAND[:1], "-c", "from limpet.cli.main import app; app(prog_name='limpet')"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=client.TIMEOUT_S / 2,
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("limpet backend drain b", ["b1", "b2", "b3"]),
        ("limpet backend undrain b", ["b1"]),
        ("limpet backend weight b1 5 --pool a", ["api"]),
        ("limpet sessions --vip w", ["web4"]),
        ("limpet flows --backend b3", ["b3"]),
        ("limpet backend dr", ["drain"]),
    ],
)
def test_names_are_completed_from_the_director(
    operator: Operator, line: str, offered: list[str]
) -> None:
    operator.reads("backend", "drain", "b1")
    assert completions(operator, line) == (offered, "")


@pytest.mark.parametrize("is_there", [False, True], ids=["nobody", "somebody who is mute"])
def test_completion_waits_for_no_daemon_and_is_silent(
    operator: Operator, tmp_path: Path, is_there: bool
) -> None:
    """Another command waits for its answer for a minute, longer than we do here."""
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        if is_there:
            mute.bind(str(path))
            mute.listen()
        nobody = Operator(operator.director, path)
        assert completions(nobody, "limpet backend drain b") == ([], "")


# --- Without a daemon ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["backend", "drain", "b1"],
        ["backend", "drain", "b1", "--wait"],
        ["backend", "undrain", "b1"],
        ["backend", "weight", "b1", "5"],
        ["backend", "list"],
        ["drains"],
        ["sessions"],
        ["sources"],
        ["health"],
        ["history"],
        ["rollback", "0"],
        ["diff"],
        ["events"],
        ["events", "--follow"],
        ["audit"],
    ],
    ids=" ".join,
)
def test_without_a_daemon_every_command_says_so(tmp_path: Path, argv: list[str]) -> None:
    environment = {**os.environ, "LIMPET_SOCKET": str(tmp_path / "nobody.sock")}
    done = subprocess.run(
        [*COMMAND, *argv], capture_output=True, text=True, env=environment, timeout=WAIT_S
    )
    assert (done.returncode, "Traceback" in done.stderr) == (6, False)
    assert "no daemon answers at" in done.stderr
