# SPDX-License-Identifier: Apache-2.0
"""Daemon: the life of `limpet run`, from the file to the last signal.

Start: read and check the file, take the lock, open state and kernel, first pass, then API and
metrics; packets are forwarded before anybody can ask about it. SIGHUP reads the file again.
SIGTERM and SIGINT end the process and leave the data plane as it is: packets keep flowing.

Not here: what a pass does (daemon/reconcile.py), and when it runs (daemon/pacing.py).
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pyroute2 import IPRoute

from limpet import __version__
from limpet.api.places import Places, places
from limpet.core.config import parse
from limpet.core.errors import LimpetError, unreadable
from limpet.core.model import Desired
from limpet.daemon import forwarding, log, notify, recollection, watchdog
from limpet.daemon.cluster.company import Company
from limpet.daemon.events import Events
from limpet.daemon.lock import locked
from limpet.daemon.nexthop import NextHops
from limpet.daemon.pacing import Pacing
from limpet.daemon.parts import Parts
from limpet.daemon.reconcile import Reconciler
from limpet.datapath import bpf, settings
from limpet.datapath.kernel import Kernel, Sizes
from limpet.store.state import State

if TYPE_CHECKING:
    from limpet.daemon.director import RunningDirector

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    file: Path
    socket: Path | None = None
    state: Path | None = None


def read_file(path: Path) -> tuple[str, Desired]:
    """Text of the configuration file, and what it desires, or ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    return text, parse(text, str(path))


def digest(text: str) -> str:
    """Tells one text of a configuration file from another."""
    return hashlib.sha256(text.encode()).hexdigest()


def run(options: Options) -> None:
    """Run the daemon until it is told to stop. Raises LimpetError if it cannot start."""
    text, desired = read_file(options.file)
    log.configure(desired.log_level)
    where = places(desired.director.name, options.socket, options.state)
    bpf.mount_bpffs()  # the lock lies there
    with locked(where.pins):
        try:
            asyncio.run(_run(options, text, desired, where))
        except ExceptionGroup as group:
            raise _reason(group) from None
    logger.info("stopped; the kernel keeps forwarding", director=where.name)


def _reason(group: ExceptionGroup) -> Exception:
    """The error of a task, for the operator; a bug stays what it is."""
    expected, bugs = group.split(LimpetError)
    if bugs is not None or expected is None:
        return group
    found: Exception = expected.exceptions[0]
    return _reason(found) if isinstance(found, ExceptionGroup) else found


async def _run(options: Options, text: str, desired: Desired, where: Places) -> None:
    structlog.contextvars.bind_contextvars(director=where.name)
    logger.info("starting", version=__version__, file=str(options.file), pid=os.getpid())
    forwarding.enable()
    with ThreadPoolExecutor(1, "reconcile") as thread:
        opening = asyncio.get_running_loop().run_in_executor(thread, _open, desired, where)
        kernel, state, reconciler = await opening
        pacing = Pacing(thread, reconciler)
        with _events(pacing, reconciler):
            known = recollection.recall(where.state)
            reconciler.health = lambda: known
            reconciler.file_digest = digest(text)
            async with _company(desired, where, kernel, reconciler, pacing) as company:
                if company is not None:
                    desired = await company.desired(state)
                outcome = await pacing.start(desired)
                logger.info(
                    "forwarding", writes=outcome.writes, duration_s=round(outcome.duration_s, 3)
                )
                parts = Parts(kernel, state, reconciler, pacing, company)
                with closing(parts.resets):
                    parts.check(known)
                    await _serve(options, where, parts)


@asynccontextmanager
async def _company(
    desired: Desired, where: Places, kernel: Kernel, reconciler: Reconciler, pacing: Pacing
) -> AsyncIterator[Company | None]:
    """What a member of a cluster has beside the others; None: this director stands alone."""
    if not desired.cluster.name:
        yield None
        return
    company = Company(desired, where, kernel, reconciler, pacing, digest)
    try:
        yield company
    finally:
        await company.close()


def _open(desired: Desired, where: Places) -> tuple[Kernel, State, Reconciler]:
    """In the thread of the passes, which owns all of these."""
    where.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    director = desired.director
    flows, sessions = director.flows_max, director.sessions_max
    sizes = Sizes(settings.buckets(flows), director.pools_max, settings.session_buckets(sessions))
    kernel = Kernel.open(where.pins, sizes)
    state = State(where.state_file)
    return kernel, state, Reconciler(kernel, state, NextHops(IPRoute()), where.pins)


@contextmanager
def _events(pacing: Pacing, reconciler: Reconciler) -> Iterator[None]:
    events = Events(pacing.wake, reconciler.next_hops.neighbours)
    events.start()
    try:
        yield
    finally:
        events.stop()


async def _serve(options: Options, where: Places, parts: Parts) -> None:
    from limpet.api.server import serving  # fastapi takes longer to import than a pass takes
    from limpet.daemon.director import RunningDirector

    director = RunningDirector(options.file, where, parts)
    async with asyncio.TaskGroup() as tasks:  # a bug in one of them ends the process
        running = [tasks.create_task(run()) for run in parts.tasks()]
        running.append(tasks.create_task(watchdog.run(parts.pacing)))
        director.start_metrics()
        async with serving(director, where.socket, where.state, parts.desired.api) as service:
            director.service = service
            _handle_signals(director, tasks)
            notify.ready(director.headline())
            logger.info("ready", socket=str(where.socket))
            await director.stopped.wait()
            notify.stopping()
        director.stop_metrics()
        for task in running:
            task.cancel()


def _handle_signals(director: "RunningDirector", tasks: asyncio.TaskGroup) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, director.stopped.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(_reload(director)))


async def _reload(director: "RunningDirector") -> None:
    with suppress(LimpetError):  # it is in the log already, and nobody waits for an answer
        await director.reload()
