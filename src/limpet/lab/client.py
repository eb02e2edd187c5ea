# SPDX-License-Identifier: Apache-2.0
"""A session from the client's side, and the addresses that a client host can speak from.

Every answer has to come from the backend that gave the first one, name this very session, and
count its requests without a gap. Anything else is a broken session, and the text says what came
instead. What the server does is in `server`; what is done with many sessions in `workload`.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import secrets
import socket
import time
from dataclasses import dataclass, field

ANSWER_MAX_S = 20.0  # a session without an answer for so long is broken
CONNECT_MAX_S = 10.0


class BrokenSessionError(Exception):
    """A session did not get the answer that it must get; the text says what came instead."""


@dataclass
class Session:
    """One TCP connection through a VIP, from an address of this host. Times are Unix seconds."""

    vip: str
    port: int
    source: str
    source_port: int = 0  # 0: whichever is free
    number: str = field(default_factory=lambda: secrets.token_hex(4))
    backend: str = ""
    count: int = 0
    longest_gap_s: float = 0.0
    broken: str = ""
    broken_at: float = 0.0
    ended_at: float = 0.0  # when it was closed as it should be
    strays: list[tuple[float, str]] = field(default_factory=list)  # further connections, elsewhere
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_alive(self) -> bool:
        return not self.broken and not self.ended_at

    async def open(self) -> None:
        """Connect and make the first exchange, which says who the backend is."""
        try:
            here = (self.source, self.source_port)
            connecting = asyncio.open_connection(self.vip, self.port, local_addr=here)
            self._streams = await asyncio.wait_for(connecting, CONNECT_MAX_S)
            self.source_port = self._streams[1].get_extra_info("sockname")[1]
            await self.exchange()
        except (OSError, TimeoutError) as error:
            raise BrokenSessionError(f"cannot connect: {error or 'no answer'}") from error

    async def exchange(self) -> None:
        """Ask once; BrokenSessionError unless the same backend answers with the next count."""
        assert self._streams is not None
        reader, writer = self._streams
        begun = time.monotonic()
        try:
            writer.write(f"{self.number}\n".encode())
            answer = await asyncio.wait_for(reader.readline(), ANSWER_MAX_S)
        except TimeoutError as error:
            raise BrokenSessionError(f"no answer for {ANSWER_MAX_S:.0f} s") from error
        except OSError as error:
            raise BrokenSessionError(error.strerror or str(error)) from error
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - begun)
        self._check(answer.decode().split())

    def listen(self) -> None:
        """For a silent session: BrokenSessionError if it was reset or closed meanwhile."""
        assert self._streams is not None
        error = self._streams[0].exception()
        if isinstance(error, OSError):
            raise BrokenSessionError(error.strerror or str(error)) from error
        if self._streams[0].at_eof():
            raise BrokenSessionError("closed by the server")

    def _check(self, answer: list[str]) -> None:
        if len(answer) != 3:
            raise BrokenSessionError("closed by the server")
        name, number, count = answer[0], answer[1], int(answer[2])
        if number != self.number:
            raise BrokenSessionError(f"{name} answers for session {number}, not {self.number}")
        if self.backend and name != self.backend:
            raise BrokenSessionError(f"moved from {self.backend} to {name}")
        if count != self.count + 1:
            raise BrokenSessionError(f"the server lost its state: count {count} after {self.count}")
        self.backend, self.count = name, count

    def fail(self, why: BrokenSessionError) -> None:
        self.broken, self.broken_at = str(why), time.time()

    def row(self) -> dict[str, object]:
        return {
            "vip": self.vip,
            "source": self.source,
            "source_port": self.source_port,
            "backend": self.backend,
            "count": self.count,
            "broken": self.broken,
            "broken_at": self.broken_at,
            "ended_at": self.ended_at,
            "strays": self.strays,
            "longest_gap_ms": round(self.longest_gap_s * 1_000),
        }

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()

    async def end(self) -> None:
        """Close it, as its user would, and note when the last packets had gone."""
        self.close()
        assert self._streams is not None
        with contextlib.suppress(OSError):
            await self._streams[1].wait_closed()
        self.ended_at = time.time()


@dataclass(frozen=True)
class Targets:
    """VIPs to speak to, and addresses to speak from."""

    vips: list[str]
    port: int
    sources: list[str]

    def pairs(self, number: int) -> list[tuple[str, str]]:
        """(VIP, source of its family), VIPs and sources in turn."""
        turns = {
            vip: itertools.cycle([s for s in self.sources if _family(s) == _family(vip)])
            for vip in self.vips
        }
        return [
            (vip, next(turns[vip])) for vip in itertools.islice(itertools.cycle(self.vips), number)
        ]

    def distinct(self) -> int:
        """How many pairs there are before one comes again."""
        fewest = min(
            sum(_family(source) == _family(vip) for source in self.sources) for vip in self.vips
        )
        return fewest * len(self.vips)


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version


def own_sources(skip: int = 0, only: str = "") -> list[str]:
    """Global addresses of this host's eth0, without the first `skip` of each family."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = route.link_lookup(ifname="eth0")[0]
        messages = list(route.get_addr(index=index)) + list(
            route.get_addr(index=socket.if_nametoindex("lo"))
        )
    found = [ipaddress.ip_address(m.get_attr("IFA_ADDRESS")) for m in messages]
    usable = sorted(
        (a for a in found if not a.is_link_local and not a.is_loopback),
        key=lambda a: (a.version, int(a)),
    )
    if only:
        return [str(a) for a in usable if str(a) == only]
    return [str(a) for v in (4, 6) for a in [a for a in usable if a.version == v][skip:]]
