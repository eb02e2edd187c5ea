# SPDX-License-Identifier: Apache-2.0
"""A machine of a lab's network with files of its own: /etc, /opt, /usr/bin, /var/lib, /run, bpffs.

A network namespace alone shares all of these with its neighbours. With a mount namespace beside it,
what is written for one machine of many can be carried out by the letter: the same paths everywhere,
and nothing of it on the machine that runs the tests. What is written lies in memory.

There is no systemd: `start` runs what a unit's file says, and waits as systemd does until the
program says READY. Not here: the unit's limits and sandbox.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from limpet.lab import namespace
from limpet.lab.process import tail

COPIED = ("etc", "usr/bin", "var/lib")
UNITS = "/etc/systemd/system"
HOME = "/run"  # where commands are given; in memory, like all of it
READY_S, STOP_S, COMMAND_S = 60.0, 30.0, 120.0
SET_UP = """
set -e
mount -t tmpfs tmpfs {folder}
for d in {copied} opt; do mkdir -p {folder}/up/$d {folder}/work/$d; done
over() {{
    own=upperdir={folder}/up/$1,workdir={folder}/work/$1
    mount -t overlay overlay -o lowerdir=$2,$own /$1
}}
for d in {copied}; do over $d /$d; done
over opt {opt}:/opt
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
echo ready
exec sleep infinity
"""


class Machine:
    """Exists until `close`. `installed` is a folder that is laid under its /opt."""

    def __init__(self, netns: str, folder: Path, installed: Path) -> None:
        self.name, self.netns = folder.name, netns
        assert not namespace.processes(netns), "it is on already"
        self.log = folder.with_suffix(".log")
        folder.mkdir()
        script = SET_UP.format(folder=folder, copied=" ".join(COPIED), opt=installed)
        with namespace.inside(netns):
            self._holder = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self._units: dict[str, subprocess.Popen[bytes]] = {}

    def path(self, inside: str) -> Path:
        """Where a file of the machine is for who is outside."""
        return Path(f"/proc/{self._holder.pid}/root{inside}")

    def write(self, inside: str, text: str | bytes, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)

    # --- Commands -------------------------------------------------------------------------------

    def run(self, script: str, status: int = 0, folder: str = HOME) -> str:
        """Run it in a shell; both of its outputs. It has to end with that status."""
        argv = ["bash", "-e", "-o", "pipefail", "-c", f"cd {folder}\n{script}"]
        done = subprocess.run(
            self._inside(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            env=_environment(),
        )
        assert done.returncode == status, f"{self.name}: {script}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def spawn(self, *argv: str, **environment: str) -> "subprocess.Popen[bytes]":
        """A program that runs on, until it ends or the machine does."""
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self._inside(list(argv)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_environment(), **environment},
                start_new_session=True,
            )

    def said(self) -> str:
        """The end of what its programs said."""
        return tail(self.log)

    def _inside(self, argv: list[str]) -> list[str]:
        return ["nsenter", "-t", str(self._holder.pid), "--mount", "--net", "--", *argv]

    # --- Units ----------------------------------------------------------------------------------

    def start(self, unit: str) -> None:
        """A unit of systemd by its file, until it is ready."""
        text = self._file(unit)
        for before in re.findall(r"^ExecStartPre=(.*)$", text, re.M):
            self.run(before)
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
        place = f"/run/{unit}.notify"
        with contextlib.suppress(FileNotFoundError):
            self.path(place).unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(self.path(place)))
            told.settimeout(0.1)
            self._units[unit] = self.spawn(*command.split(), NOTIFY_SOCKET=place)
            self._wait_ready(unit, told)

    def _file(self, unit: str) -> str:
        return self.path(f"{UNITS}/{unit}.service").read_text()

    def _wait_ready(self, unit: str, told: socket.socket) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in told.recv(4_096).split(b"\n"):
                    return
            ended = self._units[unit].poll() is not None
            assert not ended, f"{unit} on {self.name} ended: {self.said()}"
            assert time.monotonic() < deadline, f"{unit} on {self.name}: {self.said()}"

    def stop(self, unit: str) -> None:
        """As `KillMode=process` says: what the unit's program has started lives on."""
        process = self._units.pop(unit)
        process.terminate()
        process.wait(STOP_S)

    def restart(self, unit: str) -> None:
        self.stop(unit)
        self.start(unit)

    def reload(self, unit: str) -> None:
        """As `ExecReload` says."""
        assert "ExecReload=/bin/kill -HUP $MAINPID" in self._file(unit)
        self._units[unit].send_signal(signal.SIGHUP)

    def close(self) -> None:
        namespace.kill_processes(self.netns)
        for process in self._units.values():
            process.wait(STOP_S)
        self._holder.wait(STOP_S)


def _environment() -> dict[str, str]:
    """Nothing of Python's: what is installed in the machine is what runs there."""
    others = ("PYTHON", "LIMPET", "VIRTUAL")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}
