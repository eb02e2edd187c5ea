# SPDX-License-Identifier: Apache-2.0
"""The checker: what became of packets, held against what a run knows to be true.

Promises (docs/operate/sim.md): no packet of an open connection reaches another backend than the
connection's; if one does it was counted as an orphan, and the run knows a reason; a new connection
of a live session goes to the session's backend, once what was told has had time to arrive. Whatever
else happens is a failure, with a sentence that says what.
"""

from collections import Counter
from dataclasses import dataclass, field

from limpet.datapath.abi import Rung
from limpet.sim.client import Client, Connection

NO_REASON = "without a reason"
FAILURES_MAX = 20  # that are written down; all are counted


@dataclass(slots=True)
class Tally:
    """Counts of one run, or of many."""

    lives: int = 0  # clients whose session began
    connections: int = 0
    packets: int = 0
    rungs: Counter[str] = field(default_factory=Counter)
    shifted: int = 0  # packets that came in by a director that had not met the connection
    held: int = 0
    broken: int = 0  # connections that lost their backend
    # By reason: of these, those that were orphans, and those that were not;
    orphans: Counter[str] = field(default_factory=Counter)
    misdelivered: Counter[str] = field(default_factory=Counter)
    spared: Counter[str] = field(default_factory=Counter)  # orphans at their backend all the same
    strayed: Counter[str] = field(default_factory=Counter)  # new connections apart from a session
    events: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        """A promise was not kept."""
        self.failed += 1
        if len(self.failures) < FAILURES_MAX:
            self.failures.append(text)

    def add(self, other: "Tally") -> None:
        """Count another run as well."""
        for name in ("lives", "connections", "packets", "shifted", "held", "broken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("events", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("rungs", "orphans", "misdelivered", "spared", "strayed"):
            getattr(self, name).update(getattr(other, name))
        self.failures = (self.failures + other.failures)[:FAILURES_MAX]


def judge_orphan(tally: Tally, c: Connection, backend: int, reason: str, where: str) -> bool:
    """A packet of an open connection was sent on as an orphan. Whether the connection lives on."""
    lives_on = backend == c.backend
    tally.broken += not lives_on
    (tally.spared if lives_on else tally.orphans)[reason or NO_REASON] += 1
    c.is_guess |= lives_on
    if not reason:
        tally.fail(f"{where}: {_went(c, backend)}: an orphan without a reason")
    return lives_on


def judge_silent(
    tally: Tally, c: Connection, went: tuple[int, Rung], reason: str, where: str
) -> None:
    """A packet of an open connection went to another backend, by a rung that is sure of it."""
    tally.broken += 1
    tally.misdelivered[reason or NO_REASON] += 1
    if not reason:
        tally.fail(f"{where}: {_went(c, went[0])} by {went[1].name}: misdelivered")


def _went(c: Connection, backend: int) -> str:
    return f"client {c.client.number}:{c.port} of {c.backend} went to {backend}"


def judge_new(
    tally: Tally, client: Client, backend: int, rung: Rung, reason: str, where: str
) -> None:
    """A connection began."""
    tally.connections += 1
    if not client.backend:
        tally.lives += 1
        client.backends.add(backend)
        return
    if client.backend == backend:
        return
    tally.strayed[reason or NO_REASON] += 1
    if reason:
        client.lost = reason
        client.backends.add(backend)
    else:
        what = f"{where}: new connection of client {client.number} of {client.backend}"
        tally.fail(f"{what} went to {backend} by {rung.name}")
