# SPDX-License-Identifier: Apache-2.0
"""Checker: every check that is desired, again and again, and what the answers come to.

One task starts checks when they are due; each is a task of its own for as long as it runs, so no
backend waits for another. The first comes at a random moment of its interval, and the interval
varies a little, so that checks do not run in step. How many run at once is bounded, apart for
connections and for commands, so that slow programs hold up nothing else; one that has to wait is
counted when it starts late. A check never overlaps itself.

What a director cannot find out because of a problem of its own changes nothing: no result is
better than a wrong one (checks/outcome.py). Results go to the machine of core/health.py.

`update` and `run` belong to the event loop; `health` and `counts` may be called from any thread.
"""

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import structlog

from limpet.core import health
from limpet.core.health import Health, Track
from limpet.core.model import BackendId, CheckKind, Desired
from limpet.daemon.checks.connection import Sources
from limpet.daemon.checks.outcome import CheckError, NoResultError
from limpet.daemon.checks.probe import GOOD, probe
from limpet.daemon.checks.target import Key, Target, targets

CONNECTIONS_MAX = 400  # checks at once; a process may have 1,024 descriptors if nobody allows more
COMMANDS_MAX = 32  # the same for commands: each is at least one process
JITTER = 0.1  # of the interval, either way
LATE_S = 0.2  # after it was due, a start counts as late
BATCH_S = 0.01  # what falls due within it starts together
COMPLAIN_S = 60.0  # between log lines that say that nothing was learnt
log = structlog.get_logger()


@dataclass(eq=False)
class Job:
    """One check, as it goes on."""

    target: Target
    track: Track
    due: float  # time of the loop
    is_over: bool = False  # no longer desired

    @property
    def interval_s(self) -> float:
        return self.target.check.interval_s


@dataclass
class Lane:
    """What may run at once, and what waits for it."""

    limit: int
    waiting: deque[Job] = field(default_factory=deque)
    running: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(slots=True)
class Counts:
    """Checks since the start."""

    good: int = 0
    failed: int = 0
    not_checked: int = 0  # nothing was learnt, because of this machine
    late: int = 0  # started later than due


class Checker:
    """All checks of a director."""

    def __init__(
        self,
        desired: Desired,
        backend_ids: Mapping[str, BackendId],
        on_change: Callable[[], None],
        before: Mapping[Key, Health] | None = None,
    ) -> None:
        """`on_change` is called in the loop when some backend begins or ends to count as up.

        `before` is what was known when the daemon ended. Rows of backends ought to be in the kernel
        when checks begin: packets to others are dropped.
        """
        self._on_change, self._before = on_change, dict(before or {})
        self._jobs: dict[Key, Job] = {}
        self._queue: list[tuple[float, int, Job]] = []
        self._numbers = count()
        self._woken = asyncio.Event()
        self._connections, self._commands = Lane(CONNECTIONS_MAX), Lane(COMMANDS_MAX)
        self._sources = Sources()
        self._complained = -COMPLAIN_S
        self._is_running = False
        self._bug: BaseException | None = None
        self.counts = Counts()
        self._wanted = targets(desired, backend_ids)
        self._adopt()

    def update(self, desired: Desired, backend_ids: Mapping[str, BackendId]) -> None:
        """Check what is desired now. What is known stays as long as the address does."""
        wanted = targets(desired, backend_ids)
        if wanted != self._wanted:
            self._wanted = wanted
            self._adopt()
            self._woken.set()

    def health(self) -> Mapping[Key, Health]:
        """(pool, backend) -> what is known; without those that are not checked."""
        now = time.time()
        return {key: health.health(job.track, now) for key, job in list(self._jobs.items())}

    async def run(self) -> None:
        """Check until cancelled."""
        loop = asyncio.get_running_loop()
        self._is_running = True
        for job in self._jobs.values():  # intervals begin now
            self._enqueue(job, loop.time() + random.uniform(0, job.interval_s))
        try:
            while True:
                self._start_due(loop.time())
                await self._sleep(loop)
                if self._bug is not None:
                    raise self._bug
        finally:
            for lane in (self._connections, self._commands):
                for task in lane.running:
                    task.cancel()
                await asyncio.gather(*lane.running, return_exceptions=True)

    # --- What is desired ------------------------------------------------------------------------

    def _adopt(self) -> None:
        now = time.time()
        jobs = {}
        for key, target in self._wanted.items():
            known = self._jobs.get(key)
            if known is not None and known.target == target:
                jobs[key] = known
                continue
            jobs[key] = Job(target, self._track(key, target, known, now), 0.0)
            if known is not None:
                known.is_over = True
        for key in self._jobs.keys() - jobs.keys():
            self._jobs[key].is_over = True
        fresh = [job for key, job in jobs.items() if self._jobs.get(key) is not job]
        self._jobs = jobs
        if self._is_running:
            at = asyncio.get_running_loop().time()
            for job in fresh:
                self._enqueue(job, at + random.uniform(0, job.interval_s))

    def _track(self, key: Key, target: Target, known: Job | None, now: float) -> Track:
        if known is None:
            return health.begin(now, self._before.get(key))
        is_same = known.target.backend_address == target.backend_address
        return known.track if is_same else health.begin(now)

    # --- When -----------------------------------------------------------------------------------

    def _enqueue(self, job: Job, due: float) -> None:
        job.due = due
        heapq.heappush(self._queue, (due, next(self._numbers), job))
        if self._queue[0][2] is job:
            self._woken.set()  # it is due before what is slept for

    def _lane(self, job: Job) -> Lane:
        is_command = job.target.check.kind is CheckKind.COMMAND
        return self._commands if is_command else self._connections

    def _start_due(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            job = heapq.heappop(self._queue)[2]
            if not job.is_over:
                self._lane(job).waiting.append(job)
        for lane in (self._connections, self._commands):
            self._fill(lane, now)

    def _fill(self, lane: Lane, now: float) -> None:
        while lane.waiting and len(lane.running) < lane.limit:
            job = lane.waiting.popleft()
            if job.is_over:
                continue
            if now - job.due > LATE_S:
                self.counts.late += 1
            task = asyncio.get_running_loop().create_task(self._check(job))
            lane.running.add(task)
            task.add_done_callback(partial(self._done, lane, job))

    def _done(self, lane: Lane, job: Job, task: asyncio.Task[None]) -> None:
        lane.running.discard(task)
        if task.cancelled():
            return
        if (bug := task.exception()) is not None:
            self._bug = bug
            self._woken.set()
            return
        now = asyncio.get_running_loop().time()
        if not job.is_over:
            pause = job.interval_s * random.uniform(1 - JITTER, 1 + JITTER)
            self._enqueue(job, max(now, job.due + pause))
        if lane.waiting:
            self._fill(lane, now)

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = self._queue[0][0] - loop.time() if self._queue else None
        if pause is None or pause > BATCH_S:
            self._woken.clear()
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
        else:
            await asyncio.sleep(BATCH_S)

    # --- What -----------------------------------------------------------------------------------

    async def _check(self, job: Job) -> None:
        try:
            await probe(job.target, self._sources)
        except CheckError as error:
            self.counts.failed += 1
            self._observe(job, is_good=False, reason=str(error))
        except NoResultError as error:
            self.counts.not_checked += 1
            self._complain(job, str(error))
        else:
            self.counts.good += 1
            self._observe(job, is_good=True, reason=GOOD[job.target.check.kind])

    def _observe(self, job: Job, *, is_good: bool, reason: str) -> None:
        if job.is_over:
            return
        check, before = job.target.check, job.track
        now = time.time()
        job.track = health.observe(
            before, is_good=is_good, reason=reason, rise=check.rise, fall=check.fall, now=now
        )
        if (before.is_up, before.is_suppressed) != (job.track.is_up, job.track.is_suppressed):
            self._say(job, now)
            self._on_change()

    def _say(self, job: Job, now: float) -> None:
        pool, backend = job.target.key
        found = health.health(job.track, now)
        log.warning(
            "backend is up" if found.is_up else "backend is down",
            pool=pool,
            backend=backend,
            why=found.reason,
        )

    def _complain(self, job: Job, why: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_S:
            self._complained = now
            pool, backend = job.target.key
            log.error("checks say nothing", why=why, pool=pool, backend=backend)
