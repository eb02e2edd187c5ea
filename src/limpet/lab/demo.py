# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job as a story on the terminal. It ends with how many sessions broke.

Holds real TCP sessions through a director while everything around them changes, one chapter a
change, and says after each how many are alive. Returns whether the promise held; the lab is taken
down at the end, however it ends, unless it is to be kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from limpet.api.client import Client
from limpet.api.places import places
from limpet.lab import changes, operations, source
from limpet.lab.sessions import HeldSessions, Server, short_connections, syn_flood

PORT = 7_000
SESSIONS = 200
SHORT = 2_000
FLOOD = 300_000
NEW_FLOWS_PER_S = 150_000  # another constant, so another program has to be loaded
SETTLE_S = 2.0  # after a change, so that every session has exchanged several times
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

    def show(self, path: str) -> Any:
        """What the director's API says."""
        return Client(places(f"{self.lab}-{DIRECTOR}").socket).get(path)

    # --- Chapters -------------------------------------------------------------------------------

    def spread(self, weights: dict[str, int]) -> str:
        """Short connections, and how they meet the weights."""
        found = short_connections(self.lab, CLIENT, SHORT, PORT, self.vips)
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
        return f"{SHORT} short connections from 1,024 addresses, {failed} failed"

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
            operations.up(lab, source.load("one-pop"))
            story.vips = operations.status(lab)["vips"]
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


def _chapters(story: Story) -> dict[str, Any]:
    story.serve("b1", "b2", "b3")
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
        story.chapter("a weight changes", held, story.weight)
        changed = {"b1": 5, "b3": 1, "b4": 1, "b5": 1}
        story.chapter("new sessions follow the new weights", held, lambda: story.spread(changed))
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
