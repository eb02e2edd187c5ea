# SPDX-License-Identifier: Apache-2.0
"""Health: whether a backend is up, as checks say it, and when flapping makes that count less.

Rise and fall: so many good answers in a row make a backend up, so many bad ones down. A backend of
which nothing is known counts as up until its first `fall` results are bad, unless it is known from
before: a director that starts must not refuse what the one before it served.

Damping (after BGP's, RFC 2439): each change adds a penalty that decays exponentially. Above one
threshold the backend is suppressed, which means that it counts as down however good its answers,
until the penalty has decayed below another. So a backend that comes and goes is left alone.

Pure: time, in Unix seconds, is an argument. Not here: what people want of a backend
(core/intent.py), and what follows for its sessions (core/eligible.py).
"""

import math
from dataclasses import dataclass, replace

PENALTY = 1.0  # of each change from up to down or back; the first answer about a backend is none
HALF_LIFE_S = 60.0  # in which it decays to half; long beside an outage that a restart causes
SUPPRESS_ABOVE = 4.0  # the third fall soon after two others; two restarts in a row are maintenance
REUSE_BELOW = 2.0  # one half-life below the other, so that one more change does not suppress again
PENALTY_MAX = 16.0  # then suppression lasts three half-lives at most, however long it flapped


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one backend in one pool."""

    is_up: bool
    since: float  # when `is_up` became so
    reason: str  # in words for people
    is_suppressed: bool = False
    checked: float | None = None  # time of the last result; None: never


@dataclass(frozen=True, slots=True)
class Track:
    """Where the machine stands with one backend."""

    since: float  # when it came to count as it does
    is_up: bool = True  # by rise and fall alone
    reason: str = "not checked yet"  # why that is so
    is_known: bool = False  # a verdict was reached
    against: int = 0  # last results in a row that contradict `is_up`
    towards: int = 0  # last results in a row that confirm it; counted until it is known
    penalty: float = 0.0  # at `penalized`
    penalized: float = 0.0
    is_suppressed: bool = False
    checked: float | None = None

    @property
    def counts_as_up(self) -> bool:
        return self.is_up and not self.is_suppressed


def begin(now: float, before: Health | None = None) -> Track:
    """The first state: unknown, or as it was `before` the director started."""
    if before is None:
        return Track(since=now)
    return Track(
        since=before.since,
        is_up=before.is_up,
        reason=before.reason,
        is_known=before.checked is not None,
        checked=before.checked,
    )


def observe(track: Track, *, is_good: bool, reason: str, rise: int, fall: int, now: float) -> Track:
    """The state after one result; `reason` says what was wrong, or nothing."""
    track = settle(track, now)
    if is_good == track.is_up:
        return _confirmed(track, reason, rise if is_good else fall, now)
    against = track.against + 1
    if against < (rise if is_good else fall):
        return replace(track, against=against, towards=0, checked=now)
    changed = replace(
        track, is_up=is_good, reason=reason, is_known=True, against=0, towards=0, checked=now
    )
    if not track.is_known:
        return _counted(track, changed, now)
    penalty = min(_penalty(track, now) + PENALTY, PENALTY_MAX)
    is_suppressed = track.is_suppressed or penalty > SUPPRESS_ABOVE
    changed = replace(changed, penalty=penalty, penalized=now, is_suppressed=is_suppressed)
    return _counted(track, changed, now)


def settle(track: Track, now: float) -> Track:
    """The state after time has passed: suppression ends by it alone."""
    if now < track.penalized:  # the clock was set back; decay goes on from here
        track = replace(track, penalized=now)
    if not track.is_suppressed or _penalty(track, now) >= REUSE_BELOW:
        return track
    return _counted(track, replace(track, is_suppressed=False), now)


def suppressed_s(track: Track, now: float) -> float:
    """Seconds for which it is still suppressed; 0 if it is not."""
    if not track.is_suppressed:
        return 0.0
    return max(0.0, HALF_LIFE_S * math.log2(_penalty(track, now) / REUSE_BELOW))


def health(track: Track, now: float) -> Health:
    """What the state means to everybody else."""
    track = settle(track, now)
    reason = track.reason
    if track.is_suppressed:
        left = math.ceil(suppressed_s(track, now))
        answers = "answers well now" if track.is_up else track.reason
        reason = f"changed too often, suppressed for another {left} s; {answers}"
    return Health(track.counts_as_up, track.since, reason, track.is_suppressed, track.checked)


def _confirmed(track: Track, reason: str, needed: int, now: float) -> Track:
    towards = min(track.towards + 1, needed)
    is_known = track.is_known or towards >= needed
    return replace(
        track,
        against=0,
        towards=towards,
        is_known=is_known,
        reason=reason if is_known else track.reason,
        checked=now,
    )


def _counted(before: Track, after: Track, now: float) -> Track:
    """`since` moves when what it counts as does."""
    if before.counts_as_up == after.counts_as_up:
        return after
    return replace(after, since=now)


def _penalty(track: Track, now: float) -> float:
    elapsed = max(0.0, now - track.penalized)
    return float(track.penalty * 0.5 ** (elapsed / HALF_LIFE_S))
