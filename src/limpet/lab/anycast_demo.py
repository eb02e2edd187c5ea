# SPDX-License-Identifier: Apache-2.0
"""The demo with two PoPs: BGP moves clients in the middle of their sessions, and none notices.

Real programs hold sessions whose state lives in one process on one backend: psql inside a
transaction, a shell behind ssh, an MQTT subscription; beside them two hundred sessions of the
lab's own. Then BGP moves their clients, the pool changes, a director dies. The same is told again
of directors that go by the hash alone, as balancers without a memory do.

Returns whether the promise held with limpet. The lab is taken down at the end, however it ends.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from limpet.lab import changes, operations, shifting, source
from limpet.lab.apps import mqtt, postgresql, ssh
from limpet.lab.apps.application import Account, ApplicationServer, ApplicationSession
from limpet.lab.sessions import HeldSessions, Server
from limpet.lab.topology import Role

PORT = 7_000
HELD = 200
PROGRAMS = (postgresql, ssh, mqtt)
CLIENTS = ("client1", "client2")
SETTLE_S = 1.5  # after a change, so that every session has exchanged several times
OPEN_S = 20.0
SHOWN = 2  # of broken sessions of each kind, with what became of them
FLAP_EVERY_S, FLAP_FOR_S = 0.2, 4.0  # 20 flaps
HOME, AWAY = "fra", "par"
DIRECTOR = "fra-d1"
REMOVED, EMPTIED, ADDED = "fra-b2", "par-b1", {"fra-b4": "fra", "par-b4": "par"}


@dataclass
class Chapter:
    """What was done and how the sessions took it."""

    title: str
    said: str
    alive: int
    broken: int
    gap_ms: int


@dataclass
class Telling:
    """One run of the story, in a lab of its own."""

    lab: str
    console: Console
    folder: Path
    servers: list[Server | ApplicationServer] = field(default_factory=list)
    sessions: list[ApplicationSession] = field(default_factory=list)
    chapters: list[Chapter] = field(default_factory=list)

    def serve(self, backend: str) -> None:
        self.servers.append(Server(self.lab, backend, PORT))
        self.servers += [program.Server(self.lab, backend, self.folder) for program in PROGRAMS]

    def begin(self, vips: list[str]) -> None:
        """A session of every program, from every client, through every VIP."""
        for client in CLIENTS:
            for vip in vips:
                for program in PROGRAMS:
                    made = program.Session(self.lab, client, vip, self.folder)
                    self.sessions.append(made)
        deadline = time.monotonic() + OPEN_S
        while any(s.account.exchanges < 1 for s in self.sessions) and time.monotonic() < deadline:
            time.sleep(0.1)

    def broken(self) -> list[Account]:
        for session in self.sessions:
            session.notice_silence()
        return [each.account for each in self.sessions if each.account.broken]

    def chapter(self, title: str, held: HeldSessions, act: Callable[[], str]) -> None:
        with self.console.status(f"[bold]{title} ..."):
            said = act()
            time.sleep(SETTLE_S)
        report, lost = held.fresh(), len(self.broken())
        alive = report["alive"] + len(self.sessions) - lost
        count = len(report["broken"]) + lost
        gaps = [report["longest_gap_ms"]]
        gaps += [round(session.account.longest_gap_s * 1e3) for session in self.sessions]
        self.chapters.append(Chapter(title, said, alive, count, max(gaps)))
        colour = "red" if count else "green"
        self.console.print(
            f"[bold]{title}[/bold]\n  {said}\n  sessions alive: [{colour}]{alive}[/], broken: "
            f"[{colour}]{count}[/]"
        )

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for server in self.servers:
            server.close()

    # --- Chapters -------------------------------------------------------------------------------

    def shift(self, pop: str, clients: int = len(CLIENTS)) -> str:
        moved = CLIENTS[:clients]
        took = max(shifting.shift(self.lab, client, pop) for client in moved)
        return f"routers send {' and '.join(moved)} to {pop} after {took * 1e3:.0f} ms"

    def exchange(self) -> str:
        """Each client to where it has never been since the pool changed."""
        return "; ".join(
            f"{client} goes to {pop} after {shifting.shift(self.lab, client, pop) * 1e3:.0f} ms"
            for client, pop in zip(CLIENTS, (HOME, AWAY), strict=True)
        )

    def flap(self) -> str:
        found = shifting.flap(self.lab, CLIENTS[1], FLAP_EVERY_S, FLAP_FOR_S)
        return f"the path of {CLIENTS[1]} changed {found.seen} times in {FLAP_FOR_S:.0f} s"

    def change_pool(self) -> str:
        for name, pop in ADDED.items():
            changes.add(self.lab, name, pop=pop, pooled=False)
            self.serve(name)
            changes.add(self.lab, name)
        changes.remove(self.lab, REMOVED, keep_host=True)
        return f"{' and '.join(ADDED)} join, {REMOVED} is removed"

    def shift_and_change(self) -> str:
        changes.weight(self.lab, EMPTIED, 0)
        said = self.shift(HOME)
        changes.add(self.lab, REMOVED)
        return f"{EMPTIED} gets nothing new, {said}, {REMOVED} is back in the pool"

    def lose_director(self) -> str:
        changes.kill(self.lab, DIRECTOR, daemon_only=False)
        for client in CLIENTS:
            shifting.wait_there(self.lab, client, AWAY)
        return f"{DIRECTOR} lost its power: {HOME} has no director, BGP goes to {AWAY}"


def tell(lab: str, *, keep: bool, compare: bool, console: Console | None = None) -> bool:
    """Tell the story; True if no session broke."""
    console = console or Console()
    console.print(
        Panel(
            "Sessions of real programs, while BGP moves their clients between PoPs.", title="limpet"
        )
    )
    begun, told = time.monotonic(), []
    with _telling(lab, console, hash_only=False, keep=keep) as (telling, held):
        _chapters(telling, held)
        told.append(_ending(telling, held, "with limpet"))
        _show_sessions(telling)
    if compare:
        console.print(Panel("The same again, by consistent hash alone: no memory, no directory."))
        with _telling(f"{lab}-h", console, hash_only=True, keep=False) as (telling, held):
            _chapters(telling, held)
            told.append(_ending(telling, held, "hash alone"))
    _compare(console, told, time.monotonic() - begun)
    return told[0].broken == 0


@dataclass
class Outcome:
    """How one telling ended."""

    title: str
    chapters: list[Chapter]
    sessions: int
    broken: int
    exchanges: int


@contextlib.contextmanager
def _telling(
    lab: str, console: Console, *, hash_only: bool, keep: bool
) -> Iterator[tuple[Telling, HeldSessions]]:
    folder = Path(tempfile.mkdtemp(prefix="limpet-demo-"))
    telling, begun = Telling(lab, console, folder), time.monotonic()
    try:
        with console.status("[bold]two PoPs, an internet, a backbone ..."):
            topology = source.load("two-pop")
            if hash_only:
                director = {**topology.director, "hash_only": True}
                topology = topology.model_copy(update={"director": director})
            operations.up(lab, topology)
            for host in topology.hosts(Role.BACKEND):
                telling.serve(host.name)
        vips = [str(vip.address) for vip in topology.vip]
        with HeldSessions(lab, CLIENTS[1], HELD, PORT, vips) as held:
            held.wait_open()
            telling.begin(vips)
            console.print(
                f"lab [bold]{lab}[/]: {HELD + len(telling.sessions)} sessions through "
                f"{' and '.join(vips)}, {time.monotonic() - begun:.0f} s after its beginning"
            )
            yield telling, held
    finally:
        telling.close()
        if keep:
            console.print(f"the lab stays up; `limpet lab down --lab {lab}` removes it")
        else:
            operations.down(lab)
        shutil.rmtree(folder, ignore_errors=True)


def _chapters(telling: Telling, held: HeldSessions) -> None:
    telling.chapter("BGP moves one client to another PoP", held, lambda: telling.shift(AWAY, 1))
    telling.chapter("the pool changes", held, telling.change_pool)
    telling.chapter("BGP moves all clients to the other PoP", held, telling.exchange)
    telling.chapter("routes flap", held, telling.flap)
    telling.chapter("BGP moves them as the pool changes again", held, telling.shift_and_change)
    telling.chapter("a PoP loses its director", held, telling.lose_director)


def _ending(telling: Telling, held: HeldSessions, title: str) -> Outcome:
    final, lost = held.finish(), telling.broken()
    for line in final["broken"][:SHOWN]:
        telling.console.print(f"[red]broken: {line}")
    for account in lost[:SHOWN]:
        telling.console.print(
            f"[red]broken: {account.application} on {account.first}: {account.broken}"
        )
    exchanges = final["exchanges"] + sum(each.account.exchanges for each in telling.sessions)
    broken = len(final["broken"]) + len(lost)
    sessions = HELD + len(telling.sessions)
    return Outcome(title, telling.chapters, sessions, broken, exchanges)


def _show_sessions(telling: Telling) -> None:
    table = Table(title="sessions of programs")
    for column in ("program", "over", "backend before", "after"):
        table.add_column(column, no_wrap=True)
    for column in ("exchanges", "longest wait", "broken"):
        table.add_column(column, justify="right", no_wrap=True)
    for session in telling.sessions:
        account = session.account
        family = f"IPv{ip_address(account.vip).version}"
        wait = f"{account.longest_gap_s * 1e3:.0f} ms"
        verdict = "[red]yes" if account.broken else "[green]no"
        said = (account.application, family, account.first, account.last)
        table.add_row(*said, str(account.exchanges), wait, verdict)
    telling.console.print(table)


def _compare(console: Console, told: list[Outcome], took_s: float) -> None:
    table = Table(title="broken so far")
    table.add_column("chapter")
    for outcome in told:
        table.add_column(outcome.title, justify="right")
    for row in zip(*(outcome.chapters for outcome in told), strict=True):
        counts = [f"[{'red' if c.broken else 'green'}]{c.broken}" for c in row]
        table.add_row(row[0].title, *counts)
    console.print(table)
    first = told[0]
    verdict = f"[bold]{first.broken} of {first.sessions} sessions broken[/]"
    rest = "".join(f"; {each.title}: {each.broken} of {each.sessions}" for each in told[1:])
    console.print(
        Panel(
            f"{verdict} in {first.exchanges:,} exchanges{rest}; {took_s:.0f} s",
            style="red" if first.broken else "green",
        )
    )
