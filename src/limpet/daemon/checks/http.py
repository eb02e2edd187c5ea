# SPDX-License-Identifier: Apache-2.0
"""HTTP: one request over a connection, and whether the answer is the wanted one.

HTTP/1.1 by h11, which decides nothing about sockets. The status decides; if text is wanted, it has
to be in the first 64 KiB of the body. Redirects are not followed: they are statuses.
"""

import h11

from limpet.daemon.checks.connection import Connection
from limpet.daemon.checks.outcome import CheckError
from limpet.daemon.checks.target import Target

BODY_MAX = 65_536  # bytes in which text is looked for
DEFAULT_PORT = {"http": 80, "https": 443}


async def ask(connection: Connection, target: Target) -> None:
    """Send the request, judge the answer. Raises CheckError or NoResultError."""
    protocol = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="GET",
        target=target.check.http_path,
        headers=[
            ("Host", _host(target)),
            ("User-Agent", "limpet"),
            ("Accept", "*/*"),
            ("Connection", "close"),
        ],
    )
    data = protocol.send(request)
    assert data is not None
    await connection.send(data + (protocol.send(h11.EndOfMessage()) or b""))
    try:
        await _judge_status(protocol, connection, target)
        if target.check.http_body:
            await _find(protocol, connection, target.check.http_body.encode())
    except h11.RemoteProtocolError as error:
        raise CheckError("the answer is not HTTP") from error


def _host(target: Target) -> str:
    name = target.host
    if ":" in name and not name.startswith("[") and name == str(target.address):
        name = f"[{name}]"
    is_default = DEFAULT_PORT.get(target.check.kind.value) == target.port
    return name if is_default or target.check.http_host else f"{name}:{target.port}"


async def _next(protocol: h11.Connection, connection: Connection) -> h11.Event:
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            data = await connection.receive()
            is_first = protocol.their_state is h11.SEND_RESPONSE and not protocol.trailing_data[0]
            if not data and is_first:
                raise CheckError("connection closed without an answer")
            protocol.receive_data(data)
        elif isinstance(event, h11.Event):
            return event
        else:
            raise CheckError("the answer is not HTTP")


async def _judge_status(protocol: h11.Connection, connection: Connection, target: Target) -> None:
    event = await _next(protocol, connection)
    while isinstance(event, h11.InformationalResponse):
        event = await _next(protocol, connection)
    assert isinstance(event, h11.Response), event
    first, last = target.check.http_status
    if not first <= event.status_code <= last:
        wanted = f"{first}-{last}" if first != last else str(first)
        raise CheckError(f"status {event.status_code}, wanted {wanted}")


async def _find(protocol: h11.Connection, connection: Connection, text: bytes) -> None:
    body = bytearray()
    while len(body) < BODY_MAX:
        event = await _next(protocol, connection)
        if not isinstance(event, h11.Data):
            break
        looked_at = max(0, len(body) - len(text))
        body += event.data[: BODY_MAX - len(body)]
        if body.find(text, looked_at) >= 0:
            return
    raise CheckError("text not found")
