# SPDX-License-Identifier: Apache-2.0
"""A site for tests: the network of the lab's one-pop, and one director's daemon in it.

No agent runs on the backends: a raw socket on each hears the encapsulated packets, so a test sees
which backend got what. Everything that is started here is stopped here.
"""

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limpet.api.client import Client
from limpet.api.places import Places, places
from limpet.core.errors import Unreachable
from limpet.core.model import Address
from limpet.daemon.down import down
from limpet.lab import namespace
from limpet.lab.topology import Role, Topology

VIP4, VIP6 = "192.0.2.10", "2001:db8:0:10::10"
READY_S = 60.0
WAIT_S = 30.0  # for what has to come: a machine may stall
SILENCE_S = 0.5  # to see that nothing comes
IPIP, IPV6_IN_IP = 4, 41
SO_RCVBUFFORCE = 33
COMMAND = [sys.executable, "-m", "limpet"]

CONFIG = """
[director]
name = "{name}"
pop = "fra"
interfaces = ["eth0"]
flows_max = 4096
sessions_max = 4096
slot_key = "000102030405060708090a0b0c0d0e0f"

[[backend]]
name = "b1"
address = "10.10.0.11"

[[backend]]
name = "b2"
address = "10.10.0.12"

[[pool]]
name = "web"
backends = {{ b1 = 1, b2 = 1 }}

[[vip]]
name = "web4"
address = "192.0.2.10"
protocol = "udp"
port = "all"
pool = "web"

[[vip]]
name = "web6"
address = "2001:db8:0:10::10"
protocol = "udp"
port = "all"
pool = "web"
"""
THIRD = """
[[backend]]
name = "b3"
address = "10.10.0.13"
"""


class Site:
    """One director, its file, and the hosts around it."""

    def __init__(self, lab: str, topology: Topology, folder: Path) -> None:
        self.lab, self.topology = lab, topology
        self.name = f"{lab}-d"
        self.file = folder / "limpet.toml"
        self.log = folder / "log"
        self.places: Places = places(self.name, state=folder / "state")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.file.write_text(CONFIG.format(name=self.name))

    # --- The file -------------------------------------------------------------------------------

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def add_third(self) -> None:
        self.edit("[[pool]]", THIRD + "\n[[pool]]")
        self.edit("b2 = 1 }", "b2 = 1, b3 = 1 }")

    # --- The daemon -----------------------------------------------------------------------------

    @property
    def netns(self) -> str:
        return f"{self.lab}-fra-d1"

    def spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        argv = [*COMMAND, "run", str(self.file), "--state", str(self.places.state)]
        with self.log.open("ab") as log, namespace.inside(self.netns):
            process = subprocess.Popen(argv, stderr=log, env={**surroundings(), **environment})
        self.processes.append(process)
        return process

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """The daemon, when it answers."""
        process = self.spawn(**environment)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert process.poll() is None, self.says()
            with contextlib.suppress(Unreachable):
                if Client(self.places.socket).get("/v1/status")["pid"] == process.pid:
                    return process
            time.sleep(0.02)
        raise AssertionError(f"the daemon is not ready after {READY_S} s:\n{self.says()}")

    def says(self) -> str:
        return self.log.read_text()

    def get(self, path: str, **parameters: object) -> Any:
        return Client(self.places.socket).get(path, **parameters)

    @property
    def api(self) -> Client:
        return Client(self.places.socket)

    def drain(self, backend: str, **terms: object) -> Any:
        return self.api.put(f"/v1/backends/{backend}/drain", terms)

    def drains(self) -> dict[str, Any]:
        return {row["backend"]: row for row in self.get("/v1/drains")}

    def shares(self, pool: str = "web") -> dict[str, float]:
        """Percent of the slots that each backend of a pool has."""
        found = next(each for each in self.get("/v1/pools") if each["name"] == pool)
        return {member["name"]: member["share_percent"] for member in found["backends"]}

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self.processes[-1].kill()
        self.processes[-1].wait()

    def wait_for(self, condition: Any, wait_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + wait_s
        while not condition():
            assert time.monotonic() < deadline, self.says()
            time.sleep(0.02)

    def cli(self, *argv: str, status: int = 0) -> str:
        """Output of a command: standard output, or standard error if it is to fail."""
        environment = {**surroundings(), "LIMPET_SOCKET": str(self.places.socket)}
        with namespace.inside(self.netns):
            done = subprocess.run(
                [*COMMAND, *argv], capture_output=True, text=True, env=environment, timeout=60
            )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stderr if status else done.stdout

    def cli_json(self, *argv: str) -> Any:
        return json.loads(self.cli(*argv, "--json"))

    def stop(self) -> None:
        """End processes, forwarding, files."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        with namespace.inside(self.netns):
            down(self.places)
        with contextlib.suppress(FileNotFoundError):
            self.places.socket.unlink()

    # --- Packets --------------------------------------------------------------------------------

    def backends(self) -> dict[str, Address]:
        return {h.name: self.topology.interface4(h).ip for h in self.topology.hosts(Role.BACKEND)}

    @contextlib.contextmanager
    def ears(self) -> Iterator["Ears"]:
        with contextlib.ExitStack() as stack:
            sockets = {}
            for name in self.backends():
                for protocol in (IPIP, IPV6_IN_IP):
                    with namespace.inside(f"{self.lab}-{name}"):
                        ear = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
                    ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
                    sockets[stack.enter_context(ear)] = name
            yield Ears(sockets)

    def send(self, ports: range, vip: str = VIP4) -> None:
        """A datagram from client1 from each of these ports, to port 7."""
        for port in ports:
            self.send_from("client1", "", port, vip)

    def send_from(self, host: str, source: str, port: int, vip: str = VIP4) -> None:
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET
        with namespace.inside(f"{self.lab}-{host}"):
            client = socket.socket(family, socket.SOCK_DGRAM)
        with client:
            client.bind((source, port))
            client.sendto(b"limpet", (vip, 7))

    def forwarded(self, ports: range, vip: str = VIP4, wait_s: float = WAIT_S) -> dict[int, str]:
        """To which backend a datagram from each port came.

        When it is heard, the data plane has done with it; with what was only sent it may not have.
        """
        with self.ears() as ears:
            self.send(ports, vip)
            return ears.hear(len(ports), wait_s)

    def xdp(self) -> str:
        """What `ip` says of the director's interface."""
        with namespace.inside(self.netns):
            argv = ["ip", "-details", "link", "show", "eth0"]
            return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def remains(self) -> list[str]:
        """Whatever the director has left in the kernel and in /run."""
        found = [str(path) for path in (self.places.pins, self.places.socket) if path.exists()]
        if re.search(r"prog/xdp", self.xdp()):
            found.append("an XDP program")
        with namespace.inside(self.netns):
            argv = ["ip", "neigh"]
            neighbours = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return found + [line for line in neighbours.splitlines() if "managed" in line]


def surroundings() -> dict[str, str]:
    """The environment, without what would lead limpet elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LIMPET_")}


class Ears:
    """Hears encapsulated UDP datagrams on the backends."""

    def __init__(self, sockets: dict[socket.socket, str]) -> None:
        self._sockets = sockets

    def hear(self, count: int, wait_s: float = WAIT_S) -> dict[int, str]:
        """Backend by source port, of as many as come in time; what is there counts as in time."""
        found: dict[int, str] = {}
        deadline = time.monotonic() + wait_s
        while len(found) < count:
            left_s = max(deadline - time.monotonic(), 0)
            ready = select.select([*self._sockets], [], [], left_s)[0]
            if not ready:
                break
            for ear in ready:
                found[_source_port(ear.recv(2048))] = self._sockets[ear]
        return found


def _source_port(packet: bytes) -> int:
    inner = packet[(packet[0] & 15) * 4 :]
    header = 40 if inner[0] >> 4 == 6 else (inner[0] & 15) * 4
    (port,) = struct.unpack_from("!H", inner, header)
    return int(port)
