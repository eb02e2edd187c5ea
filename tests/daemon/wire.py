# SPDX-License-Identifier: Apache-2.0
"""A wire for tests of resets: client, director and backend in namespaces of their own.

The director routes between the two and listens to what clients send, as the XDP program does. It
has a route to the VIPs only for what comes from clients or bears the mark.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import count

import numpy as np

from limpet.daemon import segment
from limpet.daemon.segment import Flow, Numbers
from limpet.datapath import abi
from limpet.datapath.rows import mapped
from limpet.lab import namespace

VIPS = {4: "192.0.2.10", 6: "2001:db8:0:10::10"}
LINKS = {"client": ("10.0.1.", "2001:db8:1::"), "backend": ("10.0.2.", "2001:db8:2::")}
CLIENTS = {4: "10.0.1.2", 6: "2001:db8:1::2"}
NO_DAD = 0x02
TABLE, MARK, BACKEND = 77, 0x6C690000, 5
PORT = 7
WAIT_S = 30.0  # for what has to come
TCPI_UNACKED = 24  # where it stands in struct tcp_info
ALL_PROTOCOLS, SO_RCVBUFFORCE = 3, 33
NUMBERS = count(1)
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
Pair = tuple[socket.socket, socket.socket]  # of the client, of the backend


class Wire:
    """Three hosts in a row: <name>-client, <name>-director, <name>-backend."""

    def __init__(self) -> None:
        self.name = f"r{os.getpid()}-{next(NUMBERS)}"
        self.hosts = {each: f"{self.name}-{each}" for each in ("client", "director", "backend")}

    def build(self) -> None:
        for name in self.hosts.values():
            namespace.create(name)
            namespace.sysctl(name, {"ipv6.conf.default.accept_dad": "0"})
        forwarding = {"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1"}
        namespace.sysctl(self.hosts["director"], forwarding)
        for end, (net4, net6) in LINKS.items():
            peer = {"ifname": "eth0", "net_ns_fd": self.hosts[end]}
            with namespace.netlink(self.hosts["director"]) as link:
                link.link("add", ifname=end, kind="veth", peer=peer)
            self._configure("director", end, (net4 + "1", net6 + "1"))
            self._configure(end, "eth0", (net4 + "2", net6 + "2"))
            with namespace.netlink(self.hosts[end]) as link:
                link.route("add", dst="default", gateway=net4 + "1")
                link.route("add", dst="default", gateway=net6 + "1")
        self._lead_to_vips()
        self.sniffer = self._listen()

    def _configure(self, host: str, interface: str, addresses: tuple[str, str]) -> None:
        with namespace.netlink(self.hosts[host]) as link:
            index = link.link_lookup(ifname=interface)[0]
            for each in (link.link_lookup(ifname="lo")[0], index):
                link.link("set", index=each, state="up")
            for address, length in zip(addresses, (24, 64), strict=True):
                flags = NO_DAD if ":" in address else 0
                link.addr("add", index=index, address=address, prefixlen=length, flags=flags)

    def _lead_to_vips(self) -> None:
        with namespace.netlink(self.hosts["backend"]) as link:
            lo = link.link_lookup(ifname="lo")[0]
            for version, vip in VIPS.items():
                link.addr("add", index=lo, address=vip, prefixlen={4: 32, 6: 128}[version])
        with namespace.netlink(self.hosts["director"]) as link:
            for version, vip in VIPS.items():
                gateway = LINKS["backend"][version == 6] + "2"
                link.route("add", dst=vip, gateway=gateway, table=TABLE)
                rule = {"family": FAMILY[version], "table": TABLE}
                link.rule("add", priority=100, iifname="client", **rule)
                link.rule("add", priority=101, fwmark=MARK | BACKEND, **rule)

    def _listen(self) -> socket.socket:
        with namespace.inside(self.hosts["director"]):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PROTOCOLS))
        made.bind(("client", ALL_PROTOCOLS))
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        made.setblocking(False)
        return made

    def heard(self, from_client: bool = True) -> list[tuple[Flow, Numbers, int]]:
        """TCP segments on the client's link since the last call: flow, numbers, flags."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, _, kind, *_) = self.sniffer.recvfrom(2_048)
                parsed = parse(data)
                if parsed and (kind != socket.PACKET_OUTGOING) == from_client:
                    found.append(parsed)
        return found

    def remove(self) -> None:
        with contextlib.suppress(AttributeError):
            self.sniffer.close()
        for name in self.hosts.values():
            namespace.remove(name)


def parse(data: bytes) -> tuple[Flow, Numbers, int] | None:
    """Of a client's segment; of one to a client, with the two ends interchanged."""
    version = data[0] >> 4
    protocol, start, place, size = (
        (data[9], (data[0] & 15) * 4, 12, 4) if version == 4 else (data[6], 40, 8, 16)
    )
    if protocol != segment.TCP:
        return None
    source, target = (ip_address(data[i : i + size]) for i in (place, place + size))
    ports = struct.unpack_from("!HH", data, start)
    sequence, acknowledged, _, flags = struct.unpack_from("!IIBB", data, start + 4)
    flow = Flow(source, ports[0], target, ports[1], BACKEND)
    return flow, Numbers(sequence, acknowledged), flags


def records(heard: list[tuple[Flow, Numbers, int]]) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    """As the ring would have them."""
    made = np.zeros(len(heard), abi.RESET)
    for record, (flow, numbers, _) in zip(made, heard, strict=True):
        record["client"], record["vip_address"] = mapped(flow.client), mapped(flow.vip)
        record["client_port"], record["vip_port"] = flow.client_port, flow.vip_port
        record["sequence"], record["acknowledged"] = numbers.sequence, numbers.acknowledged
        record["backend"], record["family"] = flow.backend, flow.client.version
    return made


@contextlib.contextmanager
def connected(wire: Wire, version: int, many: int) -> Iterator[dict[Flow, Pair]]:
    """Idle connections over which a few bytes went both ways."""
    pairs: dict[Flow, Pair] = {}
    with contextlib.ExitStack() as stack:
        with namespace.inside(wire.hosts["backend"]):
            listener = stack.enter_context(socket.socket(FAMILY[version], socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((VIPS[version], PORT))
        listener.listen(many)
        for _ in range(many):
            with namespace.inside(wire.hosts["client"]):
                client = stack.enter_context(socket.socket(FAMILY[version], socket.SOCK_STREAM))
            client.settimeout(WAIT_S)
            client.connect((VIPS[version], PORT))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(WAIT_S)
            client.send(b"question")
            assert server.recv(100) == b"question"
            server.send(b"answer")
            assert client.recv(100) == b"answer"
            name = ip_address(CLIENTS[version]), client.getsockname()[1]
            pairs[Flow(*name, ip_address(VIPS[version]), PORT, BACKEND)] = client, server
            for end in (client, server):  # close without a FIN that would be repeated later
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: not any(unacknowledged(server) for _, server in pairs.values()))
        yield pairs


def unacknowledged(end: socket.socket) -> int:
    """Segments that it has sent and whose acknowledgements have not come yet."""
    told = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_UNACKED + 4)
    return int(struct.unpack_from("=I", told, TCPI_UNACKED)[0])


def until(condition: Callable[[], object], wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
