# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job as a story on the terminal. It ends with how many sessions broke.

Holds real TCP sessions through a director while everything around them changes, one chapter a
change, and says after each how many are alive. Returns whether the promise held; the lab is taken
down at the end, however it ends, unless it is to be kept.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from limpet.api.client import Client
from limpet.api.places import places
from limpet.lab import changes, operations, source
from limpet.lab.sessions import (
    HeldSessions,
    Server,
    returning_clients,
    short_connections,
    syn_flood,
)
from limpet.lab.topology import Topology, Vip

PORT = 7_000
SESSIONS = 200
SHORT = 360  # new clients, each from an address of its own, since a known one goes where it was
VISITORS, VISIT_S = 100, (1.0, 6.0)  # sessions that end of themselves, and when
RETURNING = 200
BRIEF = ip_address("192.0.2.20")  # a VIP whose sessions end soon
IDLE_S, STAY_S, RETURN_S = 3, 2.0, 4.5
FLOOD = 300_000
NEW_FLOWS_PER_S = 150_000  # another constant, so another program has to be loaded
SETTLE_S = 1.5  # after a change, so that every session has exchanged several times
CLIENT, ATTACKER, DIRECTOR = "client2", "client1", "fra-d1"


@dataclass
class Chapter:
    """What was done and how the sessions took it."""

    title: str
    alive: int
    broken: int
    gap_ms: int


@dataclass
class Story:
    """The demo of one lab."""

    lab: str
    console: Console
    servers: dict[str, Server] = field(default_factory=dict)
    chapters: list[Chapter] = field(default_factory=list)
    vips: list[str] = field(default_factory=list)
    used: int = 0  # client addresses of each family that have a session

    def fresh(self, number: int) -> int:
        """How many addresses to skip, so that so many sessions are of new clients."""
        first = self.used
        self.used += number // len(self.vips)
        return first

    def serve(self, *backends: str) -> None:
        for name in backends:
            self.servers[name] = Server(self.lab, name, PORT)

    def chapter(self, title: str, held: HeldSessions, act: Callable[[], str]) -> None:
        """Do it while sessions run, let them run on, and write down how they are."""
        with self.console.status(f"[bold]{title} ..."):
            said = act()
            time.sleep(SETTLE_S)
        report = held.report()
        chapter = Chapter(title, report["alive"], len(report["broken"]), report["longest_gap_ms"])
        self.chapters.append(chapter)
        colour = "red" if chapter.broken else "green"
        self.console.print(
            f"[bold]{title}[/bold]\n  {said}\n  sessions alive: [{colour}]{chapter.alive}[/], "
            f"broken: [{colour}]{chapter.broken}[/]"
        )

    @property
    def api(self) -> Client:
        return Client(places(f"{self.lab}-{DIRECTOR}").socket)

    def show(self, path: str) -> Any:
        """What the director's API says."""
        return self.api.get(path)

    # --- Chapters -------------------------------------------------------------------------------

    def spread(self, weights: dict[str, int]) -> str:
        """Short connections, and how they meet the weights."""
        skip = self.fresh(SHORT)
        found = short_connections(self.lab, CLIENT, SHORT, PORT, self.vips, skip=skip)
        total, table = sum(weights.values()), Table(box=None, padding=(0, 2))
        for column in ("backend", "weight", "wanted", "connections"):
            table.add_column(column, justify="left" if column == "backend" else "right")
        for name, weight in weights.items():
            wanted = f"{100 * weight / total:.1f} %"
            got = found["by_backend"].get(name, 0)
            share = f"{got}  ({100 * got / SHORT:.1f} %)"
            table.add_row(name, str(weight), wanted, share)
        self.console.print(table)
        failed = sum(found["failed"].values())
        return f"{SHORT} new clients, {failed} failed"

    def add(self) -> str:
        for name in ("b4", "b5"):
            changes.add(self.lab, name)
            self.serve(name)
        return "b4 and b5 take their share of new sessions; live ones stay"

    def remove(self) -> str:
        changes.remove(self.lab, "b2", keep_host=True)
        return "b2 is out of the pool: nothing new reaches it, what it serves goes on"

    def weight(self) -> str:
        changes.weight(self.lab, "b1", 5)
        return "b1 now weighs 5, the others 1"

    def drain(self) -> str:
        """b5 is to be switched off: its visitors leave one by one."""
        skip, life = self.fresh(VISITORS), VISIT_S
        with HeldSessions(
            self.lab, CLIENT, VISITORS, PORT, self.vips, skip=skip, life=life
        ) as visitors:
            visitors.wait_open()
            begun = time.monotonic()
            self.api.put("/v1/backends/b5/drain", {"rule": "flows"})
            while (row := self._drain_of("b5"))["state"] != "drained":
                rate = row["leaving_per_s"] or 0.0
                line = f"  b5 drains: {row['flows']} flows are left, {rate:.1f}/s leave"
                self.console.print(line)
                time.sleep(1)
            took_s = time.monotonic() - begun
            broken = len(visitors.fresh()["broken"])
        self.api.delete("/v1/backends/b5/drain")
        return (
            f"the last of its visitors left after {took_s:.1f} s, {broken} were cut off; "
            "now it may be switched off"
        )

    def _drain_of(self, backend: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.show("/v1/drains")
        return next(row for row in rows if row["backend"] == backend)

    def idle(self) -> str:
        """Clients that come back before, and after, their session has ended by itself."""
        found = returning_clients(
            self.lab, CLIENT, RETURNING, PORT, [str(BRIEF)], idle=STAY_S, pause=RETURN_S
        )
        first, second, last = found["visits"]
        stayed = sum(a == b for a, b in zip(first, second, strict=True))
        moved = sum(a != b for a, b in zip(second, last, strict=True))
        freest, count = Counter(last).most_common(1)[0]
        return (
            f"{stayed} of {RETURNING} that come back {STAY_S:.0f} s later find their backend; "
            f"after their timeout of {IDLE_S} s they are new: {moved} are placed elsewhere, "
            f"most ({count}) on {freest}, the freest"
        )

    def kill_daemon(self) -> str:
        changes.kill(self.lab, DIRECTOR, daemon_only=True)
        return "no limpet process runs on the director; its kernel goes on forwarding"

    def restart(self) -> str:
        changes.start(self.lab, DIRECTOR)
        return "the new daemon adopted maps and flows, and swapped in its own program"

    def upgrade(self) -> str:
        before = self._program()
        changes.director(self.lab, new_flows_per_s=NEW_FLOWS_PER_S)
        return f"program {before} was replaced by program {self._program()} between two packets"

    def _program(self) -> int:
        number: int = self.show("/v1/status")["program_id"]
        return number

    def flood(self, held: HeldSessions) -> str:
        before = self._events()
        with held.half_resting():
            sent = syn_flood(self.lab, ATTACKER, self.vips[0], PORT, FLOOD)
        after = self._events()
        moved = {name: after[name] - before[name] for name in after if after[name] > before[name]}
        figures = ", ".join(f"{name} {count:,}" for name, count in sorted(moved.items()))
        rate = sent["sent"] / sent["seconds"]
        return (
            f"{sent['sent']:,} sources sent at {rate:,.0f} packets/s, while half of the sessions "
            f"are silent; connection table: {figures}"
        )

    def _events(self) -> dict[str, int]:
        return {row["name"]: row["value"] for row in self.show("/v1/counters")["events"]}


def tell(lab: str, *, keep: bool, console: Console | None = None) -> bool:
    """Tell the story; True if no session broke."""
    story = Story(lab, console or Console())
    story.console.print(
        Panel("Sessions through a VIP while everything around them changes.", title="limpet")
    )
    begun = time.monotonic()
    try:
        with story.console.status("[bold]building the lab ..."):
            plain = source.load("one-pop")
            operations.up(lab, _with_brief_vip(plain))
            story.vips = [str(vip.address) for vip in plain.vip]
        story.console.print(f"lab [bold]{lab}[/] forwards after {time.monotonic() - begun:.1f} s")
        final = _chapters(story)
        return _ending(story, final, time.monotonic() - begun)
    finally:
        for server in story.servers.values():
            if not keep:
                server.close()
        if keep:
            story.console.print(f"the lab stays up; `limpet lab down --lab {lab}` removes it")
        else:
            operations.down(lab)


def _with_brief_vip(topology: Topology) -> Topology:
    brief = Vip(address=BRIEF, settings={"timeouts": {"tcp_established_s": IDLE_S}})
    return topology.model_copy(update={"vip": (*topology.vip, brief)})


def _chapters(story: Story) -> dict[str, Any]:
    story.serve("b1", "b2", "b3")
    story.fresh(SESSIONS)
    with HeldSessions(story.lab, CLIENT, SESSIONS, PORT, story.vips) as held:
        opened = held.wait_open()
        by_backend = ", ".join(f"{k}: {v}" for k, v in sorted(opened["by_backend"].items()))
        story.console.print(
            f"{opened['alive']} TCP sessions with state in the server, over both families "
            f"({by_backend})"
        )
        equal = dict.fromkeys(("b1", "b2", "b3"), 1)
        story.chapter("new sessions follow the weights", held, lambda: story.spread(equal))
        story.chapter("two backends join", held, story.add)
        story.chapter("a backend is removed while its sessions live", held, story.remove)
        story.chapter("a backend is drained", held, story.drain)
        story.chapter("a weight changes", held, story.weight)
        changed = {"b1": 5, "b3": 1, "b4": 1, "b5": 1}
        story.chapter("new sessions follow the new weights", held, lambda: story.spread(changed))
        story.chapter("idle clients return", held, story.idle)
        story.chapter("the daemon is killed (SIGKILL)", held, story.kill_daemon)
        story.chapter("the daemon starts again", held, story.restart)
        story.chapter("the program is replaced", held, story.upgrade)
        story.chapter("a SYN flood", held, lambda: story.flood(held))
        return held.finish()


def _ending(story: Story, final: dict[str, Any], took_s: float) -> bool:
    table = Table("chapter", "alive", "broken", "longest wait so far", title="the story in short")
    for chapter in story.chapters:
        table.add_row(
            chapter.title, str(chapter.alive), str(chapter.broken), f"{chapter.gap_ms} ms"
        )
    story.console.print(table)
    for line in final["broken"]:
        story.console.print(f"[red]broken: {line}")
    held = not final["broken"] and final["alive"] == SESSIONS
    verdict = f"{len(final['broken'])} of {SESSIONS} sessions broken"
    story.console.print(
        Panel(
            f"[bold]{verdict}[/] in {final['exchanges']:,} exchanges, {took_s:.0f} s",
            style="green" if held else "red",
        )
    )
    return held
