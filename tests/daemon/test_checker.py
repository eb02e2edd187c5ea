# SPDX-License-Identifier: Apache-2.0
"""All checks together: what they come to, when they run, how many at once, what a change does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from daemon.servers import (
    answering,
    desired,
    direct,
    ids,
    refusing,
    response,
    serving,
    silent,
    without_descriptors,
)
from limpet.core.health import Health
from limpet.core.model import CheckKind, Desired, HealthCheck
from limpet.daemon.checks import checker
from limpet.daemon.checks.checker import Checker

TCP, HTTP, COMMAND = CheckKind.TCP, CheckKind.HTTP, CheckKind.COMMAND
B1 = ("web", "b1")
PATIENCE_S = 30.0
SELDOM_S = 1e6  # the first check comes anywhere in it: not while a test looks
Condition = Callable[[], bool]


def nothing() -> None:
    """For tests that look themselves."""


@asynccontextmanager
async def running(made: Checker) -> AsyncIterator[Checker]:
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def checking(wanted: Desired, on_change: Callable[[], None] = nothing) -> Checker:
    return Checker(wanted, ids(wanted), on_change)


async def until(condition: Condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def rounds() -> None:
    """The loop comes round often enough for a connection that is on its way to arrive."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_backend_goes_down_and_up_with_its_server_and_each_is_told_once() -> None:
    changes: list[bool] = []

    async def test() -> None:
        async with serving(silent) as server:
            wanted = desired(direct(TCP, server.port, interval_s=0.05))
            made = checking(wanted, lambda: changes.append(made.health()[B1].is_up))
            assert made.health()[B1].reason == "not checked yet"
            async with running(made):
                await until(lambda: made.counts.good >= 3)
                assert made.health()[B1].is_up
                assert changes == []
                with refusing() as port:
                    await goes_down(made, port)
                back = desired(direct(TCP, server.port, interval_s=0.05))
                made.update(back, ids(back))
                await until(lambda: changes == [False, True])
                assert made.health()[B1].reason == "accepts connections"

    async def goes_down(made: Checker, port: int) -> None:
        gone = desired(direct(TCP, port, interval_s=0.05))
        made.update(gone, ids(gone))
        await until(lambda: changes == [False])
        found = made.health()[B1]
        assert (found.is_up, found.reason) == (False, "connection refused")
        failed = made.counts.failed
        await until(lambda: made.counts.failed >= failed + 3)
        assert changes == [False]

    run(test)


def test_rise_and_fall_are_those_of_the_pool() -> None:
    """Four bad answers, then as many more until it counts."""

    async def test() -> None:
        async with serving(answering(response(500))) as server:
            check = direct(HTTP, server.port, interval_s=0.03, fall=5)
            made = checking(desired(check))
            async with running(made):
                await until(lambda: not made.health()[B1].is_up)
                assert len(server.arrivals) >= 5
                assert made.health()[B1].reason == "status 500, wanted 200-399"

    run(test)


def test_pool_without_a_check_is_absent() -> None:
    assert checking(desired(None)).health() == {}


def test_what_is_known_from_before_counts_until_answers_say_otherwise() -> None:
    async def test() -> None:
        async with serving(silent) as server:
            wanted = desired(direct(TCP, server.port, interval_s=0.05))
            began = time.time()
            before = Health(False, 1_000.0, "connection refused", False, 2_000.0)
            made = Checker(wanted, ids(wanted), nothing, {B1: before})
            assert made.health()[B1] == before
            async with running(made):
                await until(lambda: made.health()[B1].is_up)
                assert made.health()[B1].since >= began

    run(test)


def test_update_begins_and_ends_checks() -> None:
    async def test() -> None:
        async with serving(silent) as server:
            nobody, one = desired(None), desired(direct(TCP, server.port, interval_s=0.05))
            made = checking(nobody)
            async with running(made):
                made.update(one, ids(one))
                await until(lambda: made.counts.good >= 2)
                made.update(nobody, ids(nobody))
                assert made.health() == {}
                await rounds()
                seen = len(server.arrivals)
                await asyncio.sleep(0.2)
                assert len(server.arrivals) == seen

    run(test)


def test_changed_check_keeps_what_is_known_and_changed_address_does_not() -> None:
    async def test() -> None:
        async with serving(silent) as server:
            check = direct(TCP, server.port, interval_s=0.05)
            first = desired(check)
            made = checking(first)
            async with running(made):
                await until(lambda: made.counts.good >= 1)
                slower = desired(replace(check, interval_s=SELDOM_S))
                made.update(slower, ids(slower))
                assert made.health()[B1].checked is not None
                await rounds()
                seen = len(server.arrivals)
                await asyncio.sleep(0.3)
                assert len(server.arrivals) == seen
                moved = desired(replace(check, interval_s=SELDOM_S), first="127.0.0.2")
                made.update(moved, ids(moved))
                assert made.health()[B1].checked is None

    run(test)


class Planned(Checker):
    """Notes for when checks are planned, and of which backend."""

    def __init__(self, wanted: Desired) -> None:
        self.planned: list[tuple[float, str]] = []
        super().__init__(wanted, ids(wanted), nothing)

    def _enqueue(self, job: checker.Job, due: float) -> None:
        self.planned.append((due, job.target.key[1]))
        super()._enqueue(job, due)


@pytest.mark.parametrize("begun", ["at the start", "by an update"])
def test_checks_are_spread_over_their_interval(begun: str) -> None:
    """300 in an interval of 1 s: 15 in 50 ms on average. Plans are judged, and that none comes
    before its time: a machine that stands still lets checks arrive together."""

    async def test() -> None:
        async with serving(silent) as server:
            wanted = many(direct(TCP, server.port, interval_s=1.0), 300)
            made = Planned(wanted if begun == "at the start" else desired(None))
            async with running(made):
                await asyncio.sleep(0.01)
                made.update(wanted, ids(wanted))
                await until(lambda: len(server.arrivals) >= 400)
            check_plans(made.planned[:300], made.planned[300:])
            dues = sorted(due for due, _ in made.planned)
            assert all(at >= due for at, due in zip(server.arrivals, dues, strict=False))

    run(test)


def check_plans(first: list[tuple[float, str]], later: list[tuple[float, str]]) -> None:
    dues = sorted(due for due, _ in first)
    bursts = [sum(at <= other < at + 0.05 for other in dues) for at in dues]
    assert max(bursts) < 45  # the likes of it come once in a million runs
    assert dues[-1] - dues[0] > 0.9
    before = {name: due for due, name in first}
    assert len(before) == 300
    pauses = [due - before[name] for due, name in later if name in before]
    second = pauses[:100]
    assert min(second) >= 1 - checker.JITTER
    assert len({round(pause, 3) for pause in second}) > 10, "they vary"


def many(check: HealthCheck, count: int) -> Desired:
    """So many backends at one address."""
    wanted = desired(check)
    backends = tuple(replace(wanted.backends[0], name=f"b{number}") for number in range(count))
    pool = replace(wanted.pools[0], weights={each.name: 1 for each in backends})
    return replace(wanted, backends=backends, pools=(pool,))


def test_check_does_not_overlap_itself() -> None:
    async def test() -> None:
        async with serving(silent) as server:
            check = direct(HTTP, server.port, interval_s=0.02, timeout_s=0.15)
            async with running(checking(desired(check))):
                await until(lambda: len(server.arrivals) >= 4)
            assert server.most == 1

    run(test)


def test_as_many_as_the_limit_run_at_once_and_late_ones_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checker, "CONNECTIONS_MAX", 4)

    async def test() -> None:
        async with serving(silent) as server:
            check = direct(HTTP, server.port, interval_s=0.2, timeout_s=0.2)
            made = checking(many(check, 20))
            async with running(made):
                # Everybody has a turn.
                await until(lambda: made.counts.failed >= 20 and made.counts.late > 5)
            assert server.most == 4

    run(test)


def test_slow_commands_do_not_hold_up_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("CONNECTIONS_MAX", "COMMANDS_MAX"):
        monkeypatch.setattr(checker, limit, 1)

    async def test() -> None:
        async with serving(silent) as server:
            command = ("sleep", str(10 * PATIENCE_S))
            slow = HealthCheck(
                kind=COMMAND, command=command, interval_s=0.05, timeout_s=5 * PATIENCE_S
            )
            wanted = desired(slow, count=3)
            quick = replace(
                wanted.pools[0], name="quick", health=direct(TCP, server.port, interval_s=0.05)
            )
            quick = replace(quick, weights={"b1": 1})
            made = checking(replace(wanted, pools=(*wanted.pools, quick)))
            async with running(made):
                await until(lambda: made.counts.good >= 5)
            assert made.counts.failed == 0  # the first command has not ended

    run(test)


def test_problem_of_this_machine_leaves_backends_as_they_are() -> None:
    async def test() -> None:
        async with serving(silent) as server:
            made = checking(desired(direct(TCP, server.port, interval_s=0.03)))
            async with running(made):
                with without_descriptors():
                    await until(lambda: made.counts.not_checked >= 5)
                found = made.health()[B1]
                assert found.is_up
                assert made.counts.failed == 0
                await until(lambda: made.counts.good >= 1)

    run(test)


def test_bug_in_a_check_ends_the_task_instead_of_being_kept_quiet() -> None:
    class BrokenAddress:
        """Not an address at all."""

        version = 4

        def __str__(self) -> str:
            raise RuntimeError("broken")

    async def test() -> None:
        wanted = desired(direct(TCP, 9, interval_s=0.03))
        backend = replace(wanted.backends[0], address=BrokenAddress())  # type: ignore[arg-type]
        made = checking(replace(wanted, backends=(backend,)))
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.wait_for(made.run(), PATIENCE_S)

    run(test)
