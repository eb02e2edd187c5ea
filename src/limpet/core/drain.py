# SPDX-License-Identifier: Apache-2.0
"""Drain: when a backend that gets no new sessions is done with, and how soon that will be.

A drain is over when nothing that its rule lets stay names the backend. Only a scan counts that
began after new sessions passed the backend by, and two of them in a row have to agree: while the
first one reads, a flow may begin in a place that it has passed already. At the deadline `keep`
ends the drain with those that are left, who stay; `reset` waits for their TCP connections to go,
but not for ever: a client that has vanished answers nobody.

Pure: scans and time come in, values go out. Not here: who counts (daemon/draining.py), and what
the standing of a draining backend is meanwhile (core/eligible.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from limpet.core.intent import Drain
from limpet.core.model import AtDeadline, DrainRule

RATE_WINDOW_S = 60.0  # over which the rate of leaving is taken
SAMPLES_MAX = 64  # kept of that window
RESET_WAIT_S = 30.0  # for connections to go that are being reset
SCANS_WANTED = 2  # in a row, that find nobody
Event = dict[str, Any]


class State(StrEnum):
    """How far a drain is."""

    DRAINING = "draining"
    RESETTING = "resetting"
    DRAINED = "drained"


class Why(StrEnum):
    """Why a drain ended."""

    EMPTY = "empty"  # nobody was left
    DEADLINE = "deadline"  # time was up; who was left stays
    RESET = "reset"  # who was left was reset
    RESET_TIMEOUT = "reset-timeout"  # the same, but some did not answer


@dataclass(frozen=True, slots=True)
class Counts:
    """What one scan found of a backend."""

    sessions: int  # live ones
    flows: int  # open ones
    connections: int = 0  # of these, TCP: what a reset can end
    oldest_s: float | None = None  # age of the oldest live session
    is_conclusive: bool = True  # new sessions passed the backend by before the scan began


@dataclass(frozen=True, slots=True)
class Watch:
    """A drain, and what scans have found since somebody looks."""

    drain: Drain
    rule: DrainRule  # that holds; with pools that differ, the one that lets more stay
    counts: Counts | None = None  # of the last scan
    at_start: Counts | None = None  # of the first
    samples: tuple[tuple[float, int], ...] = ()  # (Unix time, how many were left)
    empty_scans: int = 0

    @property
    def left(self) -> int | None:
        """How many have yet to go, in sessions or flows as the rule has it; None: not counted."""
        return None if self.counts is None else _left(self.rule, self.counts)


def rule_of(drain: Drain, rules: Mapping[str, DrainRule]) -> DrainRule:
    """The rule of a drain whose backend is in pools with these rules, by pool."""
    if drain.rule is not None:
        return drain.rule
    is_by_flows = rules and all(rule is DrainRule.FLOWS for rule in rules.values())
    return DrainRule.FLOWS if is_by_flows else DrainRule.SESSIONS


def state(drain: Drain, now: float) -> State:
    if drain.drained is not None:
        return State.DRAINED
    if _is_over(drain, now) and drain.at_deadline is AtDeadline.RESET:
        return State.RESETTING
    return State.DRAINING


def advance(watch: Watch, counts: Counts, now: float) -> tuple[Watch, tuple[Event, ...]]:
    """The watch after a scan, and an event if the drain has ended with it.

    Scanned again, a drain that has ended only counts.
    """
    seen = _seen(watch, counts, now)
    why = None if watch.drain.drained is not None else _ended(seen, now)
    if why is None:
        return seen, ()
    seen = replace(seen, drain=replace(seen.drain, drained=now))
    return seen, (_drained(seen, counts, why),)


def _seen(watch: Watch, counts: Counts, now: float) -> Watch:
    is_empty = counts.is_conclusive and not _holders(watch, counts, now)
    recent = [sample for sample in watch.samples if sample[0] > now - RATE_WINDOW_S]
    if len(recent) >= SAMPLES_MAX:  # every other one of the older half
        half = SAMPLES_MAX // 2
        recent = recent[:half:2] + recent[half:]
    return replace(
        watch,
        counts=counts,
        at_start=watch.at_start or counts,
        samples=(*recent, (now, _left(watch.rule, counts))),
        empty_scans=watch.empty_scans + 1 if is_empty else 0,
    )


def _ended(watch: Watch, now: float) -> Why | None:
    drain = watch.drain
    is_empty = watch.empty_scans >= SCANS_WANTED
    if not _is_over(drain, now):
        return Why.EMPTY if is_empty else None
    if drain.at_deadline is AtDeadline.KEEP:
        return Why.EMPTY if is_empty else Why.DEADLINE
    if is_empty:
        return Why.RESET
    assert drain.deadline is not None
    return Why.RESET_TIMEOUT if now >= drain.deadline + RESET_WAIT_S else None


def _is_over(drain: Drain, now: float) -> bool:
    return drain.deadline is not None and now >= drain.deadline


def _holders(watch: Watch, counts: Counts, now: float) -> int:
    """How many keep the drain from ending."""
    if state(watch.drain, now) is State.RESETTING:
        return counts.connections  # datagrams of the others go elsewhere from now on
    if watch.rule is DrainRule.FLOWS:
        return counts.flows
    return counts.sessions + counts.flows


def _left(rule: DrainRule, counts: Counts) -> int:
    return counts.flows if rule is DrainRule.FLOWS else counts.sessions or counts.flows


def _drained(watch: Watch, counts: Counts, why: Why) -> Event:
    drain = watch.drain
    return {
        "kind": "drained",
        "at": drain.drained,
        "backend": drain.backend,
        "by": drain.by,
        "began": drain.began,
        "rule": str(watch.rule),
        "why": str(why),
        "sessions_left": counts.sessions,
        "flows_left": counts.flows,
    }


# --- Progress ------------------------------------------------------------------------------------


def leaving_per_s(watch: Watch) -> float:
    """How fast those that are left get fewer; 0 while they do not."""
    if len(watch.samples) < 2:
        return 0.0
    (first, before), (last, after) = watch.samples[0], watch.samples[-1]
    return max(0, before - after) / (last - first) if last > first else 0.0


def estimated_end_s(watch: Watch, now: float) -> float | None:
    """Seconds to its end if things go on like that, at most to the deadline; None: unknown."""
    drain, rate = watch.drain, leaving_per_s(watch)
    if drain.drained is not None:
        return 0.0
    ends = []
    if watch.left == 0:
        ends.append(0.0)
    elif watch.left is not None and rate:
        ends.append(watch.left / rate)
    if drain.deadline is not None:
        ends.append(max(0.0, drain.deadline - now))
    return min(ends, default=None)
