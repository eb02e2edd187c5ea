# SPDX-License-Identifier: Apache-2.0
"""Feed: what happens, told to everybody who listens, in order and with ids that only grow.

One ring of the last KEPT events serves all followers; each has no more than its place in it. So
memory is bounded however many follow and however slow they are. Who is overtaken gets an event
"lost" with the count of those it missed, and goes on with the oldest that is kept.

Ids begin with the milliseconds of the start, so that they grow over restarts, too: who resumes
with an id from before a restart gets "lost" without a count. Nothing is kept on disk.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from limpet.api.interface import Json

KEPT = 1_024  # events; a follower that is further behind has lost some


class Feed:
    """Events of one director. Published from any thread, followed in one event loop."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring: deque[Json] = deque(maxlen=kept)
        self._first = self._next = time.time_ns() // 1_000_000
        self._lock = threading.Lock()
        self._wakers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self.lost = 0  # events that followers have missed, all told

    @property
    def followers(self) -> int:
        return len(self._wakers)

    def publish(self, kind: str, **fields: object) -> Json:
        """Tell everybody. The event with its id and time."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            event: Json = {"id": self._next, "at": at, "kind": kind, **fields}
            self._ring.append(event)
            self._next += 1
            wakers = list(self._wakers.items())
        for waker, loop in wakers:
            loop.call_soon_threadsafe(waker.set)
        return event

    def follow(self, since: int | None) -> AsyncIterator[Json]:
        """Events from this call on, or those after the id `since` (0: all kept). Never ends."""
        with self._lock:
            place = self._next if since is None else since + 1
            if since == 0:
                place = self._next - len(self._ring)
        return self._follow(place)

    async def _follow(self, place: int) -> AsyncIterator[Json]:
        waker = asyncio.Event()
        with self._lock:
            self._wakers[waker] = asyncio.get_running_loop()
        try:
            while True:
                waker.clear()
                event, place = self._after(place)
                if event is None:
                    await waker.wait()
                else:
                    yield event
        finally:
            with self._lock:
                del self._wakers[waker]

    def _after(self, place: int) -> tuple[Json | None, int]:
        """The next event from a place on, after word of what is missing; and the place then."""
        with self._lock:
            oldest = self._next - len(self._ring)
            if place > self._next or place < oldest:
                is_ours = self._first <= place < oldest
                count = oldest - place if is_ours else None
                self.lost += count or 0
                return self._word(count, oldest - 1), oldest
            if place == self._next:
                return None, place
            return self._ring[place - oldest], place + 1

    def _word(self, count: int | None, last: int) -> Json:
        """Of a loss; its id is that of the last event that is lost, so that resuming works."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"id": last, "at": at, "kind": "lost", "count": count}
