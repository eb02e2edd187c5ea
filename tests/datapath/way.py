# SPDX-License-Identifier: Apache-2.0
"""A director's machine with its own way to a backend: the pair of tests/agent, other way round.

The backend has the agent and holds the VIPs; on the director's side are the map `backends`, as its
daemon would fill it, and what datapath/outbound.py makes. No XDP program runs there.
"""

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

from agent.namespaces import BACKEND4, BACKEND6, VETH, VIP4, VIP6, Pair
from limpet.agent import installation
from limpet.agent.config import AgentConfig
from limpet.core.errors import NotFound
from limpet.core.model import BackendId, BackendRow, Director, Encapsulation, NextHop
from limpet.datapath import bpf, elf, outbound, rows
from limpet.lab import namespace

BACKEND = BackendId(7)
SO_MARK = 36
WAIT_S = 30.0  # for what must come: the machine may stand still meanwhile


class Way:
    """The two machines, prepared; `put` makes the way."""

    def __init__(self, pair: Pair, mark: int = 0x6C69_0000) -> None:
        self.pair = pair
        self.director = Director(name=pair.name, interfaces=(VETH,), mark=mark)
        bpf.mount_bpffs()
        self.pins = bpf.BPFFS / "limpet" / f"{pair.name}-director"
        (self.pins / "maps").mkdir(parents=True)
        self._pin_backends()

    def _pin_backends(self) -> None:
        made = elf.Object(outbound.OBJECT)
        made.load()
        bpf.pin(made.map_fd("backends"), self.pins / "maps" / "backends")
        made.close()

    def put(self) -> None:
        with self.pair.inside(self.pair.client):
            outbound.put(self.director, self.pins)

    def install_agent(self) -> None:
        values = {
            "name": self.pair.name,
            "interface": VETH,
            "directors": ["100.64.0.0/16", "fd00:11be:7::/96"],
            "vips": [VIP4, VIP6],
        }
        with self.pair.inside(self.pair.backend):
            installation.apply(AgentConfig.model_validate(values))

    def hop(self, mtu: int = 1500) -> NextHop:
        """The backend as the neighbour that it is."""
        macs = []
        for name in (self.pair.client, self.pair.backend):
            with namespace.netlink(name) as link:
                index = link.link_lookup(ifname=VETH)[0]
                macs.append((index, link.get_links(index)[0].get_attr("IFLA_ADDRESS")))
        (ifindex, own), (_, other) = macs
        return NextHop(ifindex, _mac(other), _mac(own), mtu)

    def put_backend(
        self,
        outer: int,
        hop: NextHop | None = None,
        encapsulation: Encapsulation = Encapsulation.IPIP,
    ) -> None:
        """The backend's row, as the daemon writes it; `outer` is a family."""
        address = ip_address(BACKEND4 if outer == 4 else BACKEND6)
        row = rows.encode_backend(BackendRow(BACKEND, address, encapsulation, hop))
        fd = bpf.get(self.pins / "maps" / "backends")
        bpf.map_update(fd, BACKEND.to_bytes(4, "little"), row.tobytes())
        os.close(fd)

    def calling(self, vip: str, kind: socket.SocketKind, backend: int = BACKEND) -> socket.socket:
        """A marked socket of the director's machine."""
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET
        with self.pair.inside(self.pair.client):
            made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, self.director.mark | backend)
        made.settimeout(WAIT_S)
        return made

    def counters(self) -> dict[str, int]:
        """Those that are not 0; what passes is not ours, so it is left out."""
        found = outbound.read_counters(self.pins)
        del found["pass"]
        return {name: count for name, count in found.items() if count}

    def remove(self) -> None:
        with self.pair.inside(self.pair.client):
            outbound.remove(self.pins)
        with self.pair.inside(self.pair.backend), contextlib.suppress(NotFound):
            installation.remove(self.pair.name)
        shutil.rmtree(self.pins, ignore_errors=True)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@contextlib.contextmanager
def built(name: str) -> Iterator[Way]:
    """A way of this name, removed again whatever happens."""
    pair = Pair(name)
    try:
        pair.build()
        way = Way(pair)
        try:
            yield way
        finally:
            way.remove()
    finally:
        pair.remove()


@contextlib.contextmanager
def echoing(listener: socket.socket, total: int) -> Iterator[None]:
    """Meanwhile the first connection gets back the `total` bytes that it sent."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.settimeout(WAIT_S)
                data = received(client, total)
                client.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def received(sock: socket.socket, total: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = bytearray()
    while len(data) < total and (more := sock.recv(65_536)):
        data += more
    return bytes(data)
