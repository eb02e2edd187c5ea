# SPDX-License-Identifier: Apache-2.0
"""Sessions that one client host holds open, and what became of each.

They exchange now and then, one after the other or not, until standard input ends; a report goes to
standard output all the while. Lines on standard input change what they do:

    rest       half of them, of every VIP, say nothing, as sensors do most of the time
    rest all   all of them
    rest but N all but every Nth
    keep N     all but the first N end, as their users would end them
    go on      nobody rests

Some clients also come again: a further connection from the address of a held session, which must
reach the same backend. Where it did not is noted as a stray; whether it was allowed to is for the
reader to say.
"""

import asyncio
import collections
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from limpet.lab.client import BrokenSessionError, Session, Targets

REPORT_S = 0.25
ROWS_PER_REPORT_S = 2_000  # of many sessions, reports come less often


@dataclass(frozen=True)
class Wishes:
    """How sessions are to be held."""

    every_s: float = 0.2  # pause between two exchanges of a session
    port_first: int = 0  # source port of the first session; 0: any
    port_step: int = 1  # from one session to the next
    life_s: tuple[float, ...] = ()  # least and most, drawn evenly; empty: to the end
    again_per_s: float = 0.0  # further connections, all sessions in turn


@dataclass
class Held:
    """Sessions that are held open."""

    wishes: Wishes
    sessions: list[Session] = field(default_factory=list)
    exchanges: int = 0
    agains: int = 0
    resting: str = ""
    keep: int | None = None

    def report(self) -> dict[str, object]:
        alive = [session for session in self.sessions if session.is_alive]
        gaps = [session.longest_gap_s for session in self.sessions]
        return {
            "sessions": len(self.sessions),
            "alive": len(alive),
            "ended": sum(bool(session.ended_at) for session in self.sessions),
            "exchanges": self.exchanges,
            "agains": self.agains,
            "by_backend": dict(collections.Counter(session.backend for session in alive)),
            "longest_gap_ms": round(max(gaps, default=0) * 1_000),
            "broken": [
                f"{s.source} -> {s.vip} on {s.backend}: {s.broken}"
                for s in self.sessions
                if s.broken
            ],
            "rows": [session.row() for session in self.sessions],
        }

    def rests(self, index: int, vips: int) -> bool:
        if self.resting.startswith("rest but "):
            return bool(index // vips % int(self.resting.removeprefix("rest but ")))
        return self.resting == "rest all" or (self.resting == "rest" and bool((index // vips) % 2))


async def hold(targets: Targets, number: int, wishes: Wishes) -> None:
    """Hold sessions until standard input ends."""
    held = Held(wishes)
    await _open(held, targets, number)
    life = _lives(wishes.life_s, number)
    vips = len(targets.vips)
    tasks = [asyncio.create_task(_keep(held, index, vips, next(life))) for index in range(number)]
    if wishes.again_per_s:
        tasks.append(asyncio.create_task(_come_again(held)))
    print(json.dumps(held.report()), flush=True)
    ended = asyncio.create_task(_obey(held))
    while not ended.done():
        await asyncio.wait({ended}, timeout=max(REPORT_S, number / ROWS_PER_REPORT_S))
        print(json.dumps(held.report()), flush=True)
    for task in tasks:
        task.cancel()
    for session in held.sessions:
        session.close()
    print(json.dumps({**held.report(), "final": True}), flush=True)


async def _open(held: Held, targets: Targets, number: int) -> None:
    for index, (vip, source) in enumerate(targets.pairs(number)):
        first, step = held.wishes.port_first, held.wishes.port_step
        session = Session(vip, targets.port, source, first and first + index * step)
        held.sessions.append(session)
        try:
            await session.open()
        except BrokenSessionError as error:
            session.fail(error)


def _lives(bounds: tuple[float, ...], number: int) -> Iterator[float]:
    """When each session ends, on the clock of the loop."""
    now, draw = asyncio.get_running_loop().time(), random.Random(number)
    if not bounds:
        return itertools.repeat(float("inf"), number)
    return (now + draw.uniform(*bounds) for _ in range(number))


async def _obey(held: Held) -> None:
    """What standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line.startswith("keep "):
            held.keep = int(line.removeprefix("keep "))
        else:
            held.resting = line


async def _keep(held: Held, index: int, vips: int, until: float) -> None:
    session, loop = held.sessions[index], asyncio.get_running_loop()
    while session.is_alive:
        pause = held.wishes.every_s
        try:
            if loop.time() >= until or (held.keep is not None and index >= held.keep):
                await session.end()
                return
            if held.rests(index, vips):
                session.listen()
                pause = min(pause, REPORT_S)
            else:
                await session.exchange()
                held.exchanges += 1
        except BrokenSessionError as error:
            session.fail(error)
        await asyncio.sleep(min(pause, max(until - loop.time(), 0)))


async def _come_again(held: Held) -> None:
    """One more connection of each live session in turn."""
    for session in itertools.cycle(held.sessions):
        await asyncio.sleep(1 / held.wishes.again_per_s)
        if not session.is_alive:
            continue
        again, at = Session(session.vip, session.port, session.source), time.time()
        try:
            await again.open()
            if again.backend != session.backend:
                session.strays.append((at, again.backend))
            held.agains += 1
        except BrokenSessionError as error:
            session.strays.append((at, f"failed: {error}"))
        again.close()
