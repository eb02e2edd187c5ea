# SPDX-License-Identifier: Apache-2.0
"""Members for tests: directors of one cluster on the segment of the lab's one-pop, one store."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from daemon.site import VIP4, Site
from limpet.api.places import places
from limpet.lab import namespace
from limpet.lab.topology import Topology

OWN = """
[director]
name = "{name}"
pop = "{pop}"
interfaces = ["eth0"]
flows_max = 4096
sessions_max = 4096

[cluster]
name = "edge"
listen = "{address}:7117"
key_file = "{key}"
{more}
"""
SHARED = """
[[pop]]
name = "fra"
costs = { par = 10 }

[[pop]]
name = "par"
costs = { fra = 10 }

[[backend]]
name = "b1"
address = "10.10.0.11"
pop = "fra"

[[backend]]
name = "b2"
address = "10.10.0.12"
pop = "par"

[[pool]]
name = "web"
backends = { b1 = 1, b2 = 1 }

[[vip]]
name = "web4"
address = "192.0.2.10"
protocol = "udp"
port = "all"
pool = "web"
"""
THIRD = """
[[backend]]
name = "b3"
address = "10.10.0.13"
pop = "par"
"""
WITH_THIRD = SHARED.replace("b2 = 1 }", "b2 = 1, b3 = 1 }") + THIRD


TRAFFIC_S = 0.2
WAIT_S = 60.0  # for what must come: the machine may stand still meanwhile


class Member(Site):
    """One director of the cluster."""

    def __init__(
        self, lab: str, topology: Topology, folder: Path, host: str, pop: str, more: str = ""
    ) -> None:
        self.lab, self.topology, self.host = lab, topology, host
        self.name = f"{lab}-{host}"
        self.file, self.log = folder / f"{host}.toml", folder / f"{host}.log"
        self.shared = folder / "shared.toml"
        self.places = places(self.name, state=folder / f"state-{host}")
        self.processes: list[subprocess.Popen[bytes]] = []
        key = folder / "cluster.key"
        key.touch(mode=0o600)
        key.write_bytes(bytes(range(32)))
        address = topology.interface4(topology.find(host)).ip
        self.address = str(address)
        self.file.write_text(
            OWN.format(name=self.name, pop=pop, address=address, key=key, more=more)
        )

    @property
    def netns(self) -> str:
        return f"{self.lab}-{self.host}"

    def apply(self, text: str, *options: str, status: int = 0) -> str:
        self.shared.write_text(text)
        return self.cli("apply", str(self.shared), *options, status=status)

    def of(self, member: "Member") -> dict[str, Any]:
        """What this one sees of another."""
        rows = [row for pop in self.get("/v1/pops")["pops"] for row in pop["directors"]]
        return next((row for row in rows if row["name"] == member.name), {})

    def generation(self) -> int:
        return int(self.of(self).get("generation", 0))

    @contextmanager
    def in_use(self, ports: range) -> Iterator[None]:
        """Meanwhile the client's flows from these ports have traffic."""
        is_over = threading.Event()
        with ExitStack() as stack:
            with namespace.inside(f"{self.lab}-client1"):  # not in the thread: it is of a process
                made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in ports]
            for client, port in zip(made, ports, strict=True):
                stack.enter_context(client).bind(("", port))

            def talk() -> None:
                while not is_over.wait(TRAFFIC_S):
                    for client in made:
                        client.sendto(b"limpet", (VIP4, 7))

            talking = stack.enter_context(ThreadPoolExecutor(1)).submit(talk)
            try:
                yield
            finally:
                is_over.set()
                talking.result()

    def takes_over(self) -> None:
        """The router sends packets for VIPs here from now on."""
        with namespace.inside(f"{self.lab}-router"):
            argv = ["ip", "route", "replace", "192.0.2.10/32", "via", self.address]
            subprocess.run(argv, check=True)


def settled(*members: Member, revision: int) -> None:
    """Wait until all of them run the same, of that revision, and nothing is under way."""
    deadline = time.monotonic() + WAIT_S
    while True:
        rosters = [member.get("/v1/pops") for member in members]
        rows = [row for pop in rosters[0]["pops"] for row in pop["directors"]]
        rows = [row for row in rows if row["name"] in {m.name for m in members}]
        if (
            len(rows) == len(members)
            and all(not row["differences"] and row["revision"] == revision for row in rows)
            and all(each["preparing"] is None for each in rosters)
        ):
            return
        assert time.monotonic() < deadline, (rosters, [m.says()[-3000:] for m in members])
        time.sleep(0.05)
