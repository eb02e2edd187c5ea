# SPDX-License-Identifier: Apache-2.0
"""The agent's process: signals, systemd's notifications, fail static, one process a name."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.namespaces import VIP4, VIP6, Director, Pair, ask_once, listening
from limpet.agent import installation, report, state
from limpet.agent.report import Report
from limpet.core.errors import ConfigError, Conflict, NotFound

pytestmark = pytest.mark.kernel

WAIT_S = 60
COMMAND = [sys.executable, "-m", "limpet", "agent"]


class Agent:
    """The command `limpet agent` in the namespace of a backend."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self.pair, self.file, self.log = pair, folder / "agent.toml", folder / "log"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.settimeout(WAIT_S)
        self.notices.bind(str(folder / "notify"))
        self.process: subprocess.Popen[bytes] | None = None
        self.write([VIP4])

    def write(self, vips: list[str], more: str = "") -> None:
        name = self.pair.name
        directors = '["100.64.0.0/16", "fd00:11be:7::/96"]'
        lines = [f'name = "{name}"', 'interface = "eth0"', f"directors = {directors}"]
        self.file.write_text("\n".join([*lines, f"vips = {json.dumps(vips)}", more]))

    def start(self) -> None:
        environment = {**os.environ, "NOTIFY_SOCKET": self.notices.getsockname()}
        with self.pair.inside(self.pair.backend), self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", str(self.file)], stderr=log, env=environment
            )
        self.await_notice("READY=1")

    def await_notice(self, wanted: str) -> None:
        try:
            while wanted not in self.notices.recv(4096).decode():
                pass
        except TimeoutError:
            raise AssertionError(f"no {wanted}: {self.log.read_text()}") from None

    def signal(self, number: signal.Signals) -> int | None:
        assert self.process is not None
        self.process.send_signal(number)
        return None if number == signal.SIGHUP else self.process.wait(WAIT_S)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.pair.inside(self.pair.backend):
            return subprocess.run(
                [*COMMAND, *words],
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                env={**os.environ, "COLUMNS": "200"},
                check=False,
            )

    def show(self) -> Report:
        with self.pair.inside(self.pair.backend):
            return report.read(self.pair.name)

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]

    def works(self, vip: str = VIP4) -> bool:
        with listening(self.pair, vip, socket.SOCK_DGRAM) as server, Director(self.pair, 4):
            return ask_once(self.pair, server, vip)


@pytest.fixture
def agent(pair: Pair, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(pair, tmp_path)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.signal(signal.SIGKILL)
        with pair.inside(pair.backend), state.locked(pair.name), contextlib.suppress(NotFound):
            installation.remove(pair.name)
        made.notices.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_packets_flow_without_the_process(agent: Agent, number: signal.Signals) -> None:
    """And the next start adopts what is there: the same link, counters going on."""
    agent.start()
    assert agent.works()
    assert agent.signal(number) == (0 if number == signal.SIGTERM else -number)
    assert agent.works()
    agent.start()
    assert agent.works()
    found = agent.show()
    assert not found.problems()
    assert found.counters["decapsulated"] == 3


def test_a_hangup_reads_the_file_again(agent: Agent) -> None:
    agent.start()
    agent.write([VIP4, VIP6])
    agent.signal(signal.SIGHUP)
    agent.await_notice("READY=1")
    assert agent.works(VIP6)
    assert agent.events() == ["ready", "reloaded"]


@pytest.mark.parametrize("broken", ["mtu = 5", "["])
def test_a_bad_file_changes_nothing(agent: Agent, broken: str) -> None:
    agent.start()
    before = agent.show()
    agent.write([VIP6], broken)
    agent.signal(signal.SIGHUP)
    agent.await_notice("READY=1")
    after = agent.show()
    assert (after.vips, after.mss4, after.program) == (before.vips, before.mss4, before.program)
    assert agent.works()
    assert agent.events() == ["ready", "reload refused, nothing changed"]


def test_another_name_is_refused(agent: Agent) -> None:
    agent.start()
    agent.file.write_text(agent.file.read_text().replace(agent.pair.name, "other"))
    agent.signal(signal.SIGHUP)
    agent.await_notice("READY=1")
    assert "restart for it" in agent.log.read_text()


def test_one_process_a_name(agent: Agent) -> None:
    """A second start, and `down` beneath a running process, say which process is in the way."""
    agent.start()
    assert agent.process is not None
    for words in (("run", str(agent.file)), ("down", agent.pair.name)):
        done = agent.command(*words)
        assert done.returncode == Conflict.exit_status
        assert f"is running (process {agent.process.pid})" in done.stderr
    assert agent.works()


def test_down_leaves_nothing(agent: Agent) -> None:
    agent.start()
    agent.signal(signal.SIGTERM)
    done = agent.command("down", agent.pair.name)
    assert (done.returncode, done.stdout) == (0, f"agent {agent.pair.name} is gone\n")
    assert VIP4 not in agent.pair.addresses()
    assert not list(Path("/run/limpet").glob(f"agent-{agent.pair.name}.*"))
    assert agent.command("down", agent.pair.name).returncode == NotFound.exit_status


def test_files_are_checked_without_root_or_kernel(agent: Agent) -> None:
    assert "right; agent" in agent.command("check", str(agent.file)).stdout
    agent.write([])
    done = agent.command("check", str(agent.file))
    assert done.returncode == ConfigError.exit_status
    assert f"{agent.file}:4: vips: the list is empty" in done.stderr
    assert agent.command("check", "/nonexistent").returncode == ConfigError.exit_status


def test_show_is_for_people_too(agent: Agent) -> None:
    agent.start()
    agent.works()
    text = agent.command("show", agent.pair.name).stdout
    assert f"agent {agent.pair.name} on eth0" in text
    both = r"decapsulation: XDP native [0-9a-f]{16}; MSS clamp: tc egress [0-9a-f]{16}"
    assert re.search(both, text)
    assert "decapsulated" in text
    assert "handed to the kernel" in text
    found = json.loads(agent.command("show", agent.pair.name, "--json").stdout)
    assert found["vips"] == [{"address": VIP4, "present": True}]
    assert found["counters"]["decapsulated"] == 1
    assert found["problems"] == []
    with agent.pair.inside(agent.pair.backend):
        subprocess.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"], check=True)
    said = " ".join(agent.command("show", agent.pair.name).stdout.split())
    assert "MSS clamp: not attached" in said
    assert "the MSS clamp is not on eth0; `limpet agent run` puts it back" in said


def test_root_is_needed(agent: Agent) -> None:
    code = "from limpet.agent import service; import os; os.setuid(65534); service.down('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs root" in done.stderr
