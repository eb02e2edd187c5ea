# SPDX-License-Identifier: Apache-2.0
"""Route of events: server-sent events, as the WHATWG standard has them.

A client that comes back sends `Last-Event-ID` and gets what it missed, as far as it is kept
(api/feed.py). A comment every HEARTBEAT_S keeps the connection alive, and is the moment to see
whether the caller may still listen. A client that does not read costs its socket buffers and a
place in the feed: it is overtaken, not waited for.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from limpet.api.access import Access
from limpet.api.interface import Director, Json
from limpet.api.models_intent import Event
from limpet.api.problem import Busy, Malformed
from limpet.core.errors import LimpetError

HEARTBEAT_S = 10.0
STREAMS_MAX = 64  # at once; more are refused
PAST_S = 0.1  # an event that takes longer has not happened yet
RETRY_MS = 2_000  # after which a client that was cut off comes back
ID_MAX = (1 << 63) - 1


class EventStream(StreamingResponse):
    """Says what it is, also to the OpenAPI document; its schema is that of one event's data."""

    media_type = "text/event-stream"


class Streams:
    """Those that are open. They end when the API does."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.open = 0

    def check(self) -> None:
        if self.open >= STREAMS_MAX:
            raise Busy(f"{self.open} clients follow the events, and no more may; try again later")


def add(router: APIRouter, director: Director, streams: Streams) -> None:
    """The route."""

    @router.get("/v1/events", response_class=EventStream, responses={200: {"model": Event}})
    async def events(
        request: Request,
        since: Annotated[int | None, Query(ge=0, le=ID_MAX)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
        follow: bool = True,
    ) -> EventStream:
        """Server-sent events: from now on, or after the id `since` or `Last-Event-ID`; 0: all that
        are kept. Without `follow` the answer ends with what has happened already."""
        place = _place(last_event_id, since)
        streams.check()
        found = director.events(place)
        stream = _stream(found, streams, _may(request)) if follow else _past(found)
        return EventStream(stream, headers={"Cache-Control": "no-store"})


def _place(last: str | None, since: int | None) -> int | None:
    """The header wins: a client that resumes repeats its first URL."""
    if not last:
        return since
    if not last.isascii() or not last.isdigit() or int(last) > ID_MAX:
        raise Malformed(f"Last-Event-ID: {last[:40]!r} is not the id of an event")
    return int(last)


def _may(request: Request) -> Callable[[], bool]:
    """Whether the caller would still be let in."""
    access: Access = request.state.access

    def may() -> bool:
        try:
            access.caller(dict(request.scope))
        except LimpetError:
            return False
        return True

    return may


async def _stream(
    events: AsyncIterator[Json], streams: Streams, may: Callable[[], bool]
) -> AsyncIterator[str]:
    closing = asyncio.ensure_future(streams.closing.wait())
    coming = asyncio.ensure_future(anext(events))
    streams.open += 1
    try:
        yield f"retry: {RETRY_MS}\n\n"  # at once, so that the client knows that it is connected
        while not closing.done() and may():
            await asyncio.wait(
                {coming, closing}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if coming.done():
                yield encoded(coming.result())
                coming = asyncio.ensure_future(anext(events))
            elif not closing.done():
                yield ": still here\n\n"
    finally:
        streams.open -= 1
        for task in (closing, coming):
            task.cancel()
        await asyncio.gather(closing, coming, return_exceptions=True)
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def _past(events: AsyncIterator[Json]) -> AsyncIterator[str]:
    """What is there without waiting."""
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(PAST_S):
                event = await anext(events)
            yield encoded(event)


def encoded(event: Json) -> str:
    """One event on the wire. JSON has no line feeds."""
    return f"id: {event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n"
