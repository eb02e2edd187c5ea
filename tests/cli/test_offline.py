# SPDX-License-Identifier: Apache-2.0
"""The commands while no daemon runs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from daemon.site import COMMAND, Site
from limpet.api.client import Client
from limpet.core.errors import LimpetError

NOBODY = 65_534

pytestmark = pytest.mark.kernel


def test_plan_without_a_daemon_uses_what_it_left(site: Site) -> None:
    process = site.start()
    process.kill()
    process.wait()
    state = ("--state", str(site.places.state))
    assert site.cli("plan", str(site.file), *state) == "nothing changes\n"
    site.edit("b2 = 1 }", "b2 = 3 }")
    assert "16384  b1 -> b2" in site.cli("plan", str(site.file), *state)


def test_plan_of_a_first_start_is_all_new(site: Site) -> None:
    text = site.cli("plan", str(site.file), "--state", str(site.places.state))
    assert text.splitlines()[:2] == ["+ VIP web4", "+ VIP web6"]
    assert not site.places.pins.exists()


def test_without_a_daemon_it_says_what_that_means(site: Site) -> None:
    error = site.cli("show", status=6)
    assert "no daemon answers at" in error
    assert "Start the daemon: systemctl start limpet" in error


def test_down_of_nothing_is_fine(site: Site) -> None:
    assert "had nothing in the kernel" in site.cli("down", site.name)


@pytest.mark.parametrize("name", ["..", ".", "/etc/limpet", "../x", "limpet/"])
def test_down_of_a_path_is_refused(name: str) -> None:
    """It would remove that folder."""
    done = subprocess.run([*COMMAND, "down", name], capture_output=True, text=True)
    assert (done.returncode, "is not the name of a director" in done.stderr) == (3, True)


def test_down_of_an_agent_is_refused(site: Site) -> None:
    """Agents pin beside directors. A folder is enough here: nothing else of it is looked at."""
    pins = site.places.pins
    (pins / "agent").mkdir(parents=True)
    try:
        assert "is the name of an agent" in site.cli("down", site.name, status=4)
        assert (pins / "agent").exists()
        assert site.name not in site.cli("down", "nobody-of-this-name")
    finally:
        (pins / "agent").rmdir()
        pins.rmdir()


def test_a_director_may_have_dots_in_its_name(site: Site) -> None:
    dotted = f"{site.name}.example"
    assert "had nothing in the kernel" in site.cli("down", dotted)


def test_plan_refuses_a_kernel_without_its_state(site: Site, tmp_path: Path) -> None:
    process = site.start()
    process.kill()
    process.wait()
    error = site.cli("plan", str(site.file), "--state", str(tmp_path / "other"), status=3)
    assert "--state" in error


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_file_that_cannot_be_read_says_how_to_mend_it(command: str, tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"name = '\xff'")
    for file, why in ((tmp_path, "Is a directory"), (latin, "not UTF-8 at byte 8")):
        done = subprocess.run([*COMMAND, command, str(file)], capture_output=True, text=True)
        assert done.returncode == 2
        assert f"{file}: " in done.stderr
        assert why in done.stderr
        assert "to mend: " in done.stderr


def test_check_of_a_missing_file_is_json_too() -> None:
    argv = [*COMMAND, "check", "--json", "/nonexistent.toml"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["where"] == "/nonexistent.toml"


@pytest.mark.parametrize("argv", [["where", "garbage", "v"], ["flows", "--client", "garbage"]])
def test_what_is_no_address_is_refused_with_an_example(argv: list[str], site: Site) -> None:
    assert "'garbage' is not an IP address; write one" in site.cli(*argv, status=2)


def test_without_the_right_it_says_so(running: Site) -> None:
    """Not "no daemon answers", and no advice to start it."""
    os.setegid(NOBODY)  # the group may ask, too
    os.seteuid(NOBODY)
    try:
        with pytest.raises(LimpetError, match="may not ask this daemon"):
            Client(running.places.socket).get("/v1/status")
    finally:
        os.seteuid(0)
        os.setegid(0)
