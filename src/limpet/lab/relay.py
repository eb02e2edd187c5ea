# SPDX-License-Identifier: Apache-2.0
"""A slow link: a process on the way of frames that keeps each one for a while.

Runs in the namespace of the host that has the interfaces. The program `delay` (bpf/) takes frames
at an interface into a TAP device of this process, one device for each interface and direction, and
puts what comes back out of it where it was taken; so routes, neighbours and BGP notice nothing.
Frames of one interface and direction that have the same delay keep their order. No kernel module is
needed for it: netem is missing in small kernels.

On SIGTERM it takes no more frames, lets the waiting ones go in time, and ends. What does not fit is
lost, as in a router, and said in the log. Python copies every frame: some 10,000 a second.
"""

import contextlib
import errno
import fcntl
import heapq
import json
import os
import select
import signal
import struct
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from pyroute2 import IPRoute, NetlinkError

from limpet.datapath.elf import Object

OBJECT = Path(__file__).parent.parent / "datapath" / "delay.bpf.o"
FRAMES_MAX = 20_000  # that wait
FRAME_BYTES_MAX = 65_550
BATCH = 64  # frames of one device before those of others
PEERS_MAX = 64
MAC_BYTES = 6
TAP_MTU, TAP_QUEUE = 9_100, 1_000
LOOK_S = 0.1  # for SIGTERM
CLSACT, INGRESS, EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
BPF_F_INGRESS = 1
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Way(BaseModel):
    """How long frames to these destinations are kept; to all, if there are none."""

    model_config = ConfigDict(frozen=True)

    delay_ms: float
    peers: tuple[str, ...] = ()  # MAC addresses


class Hook(BaseModel):
    """Where frames are taken: as they come in at an interface, or as they leave by it."""

    model_config = ConfigDict(frozen=True)

    interface: str
    leaves: bool
    ways: tuple[Way, ...]


@dataclass
class Station:
    """A hook in use: its TAP device, and its programs."""

    hook: Hook
    name: str
    fd: int = -1
    index: int = 0
    every_s: float = 0.0
    by_peer_s: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for way in self.hook.ways:
            if not way.peers:
                self.every_s += way.delay_ms / 1_000
            for peer in map(_mac, way.peers):
                self.by_peer_s[peer] = self.by_peer_s.get(peer, 0.0) + way.delay_ms / 1_000

    def open(self, link: IPRoute) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = struct.pack("16sH22x", self.name.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(self.fd, TUNSETIFF, wanted)
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6").write_text("1")
        (tap,) = link.link_lookup(ifname=self.name)
        link.link("set", index=tap, mtu=TAP_MTU, txqlen=TAP_QUEUE)
        link.link("set", index=tap, state="up")
        (self.index,) = link.link_lookup(ifname=self.hook.interface)
        programs = self._load(tap)
        try:
            _attach(link, tap, INGRESS, programs.program_fd("back"))
            _attach(link, self.index, self._parent, programs.program_fd("away"))
        finally:
            programs.close()

    def release(self, link: IPRoute) -> None:
        """Take no more."""
        with contextlib.suppress(NetlinkError):  # the interface is gone
            link.tc("del-filter", "bpf", index=self.index, handle=1, prio=1, parent=self._parent)

    def delay_s(self, frame: bytes) -> float:
        return self.every_s + self.by_peer_s.get(frame[:MAC_BYTES], 0.0)

    @property
    def _parent(self) -> int:
        return EGRESS if self.hook.leaves else INGRESS

    def _load(self, tap: int) -> Object:
        peers = [] if self.every_s else sorted(self.by_peer_s)
        if len(peers) > PEERS_MAX:
            raise SystemExit(f"{len(peers)} hosts behind {self.hook.interface}; {PEERS_MAX} work")
        flags = 0 if self.hook.leaves else BPF_F_INGRESS
        words = b"".join(peer.ljust(8, b"\0") for peer in peers).ljust(8 * PEERS_MAX, b"\0")
        programs = Object(OBJECT)
        programs.set_constants(struct.pack("<4I", tap, self.index, flags, len(peers)) + words)
        programs.load()
        return programs


@dataclass
class Relay:
    """All stations of one host, and the frames that wait."""

    stations: dict[int, Station]  # by descriptor
    waiting: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    lost: int = 0
    is_ending: bool = False
    _numbers: "count[int]" = field(default_factory=count)

    def run(self) -> None:
        while self.waiting or not self.is_ending:
            ahead = self.waiting[0][0] - time.monotonic() if self.waiting else LOOK_S
            timeout = min(max(ahead, 0.0), LOOK_S)
            for fd in select.select(list(self.stations), [], [], timeout)[0]:
                self._take(fd)
            self._let_go()

    def _take(self, fd: int) -> None:
        station = self.stations[fd]
        for _ in range(BATCH):
            try:
                frame = os.read(fd, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if len(self.waiting) >= FRAMES_MAX:
                self._lose()
                continue
            due = time.monotonic() + station.delay_s(frame)
            heapq.heappush(self.waiting, (due, next(self._numbers), fd, frame))

    def _let_go(self) -> None:
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, fd, frame = heapq.heappop(self.waiting)
            try:
                os.write(fd, frame)
            except OSError:  # the interface is down, or its queue full
                self._lose()

    def _lose(self) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:
            print(f"{self.lost} frames lost; {len(self.waiting)} wait", flush=True)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _attach(link: IPRoute, index: int, parent: int, program: int) -> None:
    try:
        link.tc("add", "clsact", index=index)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    place = {"index": index, "handle": 1, "prio": 1, "parent": parent}
    link.tc("replace-filter", "bpf", fd=program, name="delay", direct_action=True, **place)


def main(file: Path, ready: Path) -> None:
    hooks = [Hook.model_validate(each) for each in json.loads(file.read_text())]
    stations = [Station(hook, f"delay{number}") for number, hook in enumerate(hooks)]
    with IPRoute() as link:
        for station in stations:
            station.open(link)
    relay = Relay({station.fd: station for station in stations})

    def end(_number: int, _frame: object) -> None:
        with IPRoute() as link:
            for station in stations:
                station.release(link)
        relay.is_ending = True

    signal.signal(signal.SIGTERM, end)
    ready.touch()
    relay.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
