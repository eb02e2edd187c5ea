# SPDX-License-Identifier: Apache-2.0
"""Cluster: how directors agree on one generation of tables, as pure functions of what they see.

The head is the one value that is changed by compare-and-set: what people want (shared document,
intents), and the version that everybody runs. A version is a generation and the digest of an
immutable agreement (core/agreement.py). Where a change moves slots, the head first names it as
`following`: every director publishes the sessions that it would move as exceptions and says so;
has it loaded what the others published, it says that too; then the head makes it `current`, and
everybody flips on seeing it. So a session is known to be away from home before its home moves.

    steady G --propose--> preparing G+1 --all loaded, or PHASE_MAX_S--> steady G+1

`lead` and `follow` decide one step each; who runs them may stop at any step and another goes on:
all of the state is in the head and in the reports. Who leads is only a matter of not working twice;
safety comes from compare-and-set. A generation that was applied is never left for a lower one, nor
for another of the same number. Times are seconds of the caller's own steady clock.

Not here: ids and tables (core/plan.py), waiting, stores and scans (daemon/cluster/).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from limpet.core.intent import Intents

REACHABLE_S = 5.0  # a director whose report is older is cut off, and nobody waits for it
DOUBT_S = 3.0  # a director that the store has not heard for so long knows that it may be cut off
PHASE_MAX_S = 10.0  # that a change waits for directors that are reachable, and yet not ready
# A director that was not heard of for so long is forgotten: as long as a slot stays unsure after it
# has moved (local_table.UNSURE_S), and the longest that a session may be idle. Nothing that began
# before can be alive by then, but what only that director's own kernel knows.
ABSENT_MAX_S = 14 * 86_400.0
LEASE_S = 4.0  # a leader that has not renewed its lease for so long leads no more


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One agreement: its generation, and the SHA-256 of its bytes in hex."""

    generation: int
    digest: str


NOTHING = Version(0, "")  # before the first agreement


@dataclass(frozen=True, slots=True)
class Head:
    """What people want, and what directors run. `revision` counts changes of the former."""

    revision: int
    text: str  # the shared document
    slot_key: bytes  # of the hash that picks a slot; 16 bytes
    intents: Intents = field(default_factory=Intents)
    current: Version = NOTHING
    following: Version | None = None  # being prepared
    who: str = ""  # made this revision
    what: str = ""
    at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True)
class Report:
    """What one director says of itself."""

    name: str
    pop: str = ""
    listen: str = ""  # address:port for queries
    boot: str = ""  # another at every start of the daemon
    software: str = ""
    revision: int = 0  # of what people want, in effect there
    current: Version = NOTHING
    prepared: Version | None = None  # published all exceptions that this one makes,
    sequence: int = 0  # up to here in its log
    loaded: Version | None = None  # and loaded what all reachable directors published for it
    tables: Mapping[str, str] = field(default_factory=dict)  # pool -> digest of its own table
    checked: frozenset[str] = frozenset()  # pools whose backends it checks
    down: frozenset[tuple[str, str]] = frozenset()  # (pool, backend) that it finds down
    scanned: int = 0  # generation in which it looked last for ids that are in use,
    referenced: frozenset[int] = frozenset()  # and those of removed backends that it found
    sessions: Mapping[str, int] = field(default_factory=dict)  # live, by backend with a limit
    # Sessions and flows on draining backends; of those alone of which that is sure.
    left: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    watermarks: Mapping[str, int] = field(default_factory=dict)  # origin -> loaded up to
    condition: tuple[str, ...] = ()  # what is wrong; none: nothing
    at: float = 0.0  # Unix seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, and when it last changed by the clock of who sees it."""

    report: Report
    at: float


Reports = Mapping[str, Seen]


@dataclass(frozen=True, slots=True)
class Member:
    """How far the director itself is."""

    name: str
    current: Version = NOTHING
    prepared: Version | None = None
    loaded: Version | None = None


# --- What to do --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to be done now."""


@dataclass(frozen=True, slots=True)
class Put:
    """Leader: make this the head. `late`: directors that were reachable and had not loaded."""

    head: Head
    late: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare:
    """Mark the slots that this version moves, publish the sessions there, then report it."""

    version: Version


@dataclass(frozen=True, slots=True)
class Loaded:
    """Report that everything published for this version is loaded here."""

    version: Version


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring this version into the kernel."""

    version: Version


@dataclass(frozen=True, slots=True)
class Refuse:
    """The head is not one that can be followed: an alarm."""

    why: str


Action = Wait | Put | Prepare | Loaded | Apply | Refuse
WAIT = Wait()


def reachable(reports: Reports, now: float) -> frozenset[str]:
    """Directors that reported a moment ago."""
    return frozenset(name for name, seen in reports.items() if now - seen.at <= REACHABLE_S)


def absent(reports: Reports, now: float, unix: float) -> tuple[str, ...]:
    """Directors that were not heard of for so long that they count for nothing any more.

    `unix`: the wall clock, by which they say when they reported; nobody has been watching for two
    weeks. Who is reachable by the steady clock is there, whatever the wall clocks say.
    """
    gone = reports.keys() - reachable(reports, now)
    return tuple(sorted(n for n in gone if unix - reports[n].report.at > ABSENT_MAX_S))


def is_cut_off(name: str, reports: Reports, now: float) -> bool:
    """Whether others may soon run tables that this director does not know: its own report has not
    come back from the store for a while. Well before anybody else stops to wait for it.
    """
    seen = reports.get(name)
    return seen is not None and now - seen.at > DOUBT_S


def next_generation(head: Head | None, reports: Reports) -> int:
    """Above all that anybody has ever run: also after a store was restored from an old copy."""
    known = [seen.report.current.generation for seen in reports.values()]
    if head is not None:
        known.append(head.current.generation)
        known.append(head.following.generation if head.following else 0)
    return max(known, default=0) + 1


def propose(head: Head, version: Version, *, moves_slots: bool) -> Head:
    """The head that brings this version about: at once if it moves no slot."""
    assert head.following is None, "one change at a time"
    assert version.generation > head.current.generation, "generations only grow"
    if moves_slots:
        return replace(head, following=version)
    return replace(head, current=version)


def lead(head: Head, since: float, reports: Reports, now: float) -> Put | Wait:
    """The leader's next step in a change that is under way.

    `since`: when the leader first saw this `following`.
    """
    if head.following is None:
        return WAIT
    late = late_members(head.following, reports, now)
    if late and now - since < PHASE_MAX_S:
        return WAIT
    return Put(replace(head, current=head.following, following=None), late)


def late_members(version: Version, reports: Reports, now: float) -> tuple[str, ...]:
    """Reachable directors that have not loaded what this version makes exceptions."""
    there = reachable(reports, now)
    return tuple(sorted(n for n in there if not _has_loaded(reports[n].report, version)))


def follow(
    head: Head, me: Member, reports: Reports, watermarks: Mapping[str, int], now: float
) -> Action:
    """The next step of a director. `watermarks`: by origin, what is loaded of its log.

    One that comes late, with a version behind it that it never prepared, prepares it first: its
    own sessions are known to nobody else.
    """
    refusal = _refusal(head, me)
    if refusal:
        return Refuse(refusal)
    if head.current != me.current:
        return Apply(head.current) if me.prepared == head.current else Prepare(head.current)
    following = head.following
    if following is None or me.loaded == following:
        return WAIT
    if me.prepared != following:
        return Prepare(following)
    others = reachable(reports, now) - {me.name}
    if all(_is_loaded_here(reports[name].report, following, watermarks) for name in others):
        return Loaded(following)
    return WAIT


def _refusal(head: Head, me: Member) -> str:
    ours, theirs = me.current, head.current
    if theirs.generation < ours.generation:
        return (
            f"the store has generation {theirs.generation}, but generation {ours.generation} is in "
            "use here: was it restored from an old copy? The next `limpet apply` goes beyond both"
        )
    if theirs.generation == ours.generation and theirs.digest != ours.digest:
        return (
            f"the store has another generation {ours.generation} than is in use here: was it "
            "begun anew? The next `limpet apply` goes beyond both"
        )
    return ""


def _has_loaded(report: Report, version: Version) -> bool:
    return report.loaded == version or report.current.generation >= version.generation


def _is_loaded_here(report: Report, version: Version, watermarks: Mapping[str, int]) -> bool:
    """Whether what that director publishes for this version is all here."""
    return report.prepared == version and watermarks.get(report.name, 0) >= report.sequence


# --- Agreed facts ------------------------------------------------------------------------------


def agreed_down(reports: Reports, now: float) -> frozenset[tuple[str, str]]:
    """(pool, backend) that every reachable director which checks it finds down.

    One that only some cannot reach is bypassed by them alone.
    """
    there = [reports[name].report for name in reachable(reports, now)]
    found = frozenset(key for report in there for key in report.down)
    return frozenset(
        key for key in found if all(key in r.down for r in there if key[0] in r.checked)
    )


def referenced(reports: Reports, generation: int) -> frozenset[int] | None:
    """Ids of removed backends that somebody's flows, sessions or exceptions still name.

    None if that is not known: somebody, reachable or not, has not looked since `generation`.
    """
    if any(seen.report.scanned < generation for seen in reports.values()):
        return None
    return frozenset(number for seen in reports.values() for number in seen.report.referenced)


def left(
    backend: str, reports: Reports, me: str, revision: int, now: float
) -> tuple[int, int] | None:
    """Sessions and flows that all other reachable directors have on a draining backend.

    None if somebody does not know: it has not seen this revision, or has not looked since.
    """
    sessions = flows = 0
    for name in reachable(reports, now) - {me}:
        report = reports[name].report
        if report.revision < revision or backend not in report.left:
            return None
        sessions += report.left[backend][0]
        flows += report.left[backend][1]
    return sessions, flows


def is_free(lease_at: float, now: float) -> bool:
    """Whether a lease that last changed then, by one's own clock, may be taken."""
    return now - lease_at > LEASE_S


def differences(reports: Collection[Report], current: Version) -> dict[str, tuple[str, ...]]:
    """By director, in what it is not where the head is: "generation 3, not 4"."""
    found: dict[str, tuple[str, ...]] = {}
    for report in reports:
        if report.current.generation != current.generation:
            what = f"generation {report.current.generation}, not {current.generation}"
            found[report.name] = (what,)
        elif report.current != current:
            found[report.name] = (f"another generation {current.generation}",)
        else:
            found[report.name] = ()
    return found
