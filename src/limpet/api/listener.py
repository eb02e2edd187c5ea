# SPDX-License-Identifier: Apache-2.0
"""Listener: one socket with a uvicorn server behind it, in the event loop of the daemon.

The protocol of unix connections asks the kernel for the peer as soon as there is a connection, and
puts it into the state that every request of it gets; a request cannot put anything there.

A unix socket is made under another name and renamed when it listens, so that a client finds either
one that answers or, after a crash, one that refuses; never a wait.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from limpet.api.access import peer_of
from limpet.core.errors import ConfigError, LimpetError, Problem

MODE = 0o666  # everybody may connect; api/access.py says who may ask
BACKLOG = 128
GRACE_S = 2  # for requests that are under way when the daemon stops
CONNECTIONS_MAX = 256  # of each socket; more are closed at once
FIRST_REQUEST_S = 10  # until the head of the first request is there, else it is closed


class TlsProtocol(H11Protocol):
    """HTTP inside TLS. Who connects and asks for nothing does not keep a place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX and not self._goes_first():
            transport.abort()
        self.loop.call_later(FIRST_REQUEST_S, self._leave_if_silent)

    def _goes_first(self) -> bool:
        return False

    def _leave_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class UnixProtocol(TlsProtocol):
    """HTTP over a unix socket. Anybody on this machine may connect; root always gets in."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.peer = peer_of(transport.get_extra_info("socket"))
        self.app_state = {**self.app_state, "peer": self.peer}
        super().connection_made(transport)

    def _goes_first(self) -> bool:
        return self.peer.uid == 0


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


class Listener:
    """Serves on one socket from `start` to `stop`."""

    def __init__(self, app: ASGIApp, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.address = listening.getsockname()
        self._socket = listening
        self._server = _Server(
            uvicorn.Config(
                app,
                http=TlsProtocol if tls else UnixProtocol,
                ws="none",
                ssl_context_factory=(lambda *_: tls) if tls else None,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who asks is known from the connection alone
                lifespan="off",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise LimpetError(f"{self.address}: the API did not start")
            await asyncio.sleep(0.005)

    def refuse(self) -> None:
        """Take no new connections."""
        for each in self._server.servers:
            each.close()

    async def stop(self) -> None:
        """Requests that are under way have a moment to end."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def unix_socket(path: Path) -> socket.socket:
    """A socket that listens there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        listening.bind(str(fresh))
        fresh.chmod(MODE)
        listening.listen(BACKLOG)
        fresh.rename(path)
    except OSError as error:
        listening.close()
        raise LimpetError(f"{path}: cannot listen there: {error.strerror}") from error
    return listening


def tcp_socket(listen: str) -> socket.socket:
    """A socket that listens at "address:port"; an IPv6 address may stand in brackets."""
    host, _, port = listen.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        listening = socket.socket(family, socket.SOCK_STREAM)
    except ValueError as error:
        mend = 'write it as "192.0.2.1:8443" or "[2001:db8::1]:8443"'
        raise ConfigError([Problem(f"api.listen: {listen}", str(error), mend)]) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(address), int(port)))
        listening.listen(BACKLOG)
    except (OSError, OverflowError, ValueError) as error:
        listening.close()
        why = f"cannot listen there: {getattr(error, 'strerror', None) or error}"
        mend = "name an address of this machine and a port that is free"
        raise ConfigError([Problem(f"api.listen: {listen}", why, mend)]) from error
    return listening
