# SPDX-License-Identifier: Apache-2.0
"""Membership: one director as a member of its cluster.

It reports every second how far it is, follows the head (core/cluster.py says how), and leads when
nobody does. Everything that it brings into the kernel goes through the reconcile thread, as an
agreement that was fetched whole; that is on its own disk before. So with the store out of reach
all goes on as it is, and only changes are refused.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace

import structlog

from limpet import __version__
from limpet.core import agreement as agreement_of
from limpet.core import cluster, cluster_wire, local_table
from limpet.core.cluster import Apply, Head, Loaded, Member, Prepare, Refuse, Report, Version
from limpet.core.config import parse_shared
from limpet.core.drain import Counts
from limpet.core.errors import LimpetError, Unavailable
from limpet.core.health import Health
from limpet.core.local_table import Surroundings
from limpet.core.model import Desired, PoolId, Slots
from limpet.daemon import agreed as agreed_of
from limpet.daemon.agreed import Agreed
from limpet.daemon.cluster.catchup import Catchup
from limpet.daemon.cluster.sight import REPORTS, Sight
from limpet.daemon.cluster.symptoms import Symptoms
from limpet.daemon.directory.directory import Directory
from limpet.daemon.directory.placement import Placement
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Now, Reconciler
from limpet.daemon.unixtime import now_s
from limpet.datapath.kernel import Kernel
from limpet.store.interface import Outdated, Store

REPORT_S = 1.0
STEP_S = 0.2  # between two looks at what to do, if nothing wakes us
RETRY_S = 1.0  # after a step that failed
AGREEMENTS_KEPT = 4  # that were fetched
SOURCE = "shared document"
log = structlog.get_logger()


@dataclass
class Record:
    """What became of it; for status and metrics."""

    applied: int = 0  # generations brought into the kernel
    prepared: int = 0
    late: int = 0  # changes of ours as leader that did not wait for somebody
    late_here: int = 0  # times that logs of others were not loaded here in time, after being away
    refused: int = 0  # heads that cannot be followed: older than what runs here
    failed: int = 0  # steps that are tried again
    unreadable: int = 0  # heads and reports, of another version of limpet
    reconnects: int = 0  # to the store
    forgotten: int = 0  # directors that were away for long, or were removed, by this one
    history_forgotten: int = 0  # revisions beyond the limits, by this one
    leads: int = 0  # 1: this one


class Membership:
    """The member, and its tasks."""

    def __init__(
        self,
        store: Store,
        local: Desired,
        kernel: Kernel,
        reconciler: Reconciler,
        pacing: Pacing,
    ) -> None:
        self.store, self.local = store, local
        self._kernel, self.reconciler, self.pacing = kernel, reconciler, pacing
        self.name = local.director.name
        self.directory: Directory | None = None
        self.updated: Callable[[], None] = lambda: None  # another agreement is in effect
        self.left: Callable[[], Mapping[str, Counts]] = dict  # on draining backends, here
        self.boot, self._listen = uuid.uuid4().hex, local.cluster.listen  # until the daemon's end
        self.record = Record()
        self.woken, self._reported = asyncio.Event(), asyncio.Event()
        self.sight = Sight(store, self.wake)
        known = reconciler.agreed
        self.me = Member(self.name, cluster.NOTHING if known is None else known.version)
        self._agreements: dict[str, Agreed] = {} if known is None else {known.version.digest: known}
        self._sequence = 0  # of our log, for what was prepared
        self._following: Agreed | None = None  # marks are for this one
        self._full: frozenset[str] = frozenset()
        self.catchup = Catchup(store, self.sight, self.name)
        self.catchup.loaded = self.watermarks
        self.catchup.changed = self._note_catchup
        self.symptoms = Symptoms(store, self.sight, self.catchup, self.name)
        reconciler.around = self._around

    def recall(self, agreed: Agreed) -> None:
        """At start: this is in the kernel with the first pass."""
        self.remember(agreed)
        self.me = Member(self.name, agreed.version)

    def wake(self) -> None:
        self.woken.set()

    def tasks(self) -> list[Callable[[], Coroutine[object, object, None]]]:
        sight = self.sight
        watches = [sight.watch_head, sight.watch_reports, sight.watch_lease]
        return [*watches, self.catchup.run, self.run, self.report]

    # --- Facts ----------------------------------------------------------------------------------

    def gauges(self) -> dict[str, int | bool]:
        """How things are now; for status and metrics."""
        sight, head = self.sight, self.sight.head
        following = None if head is None else head.following
        agreed = self.reconciler.agreed
        return {
            "revision": 0 if agreed is None else agreed.agreement.revision,
            "generation": self.me.current.generation,
            "head_generation": 0 if head is None else head.current.generation,
            "preparing": 0 if following is None else following.generation,
            "store_connected": self.store.state.is_connected,
            "directors": len(sight.reports),
            "reachable": len(cluster.reachable(sight.reports, time.monotonic())),
            "differing": len(self.symptoms.differing()),
            "behind": self.catchup.is_behind,
            "cut_off": self.symptoms.is_cut_off,
        }

    def desired(self, agreed: Agreed) -> Desired:
        """Our own file, and what all directors serve."""
        return parse_shared(agreed.agreement.text, self.local, SOURCE)

    def with_file(self, local: Desired) -> Desired:
        """What is desired with another own file. Raises ConfigError."""
        agreed = self.reconciler.agreed
        return local if agreed is None else parse_shared(agreed.agreement.text, local, SOURCE)

    def reread(self, local: Desired) -> Desired:
        """Our own file was read again; what is desired by it. Raises ConfigError, and then
        nothing is changed."""
        found = self.with_file(local)
        self.local = local
        return found

    def now(self) -> Now:
        assert self.reconciler.now is not None, "the first pass comes first"
        return self.reconciler.now

    def _around(self) -> Surroundings:
        """For a pass; called in its thread."""
        following = self._following
        agreed = self.reconciler.agreed
        reports = [seen.report for seen in list(self.sight.reports.values())]
        elsewhere: set[str] = set()
        if agreed is not None:
            names = agreed.agreement.registry.pool_names()
            homes = {names[i]: t.digest for i, t in agreed.agreement.registry.tables.items()}
            for report in reports:
                if report.name != self.name and report.current == agreed.version:
                    tables = report.tables.items()
                    elsewhere |= {pool for pool, digest in tables if homes.get(pool) != digest}
        if self.reconciler.now is not None:
            others = [r.sessions for r in reports if r.name != self.name]
            counts = [*others, self._sessions(self.reconciler.now)]
            self._full = local_table.full(self.reconciler.now.desired, counts, self._full)
        return Surroundings(
            pop=self.local.director.pop,
            following=None if following is None else following.agreement.registry,
            full=self._full,
            elsewhere=frozenset(elsewhere),
            is_cut_off=self.symptoms.is_cut_off or self.catchup.is_behind,
            now=now_s(),
        )

    def _sessions(self, now: Now) -> dict[str, int]:
        """Live sessions here, of backends that have a limit."""
        limited = [b.name for b in now.desired.backends if b.sessions_max]
        if not limited:
            return {}
        loads, backends = self._kernel.loads(), now.registry.backends
        return {name: int(loads[backends[name].id]) for name in limited if name in backends}

    def with_others(self, backend: str, counts: Counts) -> Counts:
        """Who is left on a draining backend, on all directors."""
        agreed, reports = self.reconciler.agreed, self.sight.reports
        revision = 0 if agreed is None else agreed.agreement.revision
        others = cluster.left(backend, reports, self.name, revision, time.monotonic())
        if others is None:
            return replace(counts, is_conclusive=False)
        sessions, flows = others
        return replace(counts, sessions=counts.sessions + sessions, flows=counts.flows + flows)

    def watermarks(self) -> Mapping[str, int]:
        if self.directory is not None:
            return self.directory.loaded_up_to()
        return {name: seen.report.sequence for name, seen in self.sight.reports.items()}

    # --- Following ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the head, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(STEP_S):
                    await self.woken.wait()
            except TimeoutError:
                pass
            self.woken.clear()
            try:
                await self.step()
            except LimpetError as error:
                self.record.failed += 1
                self._fail(str(error))
                await asyncio.sleep(RETRY_S)

    def _fail(self, why: str) -> None:
        if why != self.symptoms.failure:
            log.error("the cluster's change could not be followed; it is tried again", why=why)
        self.symptoms.failure = why

    async def step(self) -> None:
        """One step after the head, if there is one to be made."""
        self._note_peers()
        self._note_cut()
        self.symptoms.look()
        head = self.sight.head
        if head is None:
            return
        now = time.monotonic()
        action = cluster.follow(head, self.me, self.sight.reports, self.watermarks(), now)
        refusal = action.why if isinstance(action, Refuse) else ""
        if refusal and refusal != self.symptoms.refusal:
            self.record.refused += 1
            log.error("the head of the cluster is refused", why=refusal)
        self.symptoms.refusal = refusal
        match action:
            case Prepare(version):
                await self._prepare(version)
            case Loaded(version):
                self.me = replace(self.me, loaded=version)
                self._reported.set()
            case Apply(version):
                await self._apply(version)
            case _:
                await self._forget_following(head)
        self.symptoms.failure = ""

    def note_lead(self, why: str) -> None:
        """What keeps this director from leading; empty: nothing does."""
        if why and why != self.symptoms.planning:
            log.error("the cluster's next change could not be planned", why=why)
        self.symptoms.planning = why

    def _note_cut(self) -> None:
        is_cut_off = cluster.is_cut_off(self.name, self.sight.reports, time.monotonic())
        if is_cut_off != self.symptoms.is_cut_off:
            self.symptoms.is_cut_off = is_cut_off
            log.warning("the store does not hear this director", is_cut_off=is_cut_off)
            if not is_cut_off:
                self.catchup.again()
            self.pacing.wake(False)

    def _note_catchup(self) -> None:
        self.record.late_here = self.catchup.late
        self._reported.set()
        self.pacing.wake(False)
        self.updated()

    def _note_peers(self) -> None:
        if self.directory is not None:
            self.directory.peers(self.sight.reports)

    async def _prepare(self, version: Version) -> None:
        """Marks first, so that what begins from now on is told; then the scan."""
        agreed = await self.fetch(version)
        before = self.reconciler.agreed
        moved: dict[PoolId, tuple[Slots, ...]] = {}
        if before is not None:
            masks = agreement_of.moved(before.agreement.registry, agreed.agreement.registry)
            tables = before.agreement.registry.tables, agreed.agreement.registry.tables
            moved = {pool: (tables[0][pool].slots, tables[1][pool].slots) for pool in masks}
        if moved:
            self._following = agreed
            desired = self.now().desired
            await self.pacing.submit(lambda: self.reconciler.run(desired, prune=False))
            if self.directory is not None:
                self.place()
                self._sequence = await self.directory.prepare(version.generation, moved)
        self.me = replace(self.me, prepared=version)
        self.record.prepared += 1
        self._reported.set()
        self.wake()

    async def _apply(self, version: Version) -> None:
        agreed = await self.fetch(version)
        desired = self.desired(agreed)
        self._following = None
        await self.pacing.submit(lambda: self.reconciler.adopt(agreed, desired))
        self.me = replace(self.me, current=version)
        self.record.applied += 1
        log.info("agreement in effect", generation=version.generation, digest=version.digest[:16])
        self.updated()
        self.place()
        self._reported.set()
        self.wake()

    async def _forget_following(self, head: Head) -> None:
        """Marks of a change that will not come: the head was begun anew."""
        if self._following is not None and head.following is None:
            self._following = None
            self.pacing.wake(False)

    def place(self) -> None:
        """Tell the directory where sessions are looked for: by all, and by this one."""
        now, agreed = self.now(), self.reconciler.agreed
        if self.directory is None or agreed is None:
            return
        tables = agreed.agreement.registry.tables
        self.directory.place(
            Placement(
                agreed.version.generation,
                agreed.agreement.slot_key,
                now.image.vips,
                {row.id: (tables[row.id].slots, row.slots) for row in now.image.pools},
            )
        )

    async def fetch(self, version: Version) -> Agreed:
        """An agreement, from here or from the store."""
        known = self._agreements.get(version.digest)
        if known is not None:
            return known if known.version == version else replace(known, version=version)
        data = await self.store.get_blob(version.digest)
        try:
            found = await asyncio.to_thread(agreed_of.read, version, data)
        except ValueError as error:
            raise Unavailable(f"store: {error}") from error
        self.remember(found)
        return found

    def remember(self, agreed: Agreed) -> None:
        self._agreements[agreed.version.digest] = agreed
        for digest in list(self._agreements)[:-AGREEMENTS_KEPT]:
            del self._agreements[digest]

    # --- Reporting ------------------------------------------------------------------------------

    async def report(self) -> None:
        """Say how far this one is: when that changes, and every second."""
        revision = 0
        while True:
            self._reported.clear()
            data = cluster_wire.encode_report(self.report_of())
            try:
                revision = await self.store.put_if(REPORTS + self.name, data, revision)
            except Outdated as error:
                revision = error.revision
                continue
            except LimpetError as error:
                log.debug("no report", why=str(error))
            try:
                async with asyncio.timeout(REPORT_S):
                    await self._reported.wait()
            except TimeoutError:
                pass

    def report_of(self) -> Report:
        now, agreed = self.now(), self.reconciler.agreed
        scanned, in_use = self.reconciler.in_use
        pools = now.registry.pool_names()
        down = {key for key, each in now.effect.health.items() if _is_down(each)}
        return Report(
            name=self.name,
            pop=self.local.director.pop,
            listen=self._listen,
            boot=self.boot,
            software=__version__,
            revision=0 if agreed is None else agreed.agreement.revision,
            current=self.me.current,
            prepared=self.me.prepared,
            sequence=self._sequence,
            loaded=self.me.loaded,
            tables={pools[number]: table.homes for number, table in now.tables.items()},
            checked=frozenset(p.name for p in now.desired.pools if p.health is not None),
            down=frozenset(down),
            scanned=scanned,
            referenced=in_use,
            sessions=self._sessions(now),
            left={n: (c.sessions, c.flows) for n, c in self.left().items() if c.is_conclusive},
            watermarks=dict(self.watermarks()),
            condition=self.symptoms.of_this(),
            at=now_s(),
        )


def _is_down(health: Health) -> bool:
    return not health.is_up or health.is_suppressed
