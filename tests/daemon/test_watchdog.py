# SPDX-License-Identifier: Apache-2.0
"""systemd hears that the daemon is alive only while its passes come round."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest

from limpet.daemon import notify, pacing, watchdog
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Reconciler


class Passes:
    """In the place of the reconciler: a pass that hangs, as a call to the kernel may."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.now, self.until = SimpleNamespace(desired=None), None
        self.next_hops = SimpleNamespace(
            again_at=None, forget_routes=lambda: None, probe=lambda: None
        )

    def run(self, desired: object, prune: bool) -> object:
        self.goes_on.wait(60)
        return SimpleNamespace(writes=0, program_loaded=False, duration_s=0.0, events=())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


def test_a_thread_that_hangs_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FULL_S", 0.05)
    monkeypatch.setattr(pacing, "STUCK_S", 0.5)
    signs: list[str] = []
    monkeypatch.setattr(notify, "alive", lambda: signs.append("alive"))
    monkeypatch.setattr(notify, "watchdog_s", lambda: 0.02)

    async def story(passes: Passes, thread: ThreadPoolExecutor) -> None:
        paced = Pacing(thread, cast(Reconciler, passes))
        tasks = [asyncio.create_task(paced.run()), asyncio.create_task(watchdog.run(paced))]
        try:
            await until(lambda: paced.record.done > 3 and len(signs) > 10)
            passes.goes_on.clear()
            await until(lambda: paced.stuck_s > 0.6)
            count = len(signs)
            await asyncio.sleep(0.2)
            assert len(signs) == count
            passes.goes_on.set()
            await until(lambda: len(signs) > count)
            await until(lambda: not paced.stuck_s)
        finally:
            passes.goes_on.set()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    with ThreadPoolExecutor(1) as thread:
        asyncio.run(story(Passes(), thread))
