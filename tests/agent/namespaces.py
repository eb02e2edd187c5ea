# SPDX-License-Identifier: Apache-2.0
"""Two machines for tests: a client that encapsulates what it sends to the VIPs, and a backend.

Traffic of the client's own sockets to a VIP goes into a TUN device, from where `Director` sends it
on inside an outer header, as the XDP program of a director does. Replies come back directly over
the veth pair. So the two sides speak with ordinary sockets, through the kernel's real stack.
"""

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2 import NetlinkError

from limpet.lab import namespace, offload
from limpet.lab.probe import header

VETH, TUN = "eth0", "tun0"
CLIENT4, CLIENT6 = "10.0.0.1", "2001:db8:a::1"
BACKEND4, BACKEND6 = "10.0.0.11", "2001:db8:a::11"
VIP4, VIP6 = "192.0.2.10", "2001:db8::10"
DIRECTOR4, DIRECTOR6 = "100.64.9.9", "fd00:11be:7::9:9"
NO_DAD = 0x02
WAIT_S = 20.0  # for what has to come: a machine may stall
TUN_DEVICE = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
IPIP, IP6 = socket.IPPROTO_IPIP, socket.IPPROTO_IPV6


class Pair:
    """Namespaces <prefix>-client and <prefix>-backend."""

    def __init__(self, prefix: str, mtu: int = 1500) -> None:
        self.name = prefix  # also fit for an agent
        self.client, self.backend = f"{prefix}-client", f"{prefix}-backend"
        self.mtu = mtu

    def build(self) -> None:
        for name in (self.client, self.backend):
            namespace.create(name)
            # Else the first packet waits until the link-local address is found to be unique.
            namespace.sysctl(name, {"ipv6.conf.default.accept_dad": "0"})
        self.connect()

    def connect(self) -> None:
        """Make the link, and bring both ends up."""
        peer = {"ifname": VETH, "net_ns_fd": self.backend, "mtu": self.mtu}
        with namespace.netlink(self.client) as link:
            link.link("add", ifname=VETH, kind="veth", mtu=self.mtu, peer=peer)
        offload.prepare(self.client, VETH, polls=True)
        offload.prepare(self.backend, VETH, polls=False)
        self._configure(self.client, CLIENT4, CLIENT6)
        self._configure(self.backend, BACKEND4, BACKEND6)

    def _configure(self, name: str, own4: str, own6: str) -> None:
        with namespace.netlink(name) as link:
            index = link.link_lookup(ifname=VETH)[0]
            for each in (link.link_lookup(ifname="lo")[0], index):
                link.link("set", index=each, state="up")
            link.addr("add", index=index, address=own4, prefixlen=24)
            link.addr("add", index=index, address=own6, prefixlen=64, flags=NO_DAD)

    def inside(self, name: str) -> contextlib.AbstractContextManager[None]:
        return namespace.inside(name)

    def resize(self, mtu: int) -> None:
        """Another MTU on both ends."""
        self.mtu = mtu
        for name in (self.client, self.backend):
            with namespace.netlink(name) as link:
                link.link("set", index=link.link_lookup(ifname=VETH)[0], mtu=mtu)

    def addresses(self) -> set[str]:
        """Of the backend, on any interface, but for link-local ones: they come when they like."""
        with namespace.netlink(self.backend) as link:
            found = {str(message.get_attr("IFA_ADDRESS")) for message in link.get_addr()}
        return {address for address in found if not address.startswith("fe80:")}

    def sysctl(self, key: str) -> str:
        with self.inside(self.backend):
            return Path("/proc/sys/net/ipv4/conf", key).read_text().strip()

    def remove(self) -> None:
        for name in (self.client, self.backend):
            with contextlib.suppress(NetlinkError, OSError):
                namespace.kill_processes(name)
            namespace.remove(name)


class Director:
    """While open, what the client sends to a VIP arrives at the backend encapsulated."""

    def __init__(self, pair: Pair, outer: int, source: str | None = None) -> None:
        """`outer` is the family of the outer header, 4 or 6."""
        self._pair = pair
        self._target = ip_address(BACKEND4 if outer == 4 else BACKEND6)
        self._source = ip_address(source or (DIRECTOR4 if outer == 4 else DIRECTOR6))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._forward)

    def __enter__(self) -> Self:
        if not TUN_DEVICE.exists():
            subprocess.run(["modprobe", "tun"], check=True)
        family = socket.AF_INET if self._target.version == 4 else socket.AF_INET6
        with self._pair.inside(self._pair.client):
            self._tun = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
            request = struct.pack("16sH22x", TUN.encode(), IFF_TUN | IFF_NO_PI)
            fcntl.ioctl(self._tun, TUNSETIFF, request)
            self._out = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with namespace.netlink(self._pair.client) as link:
            index = link.link_lookup(ifname=TUN)[0]
            link.link("set", index=index, state="up", mtu=self._pair.mtu)
            for vip, source in ((VIP4, CLIENT4), (VIP6, CLIENT6)):
                length = 32 if "." in vip else 128
                link.route("add", dst=f"{vip}/{length}", oif=index, prefsrc=source)
        self._thread.start()
        return self

    def _forward(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._tun], [], [], 0.05)[0]:
                continue
            packet = os.read(self._tun, 65_535)
            if packet[0] >> 4 == 6 and packet[24:40] != ip_address(VIP6).packed:
                continue  # router solicitations and the like
            protocol = IPIP if packet[0] >> 4 == 4 else IP6
            outer = header(self._source, self._target, protocol, len(packet))
            with contextlib.suppress(OSError):  # longer than the MTU: lost, as on a wire
                self._out.sendto(outer + packet, (str(self._target), 0))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._tun)
        self._out.close()


@contextlib.contextmanager
def listening(pair: Pair, vip: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A socket of the application's on the backend, port 7."""
    with pair.inside(pair.backend):
        made = socket.socket(family_of(vip), kind)
    with made:
        made.settimeout(WAIT_S)
        made.bind((vip, 7))
        if kind == socket.SOCK_STREAM:
            made.listen()
        yield made


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def calling(pair: Pair, vip: str, kind: socket.SocketKind) -> socket.socket:
    """A socket of the client's, which has yet to connect to the VIP."""
    with pair.inside(pair.client):
        made = socket.socket(family_of(vip), kind)
    made.settimeout(WAIT_S)
    return made


def ask(client: socket.socket, server: socket.socket) -> bool:
    """One datagram from the client to the VIP and back. TimeoutError if either is lost."""
    client.send(b"question")
    data, sender = server.recvfrom(100)
    server.sendto(data + b" answered", sender)
    return client.recv(100) == b"question answered"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask_once(pair: Pair, server: socket.socket, vip: str) -> bool:
    with calling(pair, vip, socket.SOCK_DGRAM) as client:
        client.connect((vip, 7))
        return ask(client, server)
