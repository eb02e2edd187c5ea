# SPDX-License-Identifier: Apache-2.0
"""The connection to NATS: kept up for ever, and every call on it with a deadline.

Calls do not queue while there is no connection: each waits for one as long as its deadline lasts,
and not at all if there has been none for longer than that. What NATS answers while it elects a
leader is tried again meanwhile. So a call ends with its result, with the error it is about, or with
`Unavailable` and the reason; never later than its deadline.

Servers that lack what is needed (older than 2.11, no JetStream, payloads too small) are refused
with `Unsupported`, which says what to change.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError, OutboundBufferLimitError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, ServerError, ServiceUnavailableError

from limpet.core.errors import Unavailable, Unsupported
from limpet.store.interface import VALUE_BYTES_MAX, Connection

VERSION_LEAST = (2, 11)  # per-message TTL, with which the marks of deleted keys go
ATTEMPT_S = 0.9  # of one try; a leader that just died does not answer
RETRY_S = 0.1
RECONNECT_S = 0.2
CLOSE_S = 1.0
PING_S = 1.0  # a server that answers none of two is left
HEADERS_BYTES = 1_024
# JetStream's codes for what passes: no leader or peers now, a change that is still under way.
PASSING_CODES = {10008, 10009, 10076, 10158}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Servers:
    """How to reach NATS."""

    urls: tuple[str, ...]
    name: str  # of this client, as NATS shows it
    tls: ssl.SSLContext | None = None


class Link:
    """One connection to any of the servers."""

    def __init__(self, servers: Servers, deadline_s: float) -> None:
        self._servers = servers
        self._deadline_s = deadline_s
        self._callbacks: list[Callable[[Connection], None]] = []
        self._last_error = ""
        self._refusal: Unsupported | None = None
        self._up = asyncio.Event()
        self._client = Client()
        self.is_closed = False
        self.state = Connection(False, time.time(), error="not connected yet")
        self._connecting = asyncio.create_task(self._connect())

    # --- Connection -----------------------------------------------------------------------------

    async def _connect(self) -> None:
        """The client reconnects by itself, but gives up where it is refused, as by a password."""
        while not self.is_closed:
            client, ended = Client(), asyncio.Event()
            try:
                await self._open(client, ended)
                if self.is_closed:  # the library may take a cancellation for a lost connection
                    return
                self._client = client
                await self._on_up()
                await ended.wait()
            except (NatsError, OSError, ValueError) as error:
                self._note(error)
            finally:
                await _closed(client)
            await asyncio.sleep(RECONNECT_S)

    async def _open(self, client: Client, ended: asyncio.Event) -> None:
        async def on_closed() -> None:
            await self._on_lost()
            ended.set()

        await client.connect(
            servers=list(self._servers.urls),
            name=self._servers.name,
            tls=self._servers.tls,
            error_cb=self._on_error,
            disconnected_cb=self._on_lost,
            closed_cb=on_closed,
            reconnected_cb=self._on_up,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]
            connect_timeout=1,
            ping_interval=PING_S,  # type: ignore[arg-type]
            max_outstanding_pings=2,
            pending_size=0,  # what cannot be sent now is not sent later either
        )

    async def _on_up(self) -> None:
        info = self._client._server_info
        self._refusal = _refusal(info, self.server)
        reconnects = self.state.reconnects + (self._up.is_set() or self.state.server != "")
        error = str(self._refusal or "")
        self._up.set()
        self._tell(Connection(not error, time.time(), self.server, reconnects, error))

    async def _on_lost(self) -> None:
        self._up.clear()
        error = self._last_error or "the connection was lost"
        if self.state.is_connected:
            self._tell(replace(self.state, is_connected=False, since=time.time(), error=error))

    async def _on_error(self, error: Exception) -> None:
        self._note(error)

    def _note(self, error: BaseException) -> None:
        self._last_error = str(error) or type(error).__name__
        if not self._up.is_set():
            self._tell(replace(self.state, error=self._last_error))

    def _tell(self, state: Connection) -> None:
        if state != self.state:
            self.state = state
            for callback in self._callbacks:
                callback(state)

    def on_change(self, callback: Callable[[Connection], None]) -> None:
        self._callbacks.append(callback)

    @property
    def server(self) -> str:
        """URL of the server in use, without a password."""
        url = self._client.connected_url
        return f"{url.scheme}://{url.hostname}:{url.port}" if url else ""

    @property
    def servers(self) -> int:
        """How many servers there are, as far as they or the configuration say."""
        told = (self._client._server_info or {}).get("connect_urls") or []
        return max(len(set(told)), len(self._servers.urls))

    async def close(self) -> None:
        self.is_closed = True
        self._up.clear()
        self._connecting.cancel()
        await asyncio.wait({self._connecting}, timeout=2 * CLOSE_S)
        if self.state.is_connected:
            self._tell(replace(self.state, is_connected=False, since=time.time(), error="closed"))

    # --- Calls ----------------------------------------------------------------------------------

    async def client(self) -> Client:
        """Connected; raises Unavailable, Unsupported."""
        if self.is_closed:
            raise Unavailable("store: it was closed")
        if not self._up.is_set() and time.time() - self.state.since > self._deadline_s:
            raise Unavailable(self._why_not("the store"))
        await self._up.wait()
        if self._refusal:
            raise self._refusal
        return self._client

    async def call(self, what: str, attempt: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """What `attempt` returns, tried as often as the deadline allows; safe to repeat."""
        passing: Exception | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                while True:
                    client = await self.client()
                    try:
                        return await attempt(JetStreamContext(client, timeout=ATTEMPT_S))
                    except NatsError as error:
                        if not is_passing(error):
                            raise
                        passing = error
                    await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise Unavailable(self._why_not(what, passing)) from error
        except NatsError as error:
            raise Unavailable(f"store: {what}: {_words(error)} (server {self.server})") from error

    def _why_not(self, what: str, passing: Exception | None = None) -> str:
        named = ", ".join(_public(url) for url in self._servers.urls)
        if not self._up.is_set():
            why = f"no connection to any of {named}: {self.state.error or self._last_error}"
            return f"store: {what}: {why}. Are the servers up, and is the way to them open?"
        if "permission" in self._last_error.lower():
            return f"store: {what}: {self._last_error} (server {self.server}). Allow it there"
        why = _words(passing) if passing else "no answer"
        return (
            f"store: {what}: {why} within {self._deadline_s:g} s (server {self.server})."
            " Are most of the NATS servers up, and in touch with each other?"
        )


async def _closed(client: Client) -> None:
    if client.is_connected or client.is_reconnecting:
        with suppress(NatsError, TimeoutError, OSError):
            await asyncio.wait_for(client.close(), CLOSE_S)


def is_passing(error: NatsError) -> bool:
    """It may go well when tried again."""
    if isinstance(error, APIError) and error.err_code in PASSING_CODES:
        return True
    kinds = (
        NatsTimeout,
        NoRespondersError,
        OutboundBufferLimitError,
        NoStreamResponseError,
        ServiceUnavailableError,
        ServerError,
        nats.errors.ConnectionClosedError,
        nats.errors.ConnectionReconnectingError,
        nats.errors.StaleConnectionError,
    )
    return isinstance(error, kinds)


def _words(error: Exception) -> str:
    if isinstance(error, APIError):
        return f"{error.description} ({error.err_code})"
    return str(error) or type(error).__name__


def _public(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}" if parts.hostname else url


def _refusal(info: dict[str, object], server: str) -> Unsupported | None:
    """What a server lacks."""
    version = str(info.get("version", "0"))
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < VERSION_LEAST:
        least = ".".join(map(str, VERSION_LEAST))
        return Unsupported(f"store: NATS at {server} is {version}: upgrade it to {least} or newer")
    if not info.get("jetstream"):
        return Unsupported(f"store: NATS at {server} has no JetStream: enable it there")
    if int(str(info.get("max_payload", 0))) < VALUE_BYTES_MAX + HEADERS_BYTES:
        return Unsupported(f"store: NATS at {server} has max_payload below 1MB: raise it")
    return None
