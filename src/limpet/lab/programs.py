# SPDX-License-Identifier: Apache-2.0
"""Programs on a lab's hosts beside limpet's: BIRD on routers, nats-server on store nodes, exits.

Says for each host what is run, with which files. They have to be installed; a lab without an
internet needs none of them. What a store node has written stays over its death, as on a disk.
"""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from limpet.core.errors import LimpetError, Unsupported
from limpet.lab import configuration, folder, internet, nats
from limpet.lab.network import netns_of
from limpet.lab.process import Process, spawn, tail
from limpet.lab.topology import Host, Role, Topology

STORE_PORT, STORE_CLUSTER_PORT = 4222, 6222
BIRD, BIRDC = "bird", "birdc"
COMMAND_WAIT_S = 10.0
SOCKET_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Program:
    """One process on a host. `key` is its name among the lab's processes."""

    key: str
    netns: str
    argv: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]
    log: Path
    ready: Path | None = None  # a socket that it makes

    def start(self) -> Process:
        """Raises Unsupported if it is not installed, LimpetError if it ends at once."""
        if shutil.which(self.argv[0]) is None:
            raise Unsupported(f"there is no {self.argv[0]} on this machine: run tools/setup.sh")
        if self.ready is not None:
            self.ready.unlink(missing_ok=True)
        for path, text in self.files:
            path.write_text(text)
        process = spawn(list(self.argv), self.netns, self.log)
        self._wait(process)
        return process

    def _wait(self, process: Process) -> None:
        deadline = time.monotonic() + SOCKET_WAIT_S
        while self.ready is not None and not self.ready.exists():
            if not process.is_alive() or time.monotonic() > deadline:
                raise LimpetError(f"{self.key} does not start; its log:\n{tail(self.log)}")
            time.sleep(0.005)


def of(lab: str, topology: Topology, host: Host) -> list[Program]:
    """What runs on the host besides limpet."""
    if topology.internet is None:
        return []
    match host.role:
        case Role.ROUTER:
            text = internet.router_file(topology, host, preference_path(lab, host))
            preference = internet.preference_file(topology, host.prefers)
            return [_bird(lab, host, text, ((preference_path(lab, host), preference),))]
        case Role.DIRECTOR:
            announces = topology.bgp is None
            bird = [_bird(lab, host, internet.director_file(topology, host), ())]
            exit = [_exit(lab, topology, host)] if topology.exits else []
            return (bird if announces else []) + exit
        case Role.STORE:
            return [_nats(lab, topology, host)]
        case _:
            return []


def preference_path(lab: str, router: Host) -> Path:
    return folder.of(lab) / f"{router.name}.preference.conf"


def prefer(lab: str, topology: Topology, router: Host) -> None:
    """Have the router's BIRD read again what it is to prefer. Raises LimpetError if it does not."""
    preference_path(lab, router).write_text(internet.preference_file(topology, router.prefers))
    ask_bird(lab, router, "configure", wanted="Reconfigur")


def ask_bird(lab: str, router: Host, *words: str, wanted: str = "") -> str:
    """What BIRD on the router answers to a command of birdc."""
    argv = [BIRDC, "-s", str(_bird_socket(lab, router)), *words]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_WAIT_S)
    except subprocess.TimeoutExpired as error:
        raise LimpetError(f"BIRD on {router.name} does not answer") from error
    if done.returncode or wanted not in done.stdout:
        said = (done.stdout + done.stderr).strip()
        raise LimpetError(f"BIRD on {router.name} refused `{' '.join(words)}`: {said}")
    return done.stdout


def membership(lab: str, topology: Topology) -> configuration.Membership:
    key_file = folder.of(lab) / "cluster.key"
    return configuration.Membership(tuple(store_urls(lab, topology)), str(key_file))


def store_urls(lab: str, topology: Topology) -> list[str]:
    return [_node(lab, topology, host).url for host in topology.hosts(Role.STORE)]


# --- Kinds --------------------------------------------------------------------------------------


def _bird_socket(lab: str, host: Host) -> Path:
    return folder.of(lab) / f"{host.name}.bird.ctl"


def _bird(lab: str, host: Host, text: str, more: tuple[tuple[Path, str], ...]) -> Program:
    path, control = folder.of(lab) / f"{host.name}.bird.conf", _bird_socket(lab, host)
    return Program(
        key=f"{host.name}/bird",
        netns=netns_of(lab, host),
        argv=(BIRD, "-f", "-c", str(path), "-s", str(control)),
        files=((path, text), *more),
        log=folder.of(lab) / f"{host.name}.bird.log",
        ready=control,
    )


def _exit(lab: str, topology: Topology, host: Host) -> Program:
    path = folder.of(lab) / f"{host.name}.exit.toml"
    name = f"{netns_of(lab, host)}.exit"
    return Program(
        key=f"{host.name}/exit",
        netns=netns_of(lab, host),
        argv=(sys.executable, "-m", "limpet", "agent", "run", str(path)),
        files=((path, configuration.exit_file(name, topology)),),
        log=folder.of(lab) / f"{host.name}.exit.log",
    )


def _node(lab: str, topology: Topology, host: Host) -> nats.Node:
    nodes = [topology.on_backbone(node)[0] for node in topology.hosts(Role.STORE)]
    return nats.Node(
        name=host.name,
        folder=folder.of(lab) / host.name,
        client_port=STORE_PORT,
        address=str(topology.on_backbone(host)[0]),
        cluster=lab,
        cluster_port=STORE_CLUSTER_PORT,
        routes=tuple(f"{node}:{STORE_CLUSTER_PORT}" for node in nodes),
    )


def _nats(lab: str, topology: Topology, host: Host) -> Program:
    node = _node(lab, topology, host)
    return Program(
        key=f"{host.name}/nats",
        netns=netns_of(lab, host),
        argv=(str(nats.program()), "-c", str(nats.write_configuration(node))),
        files=(),
        log=node.folder / "output.log",
    )
