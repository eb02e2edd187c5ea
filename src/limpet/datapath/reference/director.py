# SPDX-License-Identifier: Apache-2.0
"""The director: one frame, top to bottom.

Until the destination is known to be a VIP address, doubt means pass; after that, doubt means drop
and a counter. Every frame ends in exactly one verdict, and `Reference.run` is where it is counted.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from limpet.core.diff import Changes, diff
from limpet.core.model import Image
from limpet.datapath.abi import Event, Rung, Verdict
from limpet.datapath.reference import answer, parse
from limpet.datapath.reference import settings as constants
from limpet.datapath.reference.choice import Choice
from limpet.datapath.reference.directory import Told
from limpet.datapath.reference.encap import encapsulate
from limpet.datapath.reference.held import Arrival, Held
from limpet.datapath.reference.news import Name, News
from limpet.datapath.reference.packet import Final, Kind, Packet, Words
from limpet.datapath.reference.rate import TokenBucket
from limpet.datapath.reference.rows import IdleTicks, Rows
from limpet.datapath.reference.select import Ladder
from limpet.datapath.reference.sessions import SessionTable
from limpet.datapath.reference.sweep import sweep_flows, sweep_sessions
from limpet.datapath.reference.table import ConnectionTable

PASSED = (Verdict.NOT_IP, Verdict.NOT_VIP, Verdict.NO_SERVICE, Verdict.PASS_MALFORMED)
FORWARDED = (Verdict.TRANSMIT, Verdict.REDIRECT, Verdict.VIA_KERNEL)
ANSWERED = (Verdict.ECHO_REPLY, Verdict.TOO_BIG, Verdict.HOP_LIMIT)


@dataclass(frozen=True, slots=True)
class Reset:
    """All that it takes to reset a TCP flow at both ends: struct reset."""

    client: Words
    vip_address: Words
    sequence: int
    acknowledged: int
    client_port: int
    vip_port: int
    backend: int
    family: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a frame."""

    verdict: Verdict
    rung: Rung | None = None  # of forwarded packets
    events: tuple[Event, ...] = ()
    frame: bytes | None = None  # as it goes on; None: dropped
    ifindex: int | None = (
        None  # interface that it leaves by; None: passed to the kernel, or dropped
    )
    backend: int = 0  # that it was forwarded to
    reset: Reset | None = None  # what the daemon is told of a flow that is being reset
    held: Held | None = None  # the packet, if it waits for another director's answer
    news: tuple[News, ...] = ()  # what the daemon is told of sessions and flows that are exceptions


class Reference:
    """One director. Time is an argument: jiffies, which never go back."""

    def __init__(
        self, settings: np.ndarray[tuple[()], np.dtype[np.void]], idle_ticks: IdleTicks
    ) -> None:
        """`settings` is a SETTINGS record, the same that the kernel's program is loaded with;
        `idle_ticks` gives the idle limits of a VIP.
        """
        self._settings = constants.read(settings)
        self._rows, self._image = Rows(idle_ticks), Image()
        self._ladder = Ladder(self._settings, self._rows)
        self._rate = TokenBucket(self._settings.icmp_per_jiffy_16, self._settings.icmp_burst)
        self.verdicts: Counter[Verdict] = Counter()
        self.rungs: Counter[Rung] = Counter()
        self.events: Counter[Event] = Counter()
        self.vip_stats: Counter[tuple[int, str]] = Counter()  # by VIP id and field of vip_stats
        self.backend_stats: Counter[tuple[int, str]] = Counter()

    @property
    def table(self) -> ConnectionTable:
        """The connection table, for tests and for people."""
        return self._ladder.table

    @property
    def sessions(self) -> SessionTable:
        """The session table."""
        return self._ladder.sessions

    @property
    def directory(self) -> dict[Name, Told]:
        """What other directors have told, and answered. To be written by whoever hears it."""
        return self._ladder.directory.exceptions

    @property
    def loads(self) -> Counter[int]:
        """Live sessions by backend."""
        return self._ladder.sessions.loads

    @property
    def turns(self) -> Counter[int]:
        """New sessions placed by turn or freest so far, by pool."""
        return self._ladder.chooser.turns

    def load(self, image: Image) -> None:
        """Make the image the content; flows and counters stay."""
        self._rows.apply(diff(self._image, image))
        self._image = image

    def apply(self, changes: Changes) -> None:
        """Write changes, in their order."""
        self._rows.apply(changes)

    def sweep(self, jiffies: int) -> tuple[Event, ...]:
        """End what has expired in both tables."""
        now = self._ladder.tick(jiffies)
        ended = sweep_flows(self._ladder.table, self._ladder.ties, now)
        ended += sweep_sessions(self._ladder.sessions, self._rows, now)
        self.events.update(ended)
        return tuple(ended)

    def run(self, frame: bytes, jiffies: int, ingress: int = 1) -> Outcome:
        """What the director does with a frame that came in by interface `ingress`."""
        p, choice = Packet(0), Choice()
        try:
            cursor = parse.Cursor(frame)
            p = parse.link(cursor)
            parse.network(cursor, p)
            outcome = self._for_vip(cursor, p, choice, jiffies, ingress)
        except Final as final:
            is_reset = final.verdict is Verdict.RESET
            outcome = Outcome(
                final.verdict,
                frame=frame if final.verdict in PASSED else None,
                reset=_reset(p, choice) if is_reset else None,
            )
        outcome = _with_choice(outcome, choice, self._ladder.news.take())
        self._count(outcome, p, choice)
        return outcome

    def _for_vip(
        self, cursor: parse.Cursor, p: Packet, choice: Choice, jiffies: int, ingress: int
    ) -> Outcome:
        services = self._rows.addresses.get(p.vip_address)
        if services is None:
            raise Final(Verdict.NOT_VIP)
        # Trust changes here: the packet is for a VIP address.
        frame = cursor.frame
        if p.link_length + p.length > len(frame):
            raise Final(Verdict.DROP_MALFORMED)
        parse.transport(cursor, p)
        if p.kind is Kind.ECHO_REQUEST:
            self._limit_answers(jiffies)
            return Outcome(Verdict.ECHO_REPLY, frame=answer.echo_reply(frame, p), ifindex=ingress)
        self._ladder.choose(services, p, choice, Arrival(frame, jiffies, ingress))
        return self._forward(frame, p, choice, jiffies, ingress)

    def _forward(
        self, frame: bytes, p: Packet, choice: Choice, jiffies: int, ingress: int
    ) -> Outcome:
        backend = choice.backend
        assert backend is not None, "the ladder ends a packet without a backend"
        try:
            out = encapsulate(self._settings, frame, p, backend, choice.entropy)
        except Final as final:
            if final.verdict not in ANSWERED:
                raise
            if not answer.may_be_told(p):
                raise Final(answer.verdict_untold(final.verdict)) from None
            self._limit_answers(jiffies)
            is_size = final.verdict is Verdict.TOO_BIG
            mtu = backend.mtu - backend.outer_length if is_size else None
            told = answer.error(self._settings, frame, p, mtu)
            return Outcome(final.verdict, frame=told, ifindex=ingress)
        if not backend.ifindex:
            return Outcome(Verdict.VIA_KERNEL, frame=out)
        is_same = backend.ifindex == ingress and not self._settings.redirect_always
        verdict = Verdict.TRANSMIT if is_same else Verdict.REDIRECT
        return Outcome(verdict, frame=out, ifindex=backend.ifindex)

    def _limit_answers(self, jiffies: int) -> None:
        if not self._rate.allow(jiffies):
            raise Final(Verdict.DROP_ICMP_LIMITED)

    def _count(self, outcome: Outcome, p: Packet, choice: Choice) -> None:
        self.verdicts[outcome.verdict] += 1
        self.events.update(outcome.events)
        is_forwarded = outcome.rung is not None
        if outcome.rung is not None:
            self.rungs[outcome.rung] += 1
            _count_packet(self.backend_stats, choice.backend_id, p)
            self.backend_stats[choice.backend_id, "flows"] += choice.has_created
            self.backend_stats[choice.backend_id, "sessions"] += choice.has_begun
        if choice.vip is None:
            return
        if is_forwarded:
            _count_packet(self.vip_stats, choice.vip.id, p)
        elif outcome.verdict >= Verdict.DROP_MALFORMED:
            self.vip_stats[choice.vip.id, "dropped"] += 1
        self.vip_stats[choice.vip.id, "flows"] += choice.has_created
        self.vip_stats[choice.vip.id, "sessions"] += choice.has_begun


def _with_choice(outcome: Outcome, choice: Choice, news: tuple[News, ...]) -> Outcome:
    """Add what the ladder said: events and news always, backend and rung only if the packet was
    forwarded.
    """
    is_forwarded = outcome.verdict in FORWARDED
    return replace(
        outcome,
        rung=choice.rung if is_forwarded else None,
        events=tuple(choice.events),
        held=choice.held,
        news=news,
        backend=choice.backend_id if is_forwarded else 0,
    )


def _reset(p: Packet, choice: Choice) -> Reset:
    return Reset(
        *(p.client, p.vip_address, p.sequence, p.acknowledged),
        *(p.client_port, p.vip_port, choice.backend_id, p.family),
    )


def _count_packet(stats: Counter[tuple[int, str]], number: int, p: Packet) -> None:
    stats[number, "packets"] += 1
    stats[number, "bytes"] += p.length
