# SPDX-License-Identifier: Apache-2.0
"""Leading: one director makes ids and tables of what people want, for all of them.

Who leads holds the lease, a key that it renews every second; a lease that has not changed for four
is anybody's. Two that believe they lead do no harm: both put the head by compare-and-set, and so do
those who change it while the leader plans: what it made of a head replaces that one, and no other.

The leader plans from what the store has, not from its own kernel: the shared document, the intents,
and the health that all reachable directors agree on. core/cluster.py says when a change may go on.
"""

import asyncio
import time
from dataclasses import dataclass, replace

import structlog

from limpet.core import agreement as agreement_of
from limpet.core import cluster, cluster_wire
from limpet.core.agreement import Agreement
from limpet.core.cluster import Head, Put
from limpet.core.config import parse_shared
from limpet.core.errors import LimpetError
from limpet.core.footing import Footing
from limpet.core.health import Health
from limpet.core.local_table import UNSURE_S
from limpet.core.model import BackendId, Desired
from limpet.core.plan import agree
from limpet.core.values import TIMEOUT_MAX_S
from limpet.daemon import agreed as agreed_of
from limpet.daemon import effect as effects
from limpet.daemon.agreed import Agreed
from limpet.daemon.cluster.membership import SOURCE, Membership
from limpet.daemon.cluster.sight import HEAD, LEASE
from limpet.daemon.effect import Effect
from limpet.daemon.unixtime import now_s
from limpet.store.interface import Entry, Outdated

PERIOD_S = 0.25
RENEW_S = 1.0
RETRY_S = 1.0
DOWN = "down for every director that checks it"
Key = tuple[str, str]  # pool, backend
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made from; the same again need not be planned again."""

    head: Head
    down: frozenset[Key]
    referenced: frozenset[int] | None


class Leading:
    """The task that leads while it may."""

    def __init__(self, member: Membership) -> None:
        self._member, self._store = member, member.store
        self._footing = Footing(member.name)
        self._renewed = 0.0
        self._count = 0
        self._effect: Effect | None = None  # the memory of slow start
        self._planned: Facts | None = None
        self._down_since: dict[Key, float] = {}

    async def run(self) -> None:
        """Lead, or wait for the lease, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            is_firm = self._footing.is_firm(self._member.sight.reports, time.monotonic())
            try:
                if await self._holds_lease() and is_firm:
                    await self._lead()
            except Outdated:
                continue  # somebody was faster; the watch brings what is now
            except LimpetError as error:
                self._member.note_lead(str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._member.note_lead("")

    async def _holds_lease(self) -> bool:
        """Take or renew it; whether it is ours now."""
        lease, now, me = self._member.sight.lease, time.monotonic(), self._member
        is_ours = lease.holder.split(b" ")[:2] == self._mark()
        me.record.leads = int(is_ours)
        if is_ours and now - self._renewed < RENEW_S:
            return True
        if not is_ours and not cluster.is_free(lease.at, now):
            self._effect = self._planned = None
            return False
        self._count += 1
        value = b" ".join((*self._mark(), str(self._count).encode()))
        revision = await self._store.put_if(LEASE, value, lease.revision)
        me.sight.see_lease(Entry(LEASE, value, revision))
        self._renewed, me.record.leads = now, 1
        return True

    def _mark(self) -> list[bytes]:
        return [self._member.name.encode(), self._member.boot.encode()]

    async def _lead(self) -> None:
        sight, now = self._member.sight, time.monotonic()
        # Together, and now: a change may come in before what is made of this head is put.
        head, revision = sight.head, sight.head_revision
        if head is None:
            return
        step = cluster.lead(head, sight.following_since, sight.reports, now)
        if isinstance(step, Put):
            if step.late:
                self._member.record.late += 1
                self._member.symptoms.note_late(step.head.current.generation, step.late)
                log.error("a change did not wait for directors", late=step.late)
            await self._put(step.head, revision)
        elif head.following is None:
            await self._plan(head, revision)

    async def _put(self, head: Head, over: int) -> None:
        """Put it in place of the one that it was made of, which the store has as revision `over`.
        Raises Outdated if that is not the head any more."""
        value = cluster_wire.encode_head(head)
        revision = await self._store.put_if(HEAD, value, over)
        self._member.sight.see_head(Entry(HEAD, value, revision))
        self._member.wake()

    # --- Planning -------------------------------------------------------------------------------

    async def _plan(self, head: Head, over: int) -> None:
        """Name what follows from head and health, if that is not what runs."""
        sight = self._member.sight
        current = await self._current(head)
        referenced = None
        if current is not None and current.agreement.registry.lingering:
            referenced = cluster.referenced(sight.reports, head.current.generation)
        down = cluster.agreed_down(sight.reports, time.monotonic())
        facts = Facts(head, down, referenced)
        if facts == self._planned and not self._is_due():
            return
        desired = parse_shared(head.text, self._member.local, SOURCE)
        director = replace(desired.director, slot_key=head.slot_key)
        desired = replace(desired, director=director)
        self._effect = effects.weigh(
            self._effect,
            desired,
            (head.revision, head.intents),
            self._health(desired, down),
            time.time(),
        )
        base = self._base(current)
        made = await asyncio.to_thread(self._made, desired, facts, base, self._effect)
        if current is not None and not _differs(made, current.agreement):
            self._planned = facts
            return
        await self._put(await self._named(head, base, made), over)

    async def _current(self, head: Head) -> Agreed | None:
        if head.current == cluster.NOTHING:
            return None
        return await self._member.fetch(head.current)

    def _base(self, current: Agreed | None) -> Agreement:
        """What the next is made from: ids have to go on, also where a store was begun anew."""
        if current is not None:
            return current.agreement
        ours = self._member.reconciler.agreed
        if ours is not None:
            return ours.agreement
        return Agreement(registry=self._member.reconciler.registry)

    def _is_due(self) -> bool:
        until = None if self._effect is None else self._effect.until
        return until is not None and time.time() >= until

    def _health(self, desired: Desired, down: frozenset[Key]) -> dict[Key, Health]:
        now = time.time()
        self._down_since = {key: self._down_since.get(key, now) for key in down}
        return {
            (pool.name, name): Health(
                (pool.name, name) not in down, self._down_since.get((pool.name, name), now), DOWN
            )
            for pool in desired.pools
            if pool.health is not None
            for name in pool.weights
        }

    @staticmethod
    def _made(desired: Desired, facts: Facts, base: Agreement, effect: Effect) -> Agreement:
        """The agreement that these facts lead to."""
        head, old = facts.head, base.registry
        registry, weights = agree(desired, old, None, effect.assessments)
        if registry == old and facts.referenced is not None:
            # Nothing else changes, so what was looked for is what may go.
            named = frozenset(BackendId(number) for number in facts.referenced)
            registry, weights = agree(desired, old, named, effect.assessments)
        now, ages = now_s(), {}
        for pool, table in registry.tables.items():
            before = old.tables.get(pool)
            ages[pool] = base.ages.get(pool, ())
            if before is None or before.generation != table.generation:
                kept = agreement_of.without_old(ages[pool], now - UNSURE_S - TIMEOUT_MAX_S)
                ages[pool] = agreement_of.aged(kept, table.generation, now)
        return Agreement(
            revision=head.revision,
            text=head.text,
            intents=head.intents,
            slot_key=head.slot_key,
            registry=registry,
            weights=weights,
            ages=ages,
            down=facts.down,
        )

    async def _named(self, head: Head, base: Agreement, made: Agreement) -> Head:
        """The head that names what was made, which is where all can fetch it."""
        generation = cluster.next_generation(head, self._member.sight.reports)
        agreed = await asyncio.to_thread(agreed_of.of, made, generation)
        await self._store.put_blob(agreed.data)
        self._member.remember(agreed)
        moves = bool(agreement_of.moved(base.registry, made.registry))
        log.info("planned", generation=generation, moves_slots=moves, revision=head.revision)
        return cluster.propose(head, agreed.version, moves_slots=moves)


def _differs(a: Agreement, b: Agreement) -> bool:
    return (a.revision, a.registry, a.weights, a.down) != (
        b.revision,
        b.registry,
        b.weights,
        b.down,
    )
