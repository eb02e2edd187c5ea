# SPDX-License-Identifier: Apache-2.0
"""Endings: the end of a drain goes into the cluster's intents, and hooks hear of it at least once.

The head of the cluster and the outbox of this director cannot be written in one step, and a
director that dies between the two leaves nobody who tells. So what is about to be put is kept in
the state file first, and told once the head or the history says that it was put: the time of the
end is its mark. That is looked up after each change, again while the store has not said what became
of one, and when the daemon starts.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import structlog

from limpet.api.interface import Json
from limpet.core.errors import LimpetError
from limpet.daemon import intents
from limpet.daemon.answer import told
from limpet.daemon.cluster.changes import Changes
from limpet.daemon.draining import DAEMON, Ended
from limpet.daemon.hooks import Call
from limpet.store.state import State

KEPT = "drain_ends"  # the name in the state file
TRIES_MAX = 8  # kept of one drain, while the head has none of them
PERIOD_S = 1.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Try:
    """The end of a drain that this director has put, or was about to."""

    backend: str
    began: float
    drained: float
    event: Json


class Endings:
    """Of one member of a cluster."""

    def __init__(
        self, changes: Changes, state: State, call: Call, tell: Callable[[Json], object]
    ) -> None:
        self._changes, self._state, self._call, self._tell = changes, state, call, tell
        self._one_at_a_time = asyncio.Lock()
        self._is_open = True  # something may be kept

    async def end(self, ended: Ended) -> None:
        """Put it, unless somebody was faster. Raises LimpetError: then it is to be tried again."""
        async with self._one_at_a_time:
            await self._settle()
            await self._keep(ended)
            await self._changes.change(lambda _, found: intents.drained(found, ended), DAEMON, None)
            await self._settle()

    async def run(self) -> None:
        """Tell what was put and not told, until cancelled."""
        while True:
            if self._is_open:
                try:
                    async with self._one_at_a_time:
                        await self._settle()
                except LimpetError as error:
                    log.debug("whether drains have ended is not known yet", why=str(error))
            await asyncio.sleep(PERIOD_S)

    async def _keep(self, ended: Ended) -> None:
        new = [
            Try(drain.backend, drain.began, drain.drained or 0.0, told(event))
            for drain, event in ended
        ]
        kept = _newest([*await self._tries(), *new])
        self._is_open = True
        await self._call(lambda: self._state.keep(KEPT, _encoded(kept)))

    async def _tries(self) -> list[Try]:
        kept = await self._call(lambda: self._state.kept(KEPT))
        return [Try(**row) for row in json.loads(kept or b"[]")]

    async def _settle(self) -> None:
        """Tell those that were put; forget those that were not, and cannot be any more."""
        tries = await self._tries()
        if tries:
            left, put = await self._judged(tries)
            events = [each.event for each in put]
            if len(left) < len(tries):
                await self._call(lambda: self._state.keep_and_queue(KEPT, _encoded(left), events))
            tries = left
            for event in events:
                self._tell(event)
        self._is_open = bool(tries)

    async def _judged(self, tries: list[Try]) -> tuple[list[Try], list[Try]]:
        """Those that may still be put, and those that were."""
        drains = await self._changes.drains()
        left, put = [], []
        for each in tries:
            drain = drains.get(each.backend)
            if drain is None or drain.began != each.began:
                is_put = await self._was_put(each)
            elif drain.drained is None:
                left.append(each)
                continue
            else:
                is_put = drain.drained == each.drained
            if is_put:
                put.append(each)
        return left, put

    async def _was_put(self, each: Try) -> bool:
        """People have changed their minds since: it is in the history, if it was put."""
        found = [rev.intents.drains.get(each.backend) for rev in await self._changes.history(None)]
        return any(
            drain is not None and (drain.began, drain.drained) == (each.began, each.drained)
            for drain in found
        )


def _newest(tries: list[Try]) -> list[Try]:
    """The last few of each drain: any number of drains may end at once."""
    by_drain: dict[tuple[str, float], list[Try]] = {}
    for each in tries:
        by_drain.setdefault((each.backend, each.began), []).append(each)
    return [each for same in by_drain.values() for each in same[-TRIES_MAX:]]


def _encoded(tries: list[Try]) -> bytes:
    return json.dumps([asdict(each) for each in tries]).encode()
