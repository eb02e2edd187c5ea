# SPDX-License-Identifier: Apache-2.0
"""RunningDirector: the director as the API sees it (api/interface.py).

It gathers: what the last pass reached, what the kernel counts, how fast that moves. Reads of the
kernel that may take long run in threads of their own. It writes nothing; a reload or a change of
intents goes to the reconcile task like everything else.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from limpet import __version__
from limpet.api.interface import (
    DrainRequest,
    FlowPage,
    FlowQuery,
    Json,
    Question,
    Service,
    SessionQuery,
)
from limpet.api.places import Places
from limpet.core.effective import effective
from limpet.core.errors import Conflict, LimpetError
from limpet.core.intent import Intents
from limpet.core.model import Desired
from limpet.core.summary import summary
from limpet.daemon import (
    announced,
    clients,
    condition,
    intents,
    notify,
    outlook,
    planning,
    pops,
    view,
)
from limpet.daemon import where as where_of
from limpet.daemon.answer import said, told
from limpet.daemon.cluster import roster
from limpet.daemon.daemon import digest, read_file
from limpet.daemon.log import configure
from limpet.daemon.parts import Parts
from limpet.daemon.reconcile import ChangeOf, Now, Outcome
from limpet.daemon.sampler import Population
from limpet.datapath import outbound
from limpet.metrics.collector import Endpoint
from limpet.metrics.reading import Reading
from limpet.store.revisions import REVISIONS_MAX

log = structlog.get_logger()


class RunningDirector:
    """One director, running."""

    def __init__(self, file: Path, places: Places, parts: Parts) -> None:
        self._file, self._places, self._parts = file, places, parts
        self._kernel, self._reconciler = parts.kernel, parts.reconciler
        self._pacing = parts.pacing
        self._started = datetime.now(UTC)
        self._file_error = ""  # of the last reload
        self._metrics = Endpoint(self.reading)
        self.service: Service | None = None  # where the API is served
        self.stopped = asyncio.Event()

    @property
    def _now(self) -> Now:
        assert self._reconciler.now is not None, "the first pass comes first"
        return self._reconciler.now

    def headline(self) -> str:
        """One line for systemctl status."""
        desired = self._now.desired
        return (
            f"forwarding {len(desired.vips)} VIPs to {len(desired.backends)} backends on "
            f"{', '.join(desired.director.interfaces)}"
        )

    # --- Reads ----------------------------------------------------------------------------------

    async def status(self) -> Json:
        now, record, there = self._now, self._pacing.record, await self._population()
        director = now.desired.director
        return {
            "director": director.name,
            "pop": director.pop,
            "version": __version__,
            "pid": os.getpid(),
            "started": self._started.isoformat(timespec="seconds"),
            "uptime_s": round((datetime.now(UTC) - self._started).total_seconds()),
            "file": str(self._file),
            "file_error": self._file_error,
            "state": str(self._places.state_file),
            "pins": str(self._places.pins),
            "program": self._kernel.program_tag(),
            "program_id": self._kernel.program_id(),
            "attachments": view.attachments(now),
            "degraded": self._parts.symptoms(self._file_error),
            "revision": now.effect.revision,
            "flows": view.occupancy(there.flows),
            "sessions": view.occupancy(there.sessions),
            **self._parts.records(),
            "own_packets_error": self._reconciler.outbound_error,
            "reconcile": {
                "state": "error" if record.error else "done",
                "error": record.error,
                "passes": record.done,
                "failures": record.failed,
                "duration_ms": round(record.duration_s * 1e3, 1),
                "succeeded_s_ago": round(time.time() - record.succeeded_at, 1),
            },
        }

    async def vips(self) -> list[Json]:
        return view.vips(self._now, await self._population(), self._parts.sampler.rates())

    async def pools(self) -> list[Json]:
        return view.pools(self._now)

    async def backends(self) -> list[Json]:
        return view.backends(self._now, await self._population(), self._parts.sampler.rates())

    async def counters(self) -> Json:
        return view.counters(self._kernel.counters())

    async def health(self) -> list[Json]:
        return self._health(self._now)

    def _health(self, now: Now) -> list[Json]:
        """As the checks have it at this moment; a pass takes note of changes only."""
        changes = self._reconciler.health_changes
        effect = replace(now.effect, health=self._reconciler.health())
        return [
            {**row, "changes": changes[(row["pool"], row["backend"])]}
            for row in condition.health(effect, now.desired)
        ]

    async def drains(self) -> list[Json]:
        return await asyncio.to_thread(self._drains, self._now)

    def _drains(self, now: Now) -> list[Json]:
        found, draining = [], self._parts.draining
        for each in now.effect.intents.drains.values():
            watch, counted = draining.watch(each, now), (0, 0)
            if watch.counts is None or each.drained is not None:
                left = draining.left(each, now)
                counted = left.sessions, left.flows
            found.append(condition.drain(watch, counted, time.time()))
        return found

    async def intents(self) -> Json:
        effect = self._now.effect
        return condition.intents(effect.intents, effect.revision)

    async def diff(self) -> Json:
        now = self._now
        return effective(now.desired, now.effect.intents, now.effect.assessments).json()

    async def routes(self) -> Json:
        now = self._now
        pop = now.desired.director.pop
        drain = now.effect.intents.pop_drains.get(pop)
        return announced.routes(self._parts.announcing, pop, drain)

    async def pops(self) -> Json:
        company = self._parts.company
        return roster.alone() if company is None else roster.roster(company.member)

    async def history(self, limit: int) -> list[Json]:
        wanted = limit + 1 if limit else REVISIONS_MAX  # one more, to say what the last changed
        if self._parts.company is not None:
            revisions = await self._parts.company.changes.history(wanted)
        else:
            revisions = await self._pacing.call(lambda: self._reconciler.history(wanted))
        return outlook.history(revisions)[: limit or None]

    async def sessions(self, query: SessionQuery) -> FlowPage:
        return await asyncio.to_thread(clients.session_page, self._now, self._kernel, query)

    async def sources(self, vip: str, limit: int) -> list[Json]:
        return await asyncio.to_thread(clients.sources, self._now, self._kernel, vip, limit)

    def events(self, since: int | None) -> AsyncIterator[Json]:
        return self._parts.feed.follow(since)

    async def flows(self, query: FlowQuery) -> FlowPage:
        return await asyncio.to_thread(view.flow_page, self._now, self._kernel, query)

    async def where(self, question: Question) -> Json:
        return await asyncio.to_thread(where_of.where, self._now, self._kernel, question)

    async def _population(self) -> Population:
        return await asyncio.to_thread(self._parts.sampler.population)

    async def _loads(self) -> dict[str, outlook.Load]:
        """Sessions and flows by name of the backend."""
        return _loads(await self.backends())

    # --- Changes --------------------------------------------------------------------------------

    async def plan(self, text: str) -> Json:
        return await planning.plan(self._parts, text)

    async def reload(self) -> Json:
        notify.reloading()
        before = self._now.desired
        try:
            text, desired = await asyncio.to_thread(read_file, self._file)
            if self.service is not None:
                await self.service.update(desired.api)
            outcome = await self._pacing.submit(lambda: self._reloaded(text, desired))
        except LimpetError as error:
            self._file_error = str(error)
            log.error("reload refused; nothing was changed", file=str(self._file), why=str(error))
            raise
        finally:
            notify.ready(self.headline())
        self._file_error = ""
        configure(desired.log_level)
        self._parts.update()
        self.start_metrics()
        log.info("reloaded", writes=outcome.writes, duration_s=round(outcome.duration_s, 3))
        summary = planning.with_declared(outcome.summary, before, desired)
        self._parts.feed.publish("reloaded", summary=str(summary))
        return {**said(summary), "program_replaced": outcome.program_loaded}

    def _reloaded(self, text: str, desired: Desired) -> Outcome:
        if self._parts.company is not None:
            desired = self._parts.company.member.reread(desired)
        outcome = self._reconciler.run(desired, prune=False)
        self._reconciler.file_digest = digest(text)
        return outcome

    async def drain(
        self, backend: str, request: DrainRequest, by: str, if_revision: int | None
    ) -> Json:
        def change(desired: Desired, found: Intents) -> intents.Change:
            return intents.drain(desired, found, backend, request, by, time.time())

        return await self._change(change, by, if_revision)

    async def undrain(self, backend: str, by: str, if_revision: int | None) -> Json:
        def change(desired: Desired, found: Intents) -> intents.Change:
            return intents.undrain(desired, found, backend, by, time.time())

        return await self._change(change, by, if_revision)

    async def drain_pop(self, pop: str, by: str, if_revision: int | None) -> Json:
        def change(desired: Desired, found: Intents) -> intents.Change:
            return pops.drain(desired, found, pop, by, time.time())

        return await self._change_pop(change, by, if_revision)

    async def undrain_pop(self, pop: str, by: str, if_revision: int | None) -> Json:
        def change(desired: Desired, found: Intents) -> intents.Change:
            return pops.undrain(desired, found, pop, by, time.time())

        return await self._change_pop(change, by, if_revision)

    async def _change_pop(self, change: ChangeOf, by: str, if_revision: int | None) -> Json:
        answer = await self._change(change, by, if_revision)
        self._parts.announcing.wake()
        return answer

    async def set_weight(
        self, pool: str, backend: str, weight: int | None, by: str, if_revision: int | None
    ) -> Json:
        def change(desired: Desired, found: Intents) -> intents.Change:
            return intents.weight(desired, found, (pool, backend), weight, by, time.time())

        return await self._change(change, by, if_revision)

    async def rollback(self, revision: int, by: str, if_revision: int | None) -> Json:
        if self._parts.company is not None:
            old = await self._parts.company.changes.revision(revision)
        else:
            old = await self._pacing.call(lambda: self._reconciler.revision(revision))

        def change(_: Desired, found: Intents) -> intents.Change:
            return intents.rolled_back(found, old.intents, revision, by, time.time())

        answer = await self._change(change, by, if_revision)
        if self._parts.company is not None:
            is_same = old.file_digest == self._parts.company.changes.digest
        else:
            is_same = old.file_digest in ("", self._reconciler.file_digest)
        return answer if is_same else {**answer, "file_differs": True}

    async def apply(self, text: str, by: str, if_revision: int | None) -> Json:
        company = self._parts.company
        if company is None:
            raise Conflict(
                "this director stands alone: write it into its own file and `limpet reload`, or "
                "make it a member of a cluster first ([cluster] name)"
            )
        planned = await self.plan(text)
        revision, is_here, is_new = await company.changes.apply(text, by, if_revision)
        return {**planned, "revision": revision, "in_effect": is_here, "is_new": is_new}

    async def remove_director(self, name: str, by: str) -> Json:
        company = self._parts.company
        if company is None:
            raise Conflict("this director stands alone: its file has no [cluster]")
        await company.tidying.remove(name)
        log.info("director removed from the cluster", removed=name, by=by)
        return {"director": name, "removed": True}

    async def _change(self, change: ChangeOf, by: str, if_revision: int | None) -> Json:
        if self._parts.company is not None:
            return await self._change_cluster(change, by, if_revision)
        outcome = await self._pacing.submit(
            lambda: self._reconciler.change(change, by, if_revision)
        )
        return {**said(outcome.summary), "revision": outcome.revision}

    async def _change_cluster(self, change: ChangeOf, by: str, if_revision: int | None) -> Json:
        company = self._parts.company
        assert company is not None, "only in a cluster"
        before = self._now
        revision, is_here, made = await company.changes.change(change, by, if_revision)
        for event in made.events:
            self._parts.feed.publish(**told(event))
        after = self._now
        found = summary(before.image, after.image, before.registry, after.registry)
        return {**said(found), "revision": revision, "in_effect": is_here}

    async def drain_preview(self, backend: str, request: DrainRequest) -> Json:
        now, loads = self._now, await self._loads()
        change = intents.drain(
            now.desired, now.effect.intents, backend, request, "preview", time.time()
        )

        def plans() -> tuple[outlook.Plan, outlook.Plan]:
            planned = self._reconciler.planned
            return planned(now.desired, now.effect.intents), planned(now.desired, change.intents)

        left = await asyncio.to_thread(self._parts.draining.count, now, backend)
        loads[backend] = outlook.Load(left.sessions, left.flows)
        both = await self._pacing.call(plans)
        return outlook.preview(now.desired, backend, request, both, loads)

    def shutdown(self) -> None:
        log.info("told to stop")
        self.stopped.set()

    # --- Metrics --------------------------------------------------------------------------------

    def start_metrics(self) -> None:
        """Serve metrics where the file says. A port that is taken must not stop forwarding."""
        try:
            self._metrics.listen(self._now.desired.metrics_listen)
        except OSError as error:
            listen = self._now.desired.metrics_listen
            self._file_error = f"metrics.listen {listen}: {error.strerror}"
            log.error("no metrics", listen=listen, why=error.strerror)

    def stop_metrics(self) -> None:
        self._metrics.listen("")

    def reading(self) -> Reading:
        """All numbers at one moment; called by the thread that serves metrics."""
        now, record = self._now, self._pacing.record
        there, rates = self._parts.sampler.population(), self._parts.sampler.rates()
        return Reading(
            director=now.desired.director.name,
            pop=now.desired.director.pop,
            version=__version__,
            counters=self._kernel.counters(),
            outbound=outbound.read_counters(self._places.pins),
            vips=view.vips(now, there, rates),
            pools=view.pools(now),
            backends=view.backends(now, there, rates),
            attachments=view.attachments(now),
            flows=view.occupancy(there.flows),
            sessions=view.occupancy(there.sessions),
            drains=self._drains(now),
            health=self._health(now),
            tasks=self._parts.records(),
            revision=now.effect.revision,
            passes={"done": record.done, "error": record.failed},
            pass_duration_s=record.duration_s,
            pass_succeeded_at=record.succeeded_at,
        )


def _loads(rows: list[Json]) -> dict[str, outlook.Load]:
    """By name; of namesakes the one in use, which comes first."""
    return {row["name"]: outlook.Load(row["sessions"], row["flows"]) for row in reversed(rows)}
