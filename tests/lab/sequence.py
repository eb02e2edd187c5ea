# SPDX-License-Identifier: Apache-2.0
"""Random sequences of changes under live sessions, each made from a seed alone.

A sequence keeps one promise to itself: after every step some backend can take new sessions. A
backend that dies is not in the mix, since its sessions end with it; one whose health check fails
is, with a pool that holds its sessions. Nobody is reset.

`run` carries a sequence out and is the judge. No session may break. No packet may reach a backend
that does not know its session, or that backend would send a RST. Every answer comes from the
backend that gave the first one. A further connection of a live session reaches its backend too,
unless that has been left by its sessions: it was removed, down, or drained by flows. New sessions
go to eligible backends only.
"""

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from limpet.lab import changes, folder
from limpet.lab.sessions import HeldSessions, Server

from .observe import DIRECTOR, PORT
from .stage import CHECK_PORT, Stage

BACKENDS = ("b1", "b2", "b3", "b4")
NEWCOMER = "b5"
STEPS = 8
SESSIONS, NEW_SESSIONS = 120, 24
WEIGHTS = (0, 1, 2, 5, 50)
PAUSE_MAX_S = 0.5
KILL_MAX_S = 0.4  # after a command was begun
CONNECT_S = 0.5  # from when a client notes the time to its SYN, on a busy machine


@dataclass(frozen=True)
class Step:
    """One change: what, whose, how."""

    kind: str
    backend: str = ""
    value: float = 0
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        value = f" {self.value:g}" if self.value else ""
        return " ".join([self.kind, self.backend, *self.words]).strip() + value


@dataclass
class Pool:
    """What a sequence has made of the pool so far."""

    weights: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BACKENDS, 1))
    removed: set[str] = field(default_factory=set)
    draining: set[str] = field(default_factory=set)
    sick: set[str] = field(default_factory=set)
    flapped: set[str] = field(default_factory=set)  # one flap each: a second might be damped

    @property
    def pooled(self) -> list[str]:
        return [name for name in self.weights if name not in self.removed]

    @property
    def eligible(self) -> set[str]:
        out = self.draining | self.sick
        return {name for name in self.pooled if self.weights[name] and name not in out}

    def may_lose(self, name: str) -> bool:
        return bool(self.eligible - {name})

    def choices(self) -> dict[str, list[str]]:
        """Which backends each kind of step may be about."""
        absent = sorted(self.removed) + ([] if NEWCOMER in self.weights else [NEWCOMER])
        losable = [name for name in self.pooled if self.may_lose(name)]
        return {
            "add": absent,
            "remove": [name for name in losable if name not in self.draining | self.sick],
            "weight": losable,
            "weight and kill": self.pooled,
            "drain": [name for name in losable if name not in self.draining],
            "undrain": sorted(self.draining),
            "sicken": [name for name in losable if name not in self.flapped],
            "recover": sorted(self.sick),
            "restart": [""],
        }

    def after(self, step: Step) -> None:
        match step.kind:
            case "add":
                self.removed.discard(step.backend)
                self.weights.setdefault(step.backend, 1)
            case "remove":
                self.removed.add(step.backend)
            case "weight" | "weight and kill":
                self.weights[step.backend] = int(step.value)
            case "drain":
                self.draining.add(step.backend)
            case "undrain":
                self.draining.discard(step.backend)
            case "sicken":
                self.sick.add(step.backend)
                self.flapped.add(step.backend)
            case "recover":
                self.sick.discard(step.backend)


def sequence(seed: int, length: int = STEPS) -> Iterator[tuple[Step, Pool]]:
    """Steps, each with the pool as it is after it."""
    draw, pool = random.Random(seed), Pool()
    for _ in range(length):
        choices = {kind: names for kind, names in pool.choices().items() if names}
        kind = draw.choice(sorted(choices))
        step = _step(draw, kind, draw.choice(choices[kind]))
        pool.after(step)
        assert pool.eligible
        yield step, pool


def _step(draw: random.Random, kind: str, name: str) -> Step:
    match kind:
        case "weight":
            return Step(kind, name, draw.choice(WEIGHTS))
        case "weight and kill":
            return Step(
                kind, name, draw.choice(WEIGHTS[1:]), (f"{draw.uniform(0, KILL_MAX_S):.3f}",)
            )
        case "drain":
            words = ("--rule", draw.choice(("sessions", "flows")))
            return Step(kind, name, words=(*words, *draw.choice(((), ("--deadline", "1s")))))
        case _:
            return Step(kind, name)


def story(seed: int) -> list[str]:
    return [str(step) for step, _ in sequence(seed)]


# --- Carrying it out ------------------------------------------------------------------------------


@dataclass
class Run:
    """One sequence on one lab."""

    stage: Stage
    held: HeldSessions
    left_at: dict[str, float] = field(default_factory=dict)  # since when sessions may leave it

    def do(self, step: Step, pool: Pool) -> None:
        acts: dict[str, Callable[[Step, Pool], None]] = {
            "add": self._add,
            "remove": self._remove,
            "weight": self._weight,
            "weight and kill": self._weight_and_kill,
            "drain": self._drain,
            "undrain": lambda step, _: self._say("undrain", step.backend),
            "sicken": self._sicken,
            "recover": lambda step, _: self.stage.servers[step.backend].recover(),
            "restart": self._restart,
        }
        acts[step.kind](step, pool)
        self._measured(pool)
        found = self.stage.newcomers(NEW_SESSIONS)
        assert set(found) <= pool.eligible, f"new sessions went to {found}"

    def _say(self, *words: str) -> None:
        self.stage.limpet("backend", *words)

    def _add(self, step: Step, pool: Pool) -> None:
        if step.backend not in self.stage.servers:
            # It serves before it joins: the next new session may be placed on it at once.
            changes.add(self.stage.lab, step.backend, pooled=False)
            server = Server(self.stage.lab, step.backend, PORT, CHECK_PORT)
            self.stage.servers[step.backend] = server
        changes.add(self.stage.lab, step.backend)

    def _remove(self, step: Step, pool: Pool) -> None:
        self._may_be_left(step.backend)
        changes.remove(self.stage.lab, step.backend, keep_host=True)

    def _weight(self, step: Step, pool: Pool) -> None:
        self._say("weight", step.backend, f"{step.value:g}")

    def _weight_and_kill(self, step: Step, pool: Pool) -> None:
        """The daemon dies while, before or after it does what it is told; then it is told again."""
        words = ("weight", step.backend, f"{step.value:g}")
        with subprocess.Popen(
            self.stage.command("backend", *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as running:
            time.sleep(float(step.words[0]))
            changes.kill(self.stage.lab, DIRECTOR, daemon_only=True)
            running.wait()
        changes.start(self.stage.lab, DIRECTOR)
        self._say(*words)

    def _drain(self, step: Step, pool: Pool) -> None:
        if step.words[:2] != ("--rule", "sessions") or len(step.words) > 2:
            self._may_be_left(step.backend)
        self._say("drain", step.backend, *step.words)

    def _sicken(self, step: Step, pool: Pool) -> None:
        self._may_be_left(step.backend)
        self.stage.servers[step.backend].sicken()

    def _restart(self, step: Step, pool: Pool) -> None:
        changes.kill(self.stage.lab, DIRECTOR, daemon_only=True)
        found = self.stage.newcomers(NEW_SESSIONS)
        assert set(found) <= pool.eligible, f"without a daemon, new sessions went to {found}"
        changes.start(self.stage.lab, DIRECTOR)

    def _may_be_left(self, name: str) -> None:
        self.left_at.setdefault(name, time.time())

    def _measured(self, pool: Pool) -> None:
        """Wait until the director has found out who is well."""
        well, stage = set(pool.pooled) - pool.sick, self.stage

        def is_known() -> bool:
            sick = set(pool.pooled) & pool.sick
            return all(stage.is_up(name) for name in well) and all(map(stage.is_down, sick))

        stage.until(is_known, see=lambda: (well, stage.api.get("/v1/health")))

    def judge(self) -> None:
        """The client's view, then that of the servers."""
        came = self.held.fresh()["agains"]
        self.stage.until(lambda: self.held.fresh()["agains"] >= came + SESSIONS)
        now = self.held.settle()
        assert (now["broken"], now["alive"]) == ([], SESSIONS)
        self._heed_falls()
        wrong = [
            (row["source"], row["backend"], at, where)
            for row in now["rows"]
            for at, where in row["strays"]
            if where.startswith("failed") or at < self.left_at.get(row["backend"], float("inf"))
        ]
        assert not wrong, f"further connections went astray: {wrong}; left at {self.left_at}"
        self.stage.agree(now["rows"])

    def _heed_falls(self) -> None:
        """On a busy machine a check may fail that was not meant to: the director's log knows."""
        for line in (folder.of(self.stage.lab) / f"{DIRECTOR}.log").read_text().splitlines():
            said = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "backend is down":
                at = datetime.fromisoformat(said["timestamp"]).timestamp() - CONNECT_S
                name = said["backend"]
                self.left_at[name] = min(at, self.left_at.get(name, at))


def run(stage: Stage, seed: int) -> int:
    """Exchanges that went well. What fails says how to replay it."""
    told: list[str] = []
    draw = random.Random(-1 - seed)
    try:
        with stage.hold(SESSIONS) as held, stage.counting() as moved, stage.no_orphans():
            resets, this = stage.resets(), Run(stage, held)
            for step, pool in sequence(seed):
                told.append(str(step))
                this.do(step, pool)
                time.sleep(draw.uniform(0, PAUSE_MAX_S))
            this.judge()
            now = stage.resets()
            assert {name: now[name] for name in resets} == resets, "misdelivered: RSTs were sent"
        assert moved["drop_no_backend"] == 0
    except Exception as error:
        error.add_note(f"seed {seed}, until it failed: {'; '.join(told)}")
        error.add_note(f"replay: make soak SEED={seed} N=1")
        raise
    return int(held.report()["exchanges"])
