# SPDX-License-Identifier: Apache-2.0
"""Real TCP sessions for the lab: a server with state, sessions held, short connections.

The server counts the requests of each connection and answers "<its name> <count>". A client knows
what the next answer must be, so it notices a session that moved to another backend, was reset, lost
an answer or began anew. Run inside the lab's hosts, as `python -m limpet.lab.workload ...`; what
the clients find goes to standard output as one JSON object a line.
"""

import argparse
import asyncio
import collections
import ipaddress
import itertools
import json
import socket
import sys
import time
from dataclasses import dataclass, field

ANSWER_MAX_S = 20.0  # a session without an answer for so long is broken
CONNECT_MAX_S = 10.0
REPORT_S = 0.25
PARALLEL = 64  # short connections at once
BACKLOG = 4_096


async def serve(name: str, port: int) -> None:
    """Answer on all addresses of both families until killed."""

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        try:
            while await reader.readline():
                count += 1
                writer.write(f"{name} {count}\n".encode())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    servers = [
        await asyncio.start_server(session, host, port, backlog=BACKLOG, reuse_address=True)
        for host in ("0.0.0.0", "::")
    ]
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


class BrokenSessionError(Exception):
    """A session did not get the answer that it must get; the text says what came instead."""


@dataclass
class Session:
    """One TCP connection through a VIP, from an address of this host."""

    vip: str
    port: int
    source: str
    source_port: int = 0  # 0: whichever is free
    backend: str = ""
    count: int = 0
    longest_gap_s: float = 0.0
    broken: str = ""
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

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
            writer.write(b"?\n")
            answer = await asyncio.wait_for(reader.readline(), ANSWER_MAX_S)
        except TimeoutError as error:
            raise BrokenSessionError(f"no answer for {ANSWER_MAX_S:.0f} s") from error
        except OSError as error:
            raise BrokenSessionError(error.strerror or str(error)) from error
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - begun)
        self._check(answer.decode().split())

    def _check(self, answer: list[str]) -> None:
        if len(answer) != 2:
            raise BrokenSessionError("closed by the server")
        name, count = answer[0], int(answer[1])
        if self.backend and name != self.backend:
            raise BrokenSessionError(f"moved from {self.backend} to {name}")
        if count != self.count + 1:
            raise BrokenSessionError(f"the server lost its state: count {count} after {self.count}")
        self.backend, self.count = name, count

    def row(self) -> dict[str, object]:
        return {
            "vip": self.vip,
            "source": self.source,
            "source_port": self.source_port,
            "backend": self.backend,
            "count": self.count,
            "broken": self.broken,
        }

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@dataclass
class Held:
    """Sessions that are held open, and what became of them."""

    sessions: list[Session] = field(default_factory=list)
    exchanges: int = 0
    half_rests: bool = False

    def report(self) -> dict[str, object]:
        alive = [session for session in self.sessions if not session.broken]
        gaps = [session.longest_gap_s for session in self.sessions]
        return {
            "sessions": len(self.sessions),
            "alive": len(alive),
            "exchanges": self.exchanges,
            "by_backend": dict(collections.Counter(session.backend for session in alive)),
            "longest_gap_ms": round(max(gaps, default=0) * 1_000),
            "broken": [
                f"{s.source} -> {s.vip} on {s.backend}: {s.broken}"
                for s in self.sessions
                if s.broken
            ],
            "rows": [session.row() for session in self.sessions],
        }


async def hold(targets: "Targets", number: int, every_s: float) -> None:
    """Hold sessions until standard input ends, exchanging on each; report all the while.

    After a line "rest" on standard input half of the sessions, of every VIP, say nothing; after any
    other line they go on.
    """
    held = Held()
    opening = [Session(vip, targets.port, source) for vip, source in targets.pairs(number)]
    for session in opening:
        held.sessions.append(session)
        try:
            await session.open()
        except BrokenSessionError as error:
            session.broken = str(error)
    may_rest = itertools.cycle([False] * len(targets.vips) + [True] * len(targets.vips))
    pairs = zip(held.sessions, may_rest, strict=False)
    tasks = [asyncio.create_task(_keep(held, each, every_s, rests)) for each, rests in pairs]
    print(json.dumps(held.report()), flush=True)
    ended = asyncio.create_task(_obey(held))
    while not ended.done():
        await asyncio.wait({ended}, timeout=REPORT_S)
        print(json.dumps(held.report()), flush=True)
    for task in tasks:
        task.cancel()
    for session in held.sessions:
        session.close()
    print(json.dumps({**held.report(), "final": True}), flush=True)


async def _obey(held: Held) -> None:
    """What standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        held.half_rests = line.strip() == "rest"


async def _keep(held: Held, session: Session, every_s: float, may_rest: bool) -> None:
    while not session.broken:
        if held.half_rests and may_rest:
            await asyncio.sleep(every_s)
            continue
        try:
            await session.exchange()
            held.exchanges += 1
        except BrokenSessionError as error:
            session.broken = str(error)
        await asyncio.sleep(every_s)


async def short(targets: "Targets", number: int, port_first: int) -> None:
    """Open `number` connections, one exchange each; report how they spread over backends.

    Each source's first connection is from `port_first`, its next from the one after, so that two
    runs can be the same to a hash over ports. 0: from whichever ports are free.
    """
    spread: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    pairs = iter(targets.pairs(number))
    used: collections.Counter[tuple[str, str]] = collections.Counter()

    async def work() -> None:
        for pair in pairs:
            vip, source = pair
            source_port = port_first + used[pair] if port_first else 0
            used[pair] += 1
            session = Session(vip, targets.port, source, source_port)
            try:
                await session.open()
                spread[session.backend] += 1
            except BrokenSessionError as error:
                failed[str(error)] += 1
            session.close()

    await asyncio.gather(*(work() for _ in range(PARALLEL)))
    print(json.dumps({"by_backend": dict(spread), "failed": dict(failed)}), flush=True)


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


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version


def own_sources() -> list[str]:
    """Global addresses of this host's eth0."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = route.link_lookup(ifname="eth0")[0]
        messages = list(route.get_addr(index=index)) + list(
            route.get_addr(index=socket.if_nametoindex("lo"))
        )
    found = [ipaddress.ip_address(m.get_attr("IFA_ADDRESS")) for m in messages]
    return [str(a) for a in found if not a.is_link_local and not a.is_loopback]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve")
    server.add_argument("name")
    server.add_argument("port", type=int)
    for command in ("hold", "short"):
        client = commands.add_parser(command)
        client.add_argument("number", type=int)
        client.add_argument("port", type=int)
        client.add_argument("vips", nargs="+")
        client.add_argument("--every", type=float, default=0.2, metavar="SECONDS")
        client.add_argument("--port-first", type=int, default=0)
    options = parser.parse_args()
    if options.command == "serve":
        asyncio.run(serve(options.name, options.port))
        return
    targets = Targets(options.vips, options.port, own_sources())
    if options.command == "hold":
        asyncio.run(hold(targets, options.number, options.every))
    else:
        asyncio.run(short(targets, options.number, options.port_first))


if __name__ == "__main__":
    main()
