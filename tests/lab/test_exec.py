# SPDX-License-Identifier: Apache-2.0
"""`limpet lab exec` is the command itself, on another host: streams, status, signals."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limpet.core.errors import NotFound
from limpet.lab.state import State

pytestmark = pytest.mark.lab

LAB = [sys.executable, "-m", "limpet", "lab"]


def run(now: State, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    argv = [*LAB, "exec", "--lab", now.lab, *words]
    return subprocess.run(argv, input=given, capture_output=True, text=True, timeout=20)


def test_streams_and_status_are_those_of_the_command(network: State) -> None:
    script = "read word; echo out $word; echo err >&2; exit 42"
    done = run(network, "client1", "--", "sh", "-c", script, given="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (42, "out hello\n", "err\n")


def test_the_command_sees_the_host(network: State) -> None:
    done = run(network, "b2", "--", "ip", "-json", "address", "show", "eth0")
    (link,) = json.loads(done.stdout)
    assert "10.10.0.12" in {address["local"] for address in link["addr_info"]}


def test_options_and_dashes_after_the_first_belong_to_the_command(network: State) -> None:
    show = "import sys; print(sys.argv[1:])"
    done = run(network, "b1", "--", sys.executable, "-c", show, "--lab", "x", "--", "--help")
    assert done.stdout == "['--lab', 'x', '--', '--help']\n"


def test_options_may_follow_the_host(network: State) -> None:
    argv = [*LAB, "exec", "b1", "--lab", network.lab, "--", "true"]
    assert subprocess.run(argv, timeout=20).returncode == 0


def test_the_name_of_the_lab_may_come_from_the_environment(network: State) -> None:
    argv = [*LAB, "exec", "b1", "--", "true"]
    assert subprocess.run(argv, env={"LIMPET_LAB": network.lab}, timeout=20).returncode == 0


def test_the_file_system_is_the_one_outside(network: State) -> None:
    """`ip netns exec` would hide what is mounted below /sys, so the pinned maps."""
    done = run(network, "fra-d1", "--", "readlink", "/proc/self/ns/mnt")
    assert done.stdout.strip() == str(Path("/proc/self/ns/mnt").readlink())


def test_a_command_that_does_not_exist_gives_127_as_in_a_shell(network: State) -> None:
    done = run(network, "client1", "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command: No such file" in done.stderr


def test_a_signal_reaches_the_command_itself(network: State) -> None:
    """There is no process between: the command has the pid that was started."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    argv = [*LAB, "exec", "--lab", network.lab, "client1", "--", sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert int(command.stdout.readline()) == command.pid
        command.terminate()
    assert command.returncode == -signal.SIGTERM


def test_an_unknown_host_is_named_with_those_there_are(network: State) -> None:
    done = run(network, "b9", "--", "true")
    assert done.returncode == NotFound.exit_status
    assert "no host 'b9' in this lab; there are router, client1" in " ".join(done.stderr.split())
