# SPDX-License-Identifier: Apache-2.0
"""Pacing: when the reconcile pass runs. Wake-ups coalesce; a full pass runs on a timer.

The passes, and everything that they own (netlink, state file, writes to the kernel), live in one
thread of their own, so that a long pass stalls neither the API nor the watchdog, and two never
overlap. A change (a reload, a drain, a weight) is a wake-up that brings its own pass and waits for
the answer; what is refused leaves everything as it was. A pass also runs when something that is in
effect ends by itself: a step of slow start, a hold, a deadline. A pass that fails is repeated, ever
more seldom.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from limpet.api.interface import Json
from limpet.core.errors import Conflict, DatapathError, LimpetError
from limpet.core.model import Desired
from limpet.daemon.reconcile import Outcome, Reconciler

COALESCE_S = 0.05  # events come in bursts
FULL_S = 30.0
STUCK_S = 90.0  # without coming round: a pass, or what waits before it in the thread, hangs
RETRY_S, RETRY_MAX_S = 0.5, 30.0
CHANGES_MAX = 1_000  # that wait; as many requests would have to be open at once
T = TypeVar("T")
Change = Callable[[], Outcome]
log = structlog.get_logger()


@dataclass
class Record:
    """What became of the passes; for status and metrics."""

    done: int = 0
    failed: int = 0
    error: str = ""  # of the last pass; empty: it was good
    duration_s: float = 0.0
    succeeded_at: float = 0.0  # Unix time
    retry_s: float = field(default=RETRY_S, repr=False)


class Pacing:
    """The reconcile task."""

    def __init__(self, thread: ThreadPoolExecutor, reconciler: Reconciler) -> None:
        self._thread, self._reconciler = thread, reconciler
        self._woken = asyncio.Event()
        self._routes_changed = False
        self._changes: deque[tuple[Change, asyncio.Future[Outcome]]] = deque()
        self._round_at = time.monotonic()  # when the loop came round
        self.record = Record()
        self.tell: Callable[[Json], object] = dict  # of every event that a pass has caused

    def wake(self, routes: bool) -> None:
        """Facts changed; `routes`: not only a neighbour."""
        self._routes_changed |= routes
        self._woken.set()

    @property
    def stuck_s(self) -> float:
        """Seconds since the passes came round, if that is too long for one that goes on; else 0."""
        since = time.monotonic() - self._round_at
        return since if since > STUCK_S else 0.0

    async def call(self, function: Callable[[], T]) -> T:
        """Run something in the thread of the passes, between two of them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def submit(self, change: Change) -> Outcome:
        """Run a pass that changes what is wanted. Raises what it raises."""
        if len(self._changes) >= CHANGES_MAX:
            raise Conflict(f"{CHANGES_MAX} changes are waiting already: ask again in a moment")
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._changes.append((change, answer))
        self._woken.set()
        return await answer

    async def start(self, desired: Desired) -> Outcome:
        """The first pass. Its errors are the caller's."""
        return self._note(await self.call(lambda: self._reconciler.start(desired)))

    async def run(self) -> None:
        """Passes, until cancelled."""
        next_full = time.monotonic() + FULL_S
        while True:
            self._round_at = time.monotonic()
            is_full = await self._wait(next_full)
            if is_full:
                next_full = time.monotonic() + FULL_S
            if self._changes and not is_full:
                await self._change_pass(*self._changes.popleft())
            else:
                await self._pass(is_full)
            if self._changes or self._routes_changed:
                self._woken.set()

    async def _wait(self, next_full: float) -> bool:
        """Until something is to be done; True if that is the full pass."""
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation.
            async with asyncio.timeout(max(self._due_s(next_full), 0)):
                await self._woken.wait()
        except TimeoutError:
            return time.monotonic() >= next_full
        if not self._changes:
            await asyncio.sleep(COALESCE_S)
        self._woken.clear()
        return not self._changes and time.monotonic() >= next_full

    def _due_s(self, next_full: float) -> float:
        """Seconds to the next pass that nobody has to ask for."""
        now = time.monotonic()
        due = next_full - now
        if self.record.error:
            due = min(due, self.record.retry_s)
        if self._reconciler.next_hops.again_at is not None:
            due = min(due, self._reconciler.next_hops.again_at - now)
        if self._reconciler.until is not None and not self.record.error:
            due = min(due, max(self._reconciler.until - time.time(), COALESCE_S))
        return due

    async def _pass(self, is_full: bool) -> None:
        forget, self._routes_changed = self._routes_changed or is_full, False
        try:
            outcome = await self.call(lambda: self._plain_pass(forget, is_full))
        except LimpetError as error:
            self._note_failure(error)
        else:
            self._note(outcome)
            if outcome.writes or outcome.program_loaded:
                log.info("reconciled", writes=outcome.writes, duration_ms=_ms(outcome))

    def _plain_pass(self, forget_routes: bool, is_full: bool) -> Outcome:
        now = self._reconciler.now
        assert now is not None, "start comes first"
        if forget_routes:
            self._reconciler.next_hops.forget_routes()
        if is_full:
            self._reconciler.next_hops.probe()
        return self._reconciler.run(now.desired, prune=is_full)

    async def _change_pass(self, change: Change, answer: asyncio.Future[Outcome]) -> None:
        try:
            outcome = await self.call(change)
        except Exception as error:  # the one who asked has to hear of it, whatever it is
            if isinstance(error, DatapathError):  # it was taken on, but is not in the kernel yet
                self._note_failure(error)
            _answer(answer, error)
        else:
            self._note(outcome)
            _answer(answer, outcome)

    def _note(self, outcome: Outcome) -> Outcome:
        record = self.record
        record.done += 1
        record.error, record.retry_s = "", RETRY_S
        record.duration_s, record.succeeded_at = outcome.duration_s, time.time()
        for event in outcome.events:
            self.tell(event)
        return outcome

    def _note_failure(self, error: LimpetError) -> None:
        record = self.record
        record.failed += 1
        record.retry_s = min(2 * record.retry_s, RETRY_MAX_S) if record.error else RETRY_S
        record.error = str(error)
        log.error("reconcile failed; the kernel keeps what it has", error=str(error))


def _answer(answer: asyncio.Future[Outcome], what: Outcome | Exception) -> None:
    if answer.done():
        return  # whoever asked has gone
    if isinstance(what, Exception):
        answer.set_exception(what)
    else:
        answer.set_result(what)


def _ms(outcome: Outcome) -> float:
    return round(outcome.duration_s * 1e3, 1)
