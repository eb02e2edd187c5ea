# SPDX-License-Identifier: Apache-2.0
"""Real TCP sessions for the lab, by the hundred: held, short, arriving, returning.

Run inside the lab's client hosts, as `python -m limpet.lab.workload ...`; what the clients find
goes to standard output as one JSON object a line. `hold` is in `held`; what makes a session whole
is in `client`, and whom it speaks to in `server`.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import sys
import time

from limpet.lab import held
from limpet.lab.client import BrokenSessionError, Session, Targets, own_sources
from limpet.lab.server import many_files

PARALLEL = 64  # short connections at once


async def short(targets: Targets, number: int, port_first: int) -> None:
    """Open `number` connections, one exchange each; report how they spread over backends.

    Each source's first connection is from `port_first`, its next from the one after, so that two
    runs can be the same to a hash over ports. 0: from whichever ports are free.
    """
    spread: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    pairs = iter(targets.pairs(number))
    used: collections.Counter[tuple[str, str]] = collections.Counter()

    async def work() -> None:
        for pair in pairs:
            vip, source = pair
            source_port = port_first + used[pair] if port_first else 0
            used[pair] += 1
            session = Session(vip, targets.port, source, source_port)
            try:
                await session.open()
                spread[session.backend] += 1
            except BrokenSessionError as error:
                failed[str(error)] += 1
            session.close()

    await asyncio.gather(*(work() for _ in range(PARALLEL)))
    print(json.dumps({"by_backend": dict(spread), "failed": dict(failed)}), flush=True)


async def visit(targets: Targets, pair: tuple[str, str]) -> str:
    """One connection with one exchange: its backend, or "failed: ..."."""
    session = Session(pair[0], targets.port, pair[1])
    try:
        await session.open()
        await session.end()
        return session.backend
    except BrokenSessionError as error:
        return f"failed: {error}"
    finally:
        session.close()


async def arrive(targets: Targets, per_s: float) -> None:
    """New clients at an even rate until standard input ends; each says hello and goes.

    An address comes again only after all others, so that its session has expired by then. Says
    when those of a second have been, and reports [when it began, Unix seconds; backend] of each.
    """
    loop, rows = asyncio.get_running_loop(), []
    over = loop.run_in_executor(None, sys.stdin.read)
    running: set[asyncio.Task[None]] = set()
    begun = loop.time()

    async def client(pair: tuple[str, str]) -> None:
        at = time.time()
        rows.append((at, await visit(targets, pair)))
        if len(rows) == per_s:
            print("under way", flush=True)

    pairs = targets.pairs(targets.distinct())
    number = 0
    while not over.done():
        while number < (loop.time() - begun) * per_s:
            task = asyncio.create_task(client(pairs[number % len(pairs)]))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.wait({over}, timeout=1 / per_s)
    if running:
        await asyncio.wait(running)
    print(json.dumps({"rows": rows, "clients": len(pairs)}), flush=True)


async def return_after(targets: Targets, number: int, idle_s: float, pause_s: float) -> None:
    """Clients that come three times: each again `idle_s` after it left, then all again together
    once the last of them has been away for `pause_s`. Reports the backends of each visit, and how
    long each second one came after the first."""
    pairs, gate = targets.pairs(number), asyncio.Semaphore(PARALLEL)

    async def come(pair: tuple[str, str]) -> str:
        async with gate:
            return await visit(targets, pair)

    async def come_twice(pair: tuple[str, str]) -> tuple[str, str, float]:
        first, left = await come(pair), time.monotonic()
        await asyncio.sleep(idle_s)
        second = await come(pair)
        return first, second, time.monotonic() - left

    twice = await asyncio.gather(*(come_twice(pair) for pair in pairs))
    print(json.dumps({"gone": True}), flush=True)
    await asyncio.sleep(pause_s)
    last = await asyncio.gather(*(come(pair) for pair in pairs))
    firsts, seconds, gaps = zip(*twice, strict=True)
    visits = [list(firsts), list(seconds), list(last)]
    print(json.dumps({"visits": visits, "idle_s": gaps}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("hold", "short", "arrive", "return"):
        client = commands.add_parser(command)
        client.add_argument("number", type=int)
        client.add_argument("port", type=int)
        client.add_argument("vips", nargs="+")
        client.add_argument("--skip", type=int, default=0, metavar="ADDRESSES")
        client.add_argument("--source", default="", metavar="ADDRESS")
        client.add_argument("--every", type=float, default=0.2, metavar="SECONDS")
        client.add_argument("--port-first", type=int, default=0)
        client.add_argument("--port-step", type=int, default=1)
        client.add_argument("--life", type=float, nargs=2, metavar=("LEAST", "MOST"))
        client.add_argument("--again", type=float, default=0.0, metavar="PER_SECOND")
        client.add_argument("--idle", type=float, default=4.0, metavar="SECONDS")
        client.add_argument("--pause", type=float, default=6.0, metavar="SECONDS")
    return parser


def main() -> None:
    options = _parser().parse_args()
    many_files()
    sources = own_sources(options.skip, options.source)
    targets = Targets(options.vips, options.port, sources)
    match options.command:
        case "hold":
            wishes = held.Wishes(
                every_s=options.every,
                port_first=options.port_first,
                port_step=options.port_step,
                life_s=tuple(options.life or ()),
                again_per_s=options.again,
            )
            running = held.hold(targets, options.number, wishes)
        case "short":
            running = short(targets, options.number, options.port_first)
        case "arrive":
            running = arrive(targets, options.number)
        case _:
            running = return_after(targets, options.number, options.idle, options.pause)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(running)


if __name__ == "__main__":
    main()
