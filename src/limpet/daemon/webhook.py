# SPDX-License-Identifier: Apache-2.0
"""Webhook: one POST of JSON over HTTP/1.1, with or without TLS. 2xx is success, all else is not.

Redirects are not followed: an event would go where the operator never sent it. Certificates are
verified against the system's authorities. A connection serves one request, since events are rare.
User and password in the URL are sent as basic authentication, and never shown in an error.

Raises LimpetError with a text for the log. The caller bounds the time.
"""

import asyncio
import base64
import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import h11

from limpet import __version__
from limpet.core.errors import LimpetError

ANSWER_BYTES_MAX = 65_536  # of the status line and the headers; no body is read
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    target: str  # path and query
    authorization: str  # value of the header; empty: none

    @property
    def shown(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.target.partition('?')[0]}"

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Address:
    """Raises LimpetError if it is no URL of http or https."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        raise LimpetError(f"the webhook's URL is wrong: {error}") from error
    if scheme not in PORTS or not host:
        raise LimpetError("the webhook's URL is wrong: write https://HOST/PATH or http://HOST/PATH")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(scheme, host, port or PORTS[scheme], target, authorization)


async def post(url: str, body: bytes) -> None:
    """Send the JSON in `body`. Raises LimpetError unless the answer is 2xx."""
    to = parse(url)
    context = ssl.create_default_context() if to.scheme == "https" else None
    try:
        reader, writer = await asyncio.open_connection(to.host, to.port, ssl=context)
        try:
            status = await _exchange(reader, writer, to, body)
        finally:
            writer.transport.abort()  # nothing that matters is on its way
    except (OSError, h11.ProtocolError) as error:
        raise LimpetError(f"{to.shown}: {error}") from error
    if not 200 <= status < 300:
        raise LimpetError(f"{to.shown}: answered with status {status}")


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: Address, body: bytes
) -> int:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=ANSWER_BYTES_MAX)
    request = h11.Request(method="POST", target=to.target, headers=_headers(to, len(body)))
    for event in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    while True:
        answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return answer.status_code
        if answer is h11.NEED_DATA:
            connection.receive_data(await reader.read(4_096))


def _headers(to: Address, length: int) -> list[tuple[str, str]]:
    headers = [
        ("Host", to.netloc),
        ("User-Agent", f"limpet/{__version__}"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(length)),
        ("Connection", "close"),
    ]
    return headers + ([("Authorization", to.authorization)] if to.authorization else [])
