# SPDX-License-Identifier: Apache-2.0
"""limpet's own process on a host of the lab: the daemon of a director, the agent of a backend.

Says what is run, with which files, and what it leaves in the kernel and on disk. Processes are
this same installation's `limpet`, by the path of this interpreter, so that no PATH is needed.
Not here: whether what is started forwards (`forwarding`), and which hosts there are (`operations`).
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from limpet.api.client import Client
from limpet.api.places import PINS, SOCKETS, STATES, places
from limpet.core.errors import LimpetError, Unsupported
from limpet.lab import configuration, folder, namespace, programs
from limpet.lab.network import netns_of
from limpet.lab.process import Process, spawn, tail
from limpet.lab.topology import Host, Role, Topology

BPFFS = Path("/sys/fs/bpf")
COMMAND = [sys.executable, "-m", "limpet"]
RELOAD_WAIT_S = 30.0
HAS_SERVICE = (Role.DIRECTOR, Role.BACKEND)


class Service:
    """The daemon or agent of one host."""

    def __init__(self, lab: str, host: Host) -> None:
        assert host.role in HAS_SERVICE
        self.lab, self.host = lab, host
        self.name = netns_of(lab, host)  # of the director or agent, so of its pins and socket too
        files = folder.of(lab)
        self.config = files / f"{host.name}.toml"
        self.log = files / f"{host.name}.log"
        self.socket = places(self.name).socket

    def start(self, topology: Topology) -> Process:
        mount_bpffs()
        self.config.write_text(self.text(topology))
        verb = ["run"] if self.host.role is Role.DIRECTOR else ["agent", "run"]
        return spawn([*COMMAND, *verb, str(self.config)], self.name, self.log)

    def text(self, topology: Topology) -> str:
        if self.host.role is Role.DIRECTOR:
            membership = programs.membership(self.lab, topology)
            return configuration.director_file(self.name, self.host, topology, membership)
        return configuration.agent_file(self.name, self.host, topology)

    def apply(self, shared: Path) -> int:
        """Give the cluster of a running director new desired state; its revision."""
        argv = [*COMMAND, "apply", str(shared), "--json", "--socket", str(self.socket)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=RELOAD_WAIT_S)
        except subprocess.TimeoutExpired as error:
            raise LimpetError(
                f"{self.host.name} did not apply the change in {RELOAD_WAIT_S:.0f} s"
            ) from error
        if done.returncode:
            raise LimpetError(f"{self.host.name} refused the change: {done.stderr.strip()}")
        return int(json.loads(done.stdout)["revision"])

    def runs(self, revision: int) -> bool:
        """It has that in effect, and nothing that is still being prepared."""
        try:
            found = Client(self.socket).get("/v1/pops")
        except LimpetError:
            return False
        (own,) = (
            each for pop in found["pops"] for each in pop["directors"] if each["name"] == self.name
        )
        return own["revision"] >= revision and not own["differences"] and not found["preparing"]

    def reload(self, topology: Topology) -> None:
        """Give a running director new desired state. If it is refused, the old file stays."""
        old = self.config.read_text()
        self.config.write_text(self.text(topology))
        try:
            self._reload()
        except BaseException:
            self.config.write_text(old)
            raise

    def _reload(self) -> None:
        argv = [*COMMAND, "reload", "--socket", str(self.socket)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=RELOAD_WAIT_S)
        except subprocess.TimeoutExpired as error:
            raise LimpetError(
                f"{self.host.name} did not acknowledge the change in {RELOAD_WAIT_S:.0f} s"
            ) from error
        if done.returncode:
            raise LimpetError(f"{self.host.name} refused the change: {done.stderr.strip()}")

    def is_listening(self) -> bool:
        """True if a director's daemon takes requests."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def died(self) -> LimpetError:
        return LimpetError(f"limpet on {self.host.name} ended; the end of its log:\n{self.says()}")

    def says(self) -> str:
        return tail(self.log)


def lose_power(name: str) -> None:
    """Remove what dies with a machine, of one director or agent whose process is dead already:
    pinned programs and maps, and what it has in /run."""
    for pins in (PINS / name, *PINS.glob(f"{name}@*")):  # also of its exit
        shutil.rmtree(pins, ignore_errors=True)
    with contextlib.suppress(OSError):  # others have theirs there
        PINS.rmdir()
    _remove_files(SOCKETS, name)


def remove_host(name: str) -> None:
    """Leave nothing of the host in this namespace: processes, pins, files, the namespace itself."""
    namespace.kill_processes(name)
    lose_power(name)
    _remove_files(STATES, name)
    namespace.remove(name)


def _remove_files(directory: Path, name: str) -> None:
    """Files and folders of that director or agent, with any suffix."""
    for path in (
        directory / name,
        *directory.glob(f"{name}.*"),
        *directory.glob(f"agent-{name}.*"),
    ):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def mount_bpffs() -> None:
    if BPFFS.is_mount():
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], capture_output=True, text=True)
    if done.returncode:
        raise Unsupported(f"cannot mount the BPF file system on {BPFFS}: {done.stderr.strip()}")
