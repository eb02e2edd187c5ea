# SPDX-License-Identifier: Apache-2.0
"""Server: serves the API on a unix socket, and over TCP with TLS if the configuration says so.

The same application behind both. What of TCP cannot be (a certificate that cannot be read, a port
that is taken) is an error of a reload, which then changes nothing; at the start it is logged, and
the unix socket is served alone: forwarding must not wait for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from starlette.types import ASGIApp

from limpet.api import certificate, tokens
from limpet.api.access import Access
from limpet.api.application import application
from limpet.api.audit import Audit
from limpet.api.events import Streams
from limpet.api.gate import Gate
from limpet.api.interface import Director
from limpet.api.listener import Listener, tcp_socket, unix_socket
from limpet.api.tokens import Tokens
from limpet.core.errors import ConfigError, Problem
from limpet.core.model import ApiListen

log = structlog.get_logger()


class Serving:
    """The API while it is served; the daemon sees it as `interface.Service`."""

    def __init__(self, director: Director, path: Path, state: Path | None) -> None:
        audit = Audit(state)
        self._access, self._streams = Access(), Streams()
        self._access.read_groups()
        app = application(director, audit, self._streams)
        self._app: ASGIApp = Gate(app, self._access, audit)
        self._tls = certificate.context()
        self._tcp: Listener | None = None
        self._listen = ""
        self._unix = Listener(self._app, unix_socket(path), None)
        self._retiring: list[asyncio.Task[None]] = []
        self._updating = asyncio.Lock()

    @property
    def tcp_port(self) -> int | None:
        """Where it is served over TCP."""
        return self._tcp.address[1] if self._tcp else None

    async def start(self) -> None:
        await self._unix.start()

    async def update(self, listen: ApiListen) -> None:
        """See `interface.Service`."""
        async with self._updating:
            await self._update(listen)

    async def _update(self, listen: ApiListen) -> None:
        found = _tokens(listen)
        fresh = None
        if listen.listen and listen.listen != self._listen:
            fresh = tcp_socket(listen.listen)
        try:
            if listen.listen:
                certificate.load(self._tls, listen.certificate, listen.key)
        except ConfigError:
            if fresh:
                fresh.close()
            raise
        self._access.tokens = found
        self._access.read_groups()
        if listen.listen != self._listen:
            self._retire_tcp()
            self._listen = listen.listen
        if fresh:
            self._tcp = Listener(self._app, fresh, self._tls)
            await self._tcp.start()
            log.info("API over TCP", listen=listen.listen, tokens=len(found))

    def _retire_tcp(self) -> None:
        """Not waited for: the request that led to it may come from there."""
        if self._tcp:
            self._tcp.refuse()
            self._retiring.append(asyncio.create_task(self._tcp.stop()))
        self._tcp = None

    async def stop(self) -> None:
        """Event streams end at once, other requests have a moment."""
        self._streams.closing.set()
        self._retire_tcp()
        await asyncio.gather(self._unix.stop(), *self._retiring)


@asynccontextmanager
async def serving(
    director: Director, path: Path, state: Path | None = None, listen: ApiListen | None = None
) -> AsyncIterator[Serving]:
    """Serve while the body runs. `state` is the folder of the audit log."""
    service = Serving(director, path, state)
    try:
        await service.start()
        try:
            await service.update(listen or ApiListen())
        except ConfigError as error:
            log.error("no API over TCP", why=str(error))
        yield service
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        await service.stop()


def _tokens(listen: ApiListen) -> Tokens:
    """The tokens that a configuration names. Without any, nobody could ask."""
    if not listen.listen:
        return Tokens()
    found = tokens.read(Path(listen.tokens))
    if not len(found):
        mend = "add a line that `limpet token new` prints"
        raise ConfigError([Problem(f"api.tokens: {listen.tokens}", "it has no token", mend)])
    return found
