# SPDX-License-Identifier: Apache-2.0
"""Hooks: tell the operator's command and webhook of every event in the outbox.

At least once and in order, to each of the two on its own: one that fails holds up no other. An
event that was not taken is offered again, ever more seldom, until it is, also after a restart.
`delivery` rises by one from event to event, so that the receiver knows one that is repeated, and
sees a gap where the outbox was full. With no hook in the file nothing is kept for one.

The state file belongs to the thread of the passes: all access to it goes through `call`.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from limpet.core import model
from limpet.core.errors import LimpetError
from limpet.daemon import webhook
from limpet.store.outbox import Queued
from limpet.store.state import State

COMMAND, WEBHOOK = "command", "webhook"
TARGETS = (COMMAND, WEBHOOK)
BATCH = 100  # events taken out of the state at a time
RETRY_S, RETRY_MAX_S = 1.0, 300.0
STDERR = 2
T = TypeVar("T")
log = structlog.get_logger()


class Call(Protocol):
    """Runs a function in the thread that owns the state, as `Pacing.call` does."""

    def __call__(self, function: Callable[[], T], /) -> Coroutine[Any, Any, T]: ...


@dataclass
class Record:
    """What became of the events for one target; for status and metrics."""

    delivered: int = 0
    failed: int = 0  # attempts
    pending: int = 0
    error: str = ""  # of the last attempt; empty: it was good


class Hooks:
    """Delivers to the hooks of one director."""

    def __init__(self, director: str, hooks: model.Hooks, state: State, call: Call) -> None:
        self._director, self._hooks = director, hooks
        self._state, self._call = state, call
        self._woken = {name: asyncio.Event() for name in TARGETS}
        self._changed = {name: asyncio.Event() for name in TARGETS}
        self.record: Mapping[str, Record] = {name: Record() for name in TARGETS}

    def wake(self) -> None:
        """There may be a new event."""
        for woken in self._woken.values():
            woken.set()

    def update(self, hooks: model.Hooks) -> None:
        """Hooks of a new configuration file: what waits is tried at once, the new way."""
        if hooks != self._hooks:
            self._hooks = hooks
            for changed in self._changed.values():
                changed.set()
            self.wake()

    async def run(self) -> None:
        """Deliver, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in TARGETS:
                tasks.create_task(self._serve(name))

    async def _serve(self, name: str) -> None:
        retry_s = RETRY_S
        while True:
            self._woken[name].clear()
            self._changed[name].clear()
            record = self.record[name]
            try:
                await self._deliver_all(name)
            except LimpetError as error:
                record.failed, record.error = record.failed + 1, str(error)
                log.warning("hook failed", hook=name, error=str(error), again_in_s=retry_s)
                with suppress(TimeoutError):  # not wait_for, which may lose a cancellation
                    async with asyncio.timeout(retry_s):
                        await self._changed[name].wait()
                retry_s = min(2 * retry_s, RETRY_MAX_S)
            else:
                retry_s = RETRY_S
                await self._woken[name].wait()

    async def _deliver_all(self, name: str) -> None:
        """Until the target has all that there is. Raises LimpetError at the first failure."""
        while waiting := await self._call(lambda: self._look(name)):
            for each in waiting:
                await self._deliver(name, each)

    def _look(self, name: str) -> list[Queued]:
        targets = self._targets()
        self._state.settle_targets(targets)
        is_target = name in targets
        self.record[name].pending = self._state.pending_count(name) if is_target else 0
        return self._state.pending(name, BATCH) if is_target else []

    def _targets(self) -> set[str]:
        configured = {COMMAND: self._hooks.command, WEBHOOK: self._hooks.webhook}
        return {name for name, value in configured.items() if value}

    async def _deliver(self, name: str, queued: Queued) -> None:
        hooks = self._hooks
        told = {"director": self._director, "delivery": queued.id, **queued.event}
        body = json.dumps(told).encode()
        how = run(hooks.command, body) if name == COMMAND else webhook.post(hooks.webhook, body)
        try:
            async with asyncio.timeout(hooks.timeout_s):
                await how
        except TimeoutError as error:
            raise LimpetError(f"no answer within {hooks.timeout_s:g} s") from error
        await self._call(lambda: self._state.delivered(queued.id, name, self._targets()))
        record = self.record[name]
        record.delivered, record.error = record.delivered + 1, ""
        record.pending = max(record.pending - 1, 0)


async def run(argv: tuple[str, ...], body: bytes) -> None:
    """Run a command with `body` on standard input. Raises LimpetError unless its status is 0.

    What it prints goes to the daemon's log. If we do not wait for its end, it is killed, with all
    that it started: two of them must not run at once.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=STDERR, start_new_session=True
        )
    except OSError as error:
        raise LimpetError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        await process.communicate(body + b"\n")
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        raise LimpetError(f"{argv[0]}: {_end(process.returncode)}")


def _end(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"ended by signal {-status}"
