# SPDX-License-Identifier: Apache-2.0
"""The commands, as an operator calls them, against a running daemon and without one."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.site import VIP4, VIP6, Site

pytestmark = pytest.mark.kernel
HELP_TIMES = 5.5  # the start of Python; it is 4.2, and 7 with numpy
HEAVY = ("fastapi", "numpy", "pydantic", "pyroute2", "uvicorn", "structlog")


def test_show_tells_all_in_80_columns(running: Site) -> None:
    running.forwarded(range(50_000, 50_010))
    text = running.cli("show")
    for word in ("eth0: native, up", "web4", "udp 192.0.2.10:all", "b1", "50.00 %", "redirect"):
        assert word in text
    assert "drop_headroom" not in text  # zero


def test_show_json_has_every_part(running: Site) -> None:
    found = running.cli_json("show")
    assert list(found) == ["status", "vips", "pools", "backends", "counters"]
    for part in ("vips", "pools", "backends"):
        assert [row["name"] for row in running.cli_json("show", part)] == [
            row["name"] for row in found[part]
        ]
    meanings = {c["name"]: c["severity"] for c in found["counters"]["verdicts"]}
    assert meanings["drop_headroom"] == "alarm"


def test_show_of_something_else_says_what_there_is(running: Site) -> None:
    assert "use one of vips, pools, backends, counters" in running.cli("show", "nets", status=2)


def test_where_in_words(running: Site) -> None:
    running.forwarded(range(51_000, 51_001))
    text = running.cli("where", "10.1.0.2", VIP4, "--client-port", "51000")
    assert "rung table" in text
    assert "port 51000 -> 7" in text
    assert "rung home" in running.cli("where", "10.9.9.9", "web4")


def test_flows_as_rows_count_and_json(running: Site) -> None:
    running.forwarded(range(52_000, 52_010), VIP6)  # where nobody else sends
    rows = running.cli("flows", "--vip", "web6", "--limit", "0").splitlines()
    assert len(rows) == 10 + 1
    assert running.cli("flows", "--vip", "web6", "--count") == "10\n"
    found = running.cli_json("flows", "--vip", "web6", "--limit", "3")
    assert (found["total"], len(found["flows"])) == (10, 3)
    assert running.cli_json("flows", "--client", "10.9.9.9")["total"] == 0


def test_flows_into_a_closed_pipe_end_quietly(running: Site) -> None:
    running.forwarded(range(53_000, 53_400))
    socket = str(running.places.socket)
    line = f"{sys.executable} -m limpet flows --limit 0 --socket {socket} | head -1"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("client ")
    assert done.stderr == ""


def test_top_prints_one_screen_with_once(running: Site) -> None:
    text = running.cli("top", "--once")
    assert "web4" in text
    assert "pkt/s" in text
    assert json.loads(running.cli("top", "--once", "--json"))["status"]["director"] == running.name


def test_plan_shows_slots_that_move(running: Site, tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    file.write_text(running.file.read_text().replace("b2 = 1 }", "b2 = 3 }"))
    assert "16384 of 65536 slots move (25.00 %)" in running.cli("plan", str(file))
    assert running.cli("plan", str(running.file)) == "nothing changes\n"
    file.write_text(running.file.read_text().replace("b2 = 1 }", "b2 = 1 }\nhold_s = 5"))
    assert running.cli("plan", str(file)) == "  pool web: hold_s 30 -> 5\n"


def test_check_lists_every_problem_and_their_mending(running: Site, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(running.file.read_text().replace("udp", "sctp") + "\n[[vip]]\n")
    error = running.cli("check", str(file), status=2)
    assert error.count("to mend:") >= 3
    assert f"{file}:" in error
    done = subprocess.run(
        [sys.executable, "-m", "limpet", "check", "--json", str(file)], capture_output=True
    )
    assert done.returncode == 2
    assert not json.loads(done.stdout)["ok"]


def test_check_warns_of_the_machine(running: Site, tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    file.write_text(running.file.read_text().replace('"eth0"', '"eth0", "eth7"'))
    found = running.cli_json("check", str(file))
    assert found["ok"]
    assert ["eth7" in warning for warning in found["warnings"]] == [True]


@pytest.mark.parametrize(
    "argv", [["--help"], ["show", "--help"], ["--version"], ["version"], ["show", "--json"]]
)
def test_clients_import_nothing_heavy(running: Site, argv: list[str]) -> None:
    environment = {**os.environ, "LIMPET_SOCKET": str(running.places.socket)}
    code = (
        "import sys\nfrom limpet.cli.main import main\nsys.argv[1:] = "
        f"{argv!r}\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_help_is_there_at_once() -> None:
    """In CPU time, beside what Python needs for itself: other work on the machine lengthens both.
    That is about 100 ms, a third of which are Python's own."""

    def used_s(*argv: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *argv], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = ("-c", "import json, socket, ssl")
    times = [(used_s("-m", "limpet", "--help"), used_s(*bare)) for _ in range(5)]
    ours, pythons = map(min, zip(*times, strict=True))
    assert ours < HELP_TIMES * pythons
