# SPDX-License-Identifier: Apache-2.0
"""The lab kills what it started, and never anything else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from limpet.lab import namespace
from limpet.lab.process import Process, spawn, tail
from limpet.lab.state import State

SLEEP = [sys.executable, "-c", "import time; print('sleeping', flush=True); time.sleep(60)"]

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_a_recycled_pid_is_not_killed(sleeper: "subprocess.Popen[bytes]") -> None:
    """Same number, other start time: somebody else's process."""
    recycled = Process(pid=sleeper.pid, started_ticks=1)
    assert not recycled.is_alive()
    recycled.kill()
    assert sleeper.poll() is None


@pytest.mark.lab
def test_a_process_runs_in_its_namespace_and_is_killed(network: State, tmp_path: Path) -> None:
    netns = f"{network.lab}-b1"
    process = spawn(SLEEP, netns, tmp_path / "log")
    assert process.is_alive()
    assert namespace.processes(netns) == [process.pid]
    process.kill()
    assert not process.is_alive()
    assert namespace.processes(netns) == []


@pytest.mark.lab
def test_interrupting_the_terminal_does_not_reach_it(network: State, tmp_path: Path) -> None:
    process = spawn(SLEEP, f"{network.lab}-b1", tmp_path / "log")
    assert os.getsid(process.pid) != os.getsid(0)
    process.kill()


@pytest.mark.lab
def test_a_killed_namespace_has_no_process_left(network: State, tmp_path: Path) -> None:
    """Also none that nobody recorded, and none that ignores signals."""
    netns = f"{network.lab}-b2"
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    for _ in range(3):
        spawn([sys.executable, "-c", ignore + SLEEP[2]], netns, tmp_path / "log")
    assert len(namespace.processes(netns)) == 3
    namespace.kill_processes(netns)
    assert namespace.processes(netns) == []


@pytest.mark.lab
def test_a_process_is_alive_until_its_last_thread_has_ended(network: State, tmp_path: Path) -> None:
    """Its first thread may be a zombie long before; the others hold its sockets and locks."""
    netns, log = f"{network.lab}-b1", tmp_path / "log"
    process = spawn([sys.executable, "-c", FIRST_THREAD_ENDS], netns, log)
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert process.is_alive()
    assert namespace.processes(netns) == [process.pid]
    process.kill()
    assert not process.is_alive()
    assert namespace.processes(netns) == []


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    stat = Path(f"/proc/{child.pid}/stat")
    started = int(stat.read_text().rpartition(")")[2].split()[19])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not Process(pid=child.pid, started_ticks=started).is_alive()
    child.wait()


def test_the_end_of_a_log_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 5_000 + "\nthe reason\n")
    assert tail(tmp_path / "log").endswith("the reason")
    assert len(tail(tmp_path / "log")) < 2_100
    assert tail(tmp_path / "none") == ""


def test_a_process_that_has_ended_by_itself_is_killed_without_complaint(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    process = Process(pid=sleeper.pid, started_ticks=1)
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    process.kill()
    assert not process.is_alive()
