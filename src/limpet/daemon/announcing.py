# SPDX-License-Identifier: Apache-2.0
"""Announcing: keeps routers told of the VIPs that this director can serve, and of no other.

Every second, and when woken: gather the facts, decide (core/announcement.py), have the speaker
bring it about, give it a sign of life, read back what routers are told. What was read back is what
`limpet routes` shows and what a drain of the PoP goes by.

A failure is logged once, counted, shown, and tried again. The daemon's end changes nothing: packets
are forwarded without it, so routes stay, for the `hold_s` that the speaker watches.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from limpet.announce import process
from limpet.announce.bird import Bird
from limpet.announce.control import SilentError
from limpet.announce.folder import Folder, Report, Sign
from limpet.announce.kernel import KernelTable
from limpet.announce.observed import Observed, PeerState
from limpet.api.feed import Feed
from limpet.core.announcement import Announced, Decision, Facts, Leaving, decide, routes
from limpet.core.errors import LimpetError
from limpet.core.model import Address, Bgp, Speaker
from limpet.daemon import links as links_of
from limpet.daemon.reconcile import Now, Reconciler
from limpet.datapath.kernel import Kernel

PERIOD_S = 1.0
QUIET_S = 3.0  # without a packet, after which nobody is left on a route that is leaving
log = structlog.get_logger()


@dataclass
class Record:
    """What became of it; for status and metrics."""

    announced: int = 0  # routes that came
    withdrawn: int = 0  # and went
    peer_ups: int = 0
    peer_downs: int = 0
    failed: int = 0
    error: str = ""  # of the last step; empty: it was good
    speaker_starts: int = 0  # by this daemon
    bird_restarts: int = 0  # by the speaker that runs
    hold_withdrawals: int = 0  # by it, for want of a daemon


@dataclass(frozen=True, slots=True)
class Picture:
    """What the last step found."""

    bgp: Bgp = field(default_factory=Bgp)
    decisions: tuple[Decision, ...] = ()
    observed: Observed = field(default_factory=Observed)
    report: Report = field(default_factory=Report)


class Announcing:
    """The task."""

    def __init__(self, kernel: Kernel, reconciler: Reconciler, feed: Feed, files: Folder) -> None:
        self._kernel, self._reconciler, self._feed = kernel, reconciler, feed
        self._files = files
        self._starter = process.Starter(files)
        self._driver: Bird | KernelTable | None = None
        self._woken = asyncio.Event()
        self._wanted: frozenset[Address] | None = None  # None: nothing was decided yet
        self._leaving_since: dict[float, float] = {}  # `began` of a drain -> when it was seen
        self._packets: dict[Address, tuple[int, float]] = {}  # counted, and when that last rose
        self.picture, self.record = Picture(), Record()
        self.not_ready: Callable[[], str] = str  # why nothing more than before is announced yet

    def wake(self) -> None:
        """Facts may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Announce, until cancelled."""
        while True:
            self._woken.clear()
            await asyncio.to_thread(self.step)
            with suppress(TimeoutError):  # not wait_for, which may lose a cancellation
                async with asyncio.timeout(PERIOD_S):
                    await self._woken.wait()

    def step(self) -> None:
        """Once."""
        try:
            self._step()
        except (LimpetError, OSError) as error:
            self._note_failure(error)
        else:
            self.record.error = ""
        self.record.speaker_starts = self._starter.starts

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, SilentError) and self._starter.is_starting:
            self.record.error = "BIRD is starting"
            return
        self.record.failed += 1
        if self.record.error != str(error):
            log.error("announcing failed; routers know what they knew", why=str(error))
        self.record.error = str(error)

    def _step(self) -> None:
        now = self._reconciler.now
        assert now is not None, "start comes first"
        bgp = now.desired.bgp
        driver = self._choose(bgp)
        if driver is None:
            self._note(Picture())
            return
        self._files.make()
        if self._wanted is None:
            self._wanted = self._found(driver)
        decisions = decide(bgp, now.desired.vips, self._facts(now))
        wanted = routes(decisions)
        try:
            driver.put(bgp, wanted)
        finally:  # we live; a peer's password that cannot be read must not end the others
            self._wanted = frozenset(each.address for each in wanted)
            self._sign(bgp)
        self._note(Picture(bgp, decisions, driver.observe(), self._files.report()))

    def _choose(self, bgp: Bgp) -> Bird | KernelTable | None:
        """The driver that the configuration wants; that of before is ended."""
        mode = None if bgp.speaker is None else str(bgp.speaker)
        sign = self._files.sign()
        is_other = sign is not None and (
            sign.mode != mode or (mode == "kernel" and sign.table != bgp.table)
        )
        if is_other:
            process.end(self._files)
            self._driver = None
        if self._driver is None and mode is not None:
            is_bird = bgp.speaker is Speaker.BIRD
            self._driver = Bird(self._files) if is_bird else KernelTable()
        if mode is None:
            self._driver, self._wanted = None, None
        return self._driver

    def _found(self, driver: Bird | KernelTable) -> frozenset[Address]:
        """What is announced already, by a speaker that outlived a daemon."""
        with suppress(LimpetError, OSError):
            return driver.inherited()
        return frozenset()

    def _sign(self, bgp: Bgp) -> None:
        table = bgp.table if bgp.speaker is Speaker.KERNEL else 0
        self._files.write_sign(Sign(str(bgp.speaker), bgp.hold_s, table, time.monotonic_ns()))
        self._starter.ensure()

    # --- Facts ----------------------------------------------------------------------------------

    def _facts(self, now: Now) -> Facts:
        return Facts(
            not_forwarding=not_forwarding(now),
            not_ready=self.not_ready(),
            eligible=eligible(now),
            leaving=self._leaving(now),
            announced=self._wanted or frozenset(),
        )

    def _leaving(self, now: Now) -> Leaving | None:
        """By our own clock: whoever asked for the drain may have another."""
        pop = now.desired.director.pop
        drain = now.effect.intents.pop_drains.get(pop) if pop else None
        if drain is None:
            self._leaving_since.clear()
            self._packets.clear()
            return None
        moment = time.monotonic()
        since = self._leaving_since.setdefault(drain.began, moment)
        return Leaving(moment - since, self._quiet(now, moment))

    def _quiet(self, now: Now, moment: float) -> frozenset[Address]:
        stats, totals = self._kernel.vip_stats(), dict[Address, int]()
        for vip in now.desired.vips:
            known = now.registry.vips.get((vip.address, vip.protocol, vip.port))
            count = 0 if known is None else int(stats[known.id]["packets"])
            totals[vip.address] = totals.get(vip.address, 0) + count
        for address, total in totals.items():
            before = self._packets.get(address)
            if before is None or before[0] != total:
                self._packets[address] = total, moment
        return frozenset(a for a in totals if moment - self._packets[a][1] >= QUIET_S)

    # --- What came of it ------------------------------------------------------------------------

    def _note(self, found: Picture) -> None:
        before, self.picture = self.picture, found
        record, report = self.record, found.report
        record.bird_restarts, record.hold_withdrawals = report.restarts, report.withdrawals
        self._note_routes(_by_address(before), _by_address(found))
        was_up = {peer.name for peer in before.observed.peers if peer.is_up}
        for peer in found.observed.peers:
            if peer.is_up != (peer.name in was_up):
                self._note_peer(peer)

    def _note_routes(
        self, before: Mapping[Address, Decision], found: Mapping[Address, Decision]
    ) -> None:
        for address in before.keys() | found.keys():
            old, new = before.get(address), found.get(address)
            was, now = _route(old), _route(new)
            if (was is None) != (now is None):
                kind = "withdrawn" if now is None else "announced"
                setattr(self.record, kind, getattr(self.record, kind) + 1)
            elif was == now:
                continue
            else:
                kind = "announced"
            why = new.why if new is not None else "it is not in the configuration any more"
            log.info(kind, address=str(address), why=why)
            self._feed.publish(kind, address=str(address), why=why)

    def _note_peer(self, peer: PeerState) -> None:
        kind = "peer_up" if peer.is_up else "peer_down"
        name = "peer_ups" if peer.is_up else "peer_downs"
        setattr(self.record, name, getattr(self.record, name) + 1)
        log.info(kind, peer=peer.name, state=peer.state, error=peer.error)
        self._feed.publish(kind, peer=peer.name, address=peer.address, why=peer.error or peer.state)


def not_forwarding(now: Now) -> str:
    """Why packets that come here are served by nobody; empty: they are."""
    known = links_of.by_name(now.links)
    names = now.desired.director.interfaces
    links = [known[name] for name in names if name in known]
    if not any(link.xdp and link.is_up for link in links):
        return f"the program is attached to no interface that is up (of {', '.join(names)})"
    return ""


def eligible(now: Now) -> dict[str, int]:
    """Backends that new sessions of a pool can go to: eligible, and with a way there."""
    there = {row.id for row in now.image.backends if row.next_hop is not None}
    rows = {row.id: row for row in now.image.pools}
    found = {}
    for pool in now.desired.pools:
        number = now.registry.pools.get(pool.name)
        row = None if number is None else rows.get(number)
        members = () if row is None else row.members
        found[pool.name] = sum(1 for member, _ in members if member in there)
    return found


def _by_address(picture: Picture) -> dict[Address, Decision]:
    return {each.address: each for each in picture.decisions}


def _route(decision: Decision | None) -> Announced | None:
    return None if decision is None else decision.route
