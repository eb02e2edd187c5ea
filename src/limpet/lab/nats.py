# SPDX-License-Identifier: Apache-2.0
"""NATS servers for trying and testing: their configuration, and processes on this machine.

Every acknowledged write is on the disk (`sync_interval: always`): without that a power cut takes
writes back that were acknowledged. Where a server runs is the caller's affair: `start` takes a
command to put in front, and the lab gives one that enters a namespace.

Not here: making certificates; a server is told where they are.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import NotFound, Unavailable

PROGRAM = "nats-server"
START_S_MAX = 30.0
STOP_S_MAX = 5.0
STORE_BYTES_MAX = 8 << 30  # streams set aside what they may need, all together


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. Clients have to show a certificate of the same CA."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Node:
    """One server; with routes it is one of a cluster."""

    name: str
    folder: Path  # its configuration, store and log
    client_port: int
    address: str = "127.0.0.1"
    cluster: str = ""
    cluster_port: int = 0
    routes: tuple[str, ...] = ()  # "address:port" of the cluster ports of all servers
    tls: Tls | None = None

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.client_port}"


def program() -> Path:
    """nats-server: beside this Python, or in PATH."""
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if not found:
        raise NotFound(f"no {PROGRAM} in PATH: run tools/setup.sh, or install NATS 2.11 or newer")
    return Path(found)


def write_configuration(node: Node) -> Path:
    """The configuration file of a server, in its folder."""
    node.folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "server_name": node.name,
        "host": node.address,
        "port": node.client_port,
        "log_file": str(node.folder / "server.log"),
        "pid_file": str(node.folder / "server.pid"),
        "jetstream": {
            "store_dir": str(node.folder / "store"),
            "sync_interval": "always",
            "max_file_store": STORE_BYTES_MAX,
        },
    }
    if node.routes:
        settings["cluster"] = {
            "name": node.cluster,
            "host": node.address,
            "port": node.cluster_port,
            "routes": [f"nats://{route}" for route in node.routes],
        }
    if node.tls:
        settings["tls"] = {
            "ca_file": str(node.tls.ca),
            "cert_file": str(node.tls.certificate),
            "key_file": str(node.tls.key),
            "verify": True,
        }
    path = node.folder / "server.conf"
    path.write_text(json.dumps(settings, indent=2))  # NATS reads JSON too
    return path


class Server:
    """A running server; used with `with`, or `kill` and `start` again."""

    def __init__(self, node: Node, before: tuple[str, ...] = ()) -> None:
        self.node = node
        self._before = before  # words to put in front of the command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*self._before, str(program()), "-c", str(write_configuration(self.node))]
        with (self.node.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pause(self, is_paused: bool = True) -> None:
        """Silent but not gone, as behind a broken network."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)

    def kill(self) -> None:
        """At once, as by a power cut; what it acknowledged stays."""
        if self._process:
            self._process.kill()
            self._process.wait(STOP_S_MAX)
            self._process = None


class Servers:
    """Several servers on loopback, as one cluster if there is more than one."""

    def __init__(self, folder: Path, count: int, tls: Tls | None = None) -> None:
        ports = free_ports(2 * count)
        routes = tuple(f"127.0.0.1:{port}" for port in ports[count:]) if count > 1 else ()
        self.nodes = [
            Node(
                name=f"n{number + 1}",
                folder=folder / f"n{number + 1}",
                client_port=ports[number],
                cluster=folder.name,
                cluster_port=ports[count + number],
                routes=routes,
                tls=tls,
            )
            for number in range(count)
        ]
        self.servers = [Server(node) for node in self.nodes]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(node.url for node in self.nodes)

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for node in self.nodes:
            wait_for_port(node)

    def stop(self) -> None:
        for server in self.servers:
            server.kill()

    def __enter__(self) -> "Servers":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Ports that the kernel gives out now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_for_port(node: Node) -> None:
    until = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection((node.address, node.client_port), 1).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                log = node.folder / "server.log"
                raise Unavailable(f"NATS server {node.name} does not answer: see {log}") from error
            time.sleep(0.05)
