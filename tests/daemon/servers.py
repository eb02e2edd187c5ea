# SPDX-License-Identifier: Apache-2.0
"""Servers that health checks are tried on: real sockets on loopback, in the loop of the test."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from limpet.core.model import (
    Backend,
    BackendId,
    CheckKind,
    CheckPath,
    Desired,
    Director,
    HealthCheck,
    Pool,
)

PATIENT_S = 20.0  # of a check that is to be answered: this machine may stall meanwhile
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EXTENSIONS = "subjectAltName=DNS:web.example,IP:127.0.0.1\nbasicConstraints=CA:TRUE\n"


class Server:
    """Listens on a port of its own; counts how many are connected."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.port = 0
        self.arrivals: list[float] = []
        self.now = 0
        self.most = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrivals.append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        self.now -= 1
        writer.close()


@contextlib.asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(serve)
    listener = await asyncio.start_server(server.take, "127.0.0.1", 0, ssl=tls, backlog=1_000)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses connections: taken, so that nobody else gets it, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers; until the other end goes."""
    while await reader.read(1_000):
        pass


def answering(*pieces: bytes) -> Serve:
    """Answers a request by these pieces, each a packet of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)

    return serve


def response(status: int, body: bytes = b"", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} Words\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def certificate(folder: Path, days: int) -> Path:
    """A self-signed certificate for web.example and 127.0.0.1 with its key, in one file."""
    key, request, made = folder / "key.pem", folder / "request.pem", folder / f"{days}.pem"
    (folder / "extensions").write_text(EXTENSIONS)
    for command in (
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=web.example "
        f"-keyout {key} -out {request}",
        f"openssl x509 -req -in {request} -signkey {key} -days {days} -out {made} "
        f"-extfile {folder}/extensions",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made


def tls_server(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@contextlib.contextmanager
def without_descriptors() -> Iterator[None]:
    """Meanwhile this process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.open(os.devnull, os.O_RDONLY)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_alive(pid: int) -> bool:
    """Not a zombie that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def direct(kind: CheckKind, port: int, **more: object) -> HealthCheck:
    values = {"path": CheckPath.DIRECT, "interval_s": 0.1, "timeout_s": PATIENT_S, **more}
    return HealthCheck(kind=kind, port=port, **values)  # type: ignore[arg-type]


def desired(check: HealthCheck | None, count: int = 1, first: str = "127.0.0.1") -> Desired:
    """A pool "web" of backends b1, b2 ... on addresses of loopback."""
    start = ip_address(first)
    backends = tuple(Backend(f"b{number + 1}", start + number) for number in range(count))
    pool = Pool("web", {backend.name: 1 for backend in backends}, health=check)
    return Desired(Director("d1", ("lo",)), backends, (pool,))


def ids(wanted: Desired) -> dict[str, BackendId]:
    return {each.name: BackendId(number) for number, each in enumerate(wanted.backends, 1)}
