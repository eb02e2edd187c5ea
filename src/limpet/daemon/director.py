# SPDX-License-Identifier: Apache-2.0
"""RunningDirector: the director as the API sees it (api/interface.py).

It gathers: what the last pass reached, what the kernel counts, how fast that moves. Reads of the
kernel that may take long run in threads of their own. It writes nothing; a reload goes to the
reconcile task like everything else.
"""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import structlog

from limpet import __version__
from limpet.api.interface import FlowPage, FlowQuery, Json, Question
from limpet.api.places import Places
from limpet.core.config import parse
from limpet.core.errors import LimpetError
from limpet.core.model import Desired
from limpet.daemon import notify, view
from limpet.daemon import where as where_of
from limpet.daemon.answer import said
from limpet.daemon.daemon import digest, read_file
from limpet.daemon.log import configure
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Now, Outcome, Reconciler
from limpet.daemon.sampler import Sampler
from limpet.datapath.kernel import Kernel
from limpet.metrics import Endpoint, Reading

log = structlog.get_logger()


class RunningDirector:
    """One director, running."""

    def __init__(
        self,
        file: Path,
        places: Places,
        kernel: Kernel,
        reconciler: Reconciler,
        pacing: Pacing,
    ) -> None:
        self._file, self._places = file, places
        self._kernel, self._reconciler, self._pacing = kernel, reconciler, pacing
        self._started = datetime.now(UTC)
        self._file_error = ""  # of the last reload
        self._metrics = Endpoint(self.reading)
        self.sampler = Sampler(kernel)
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
        now, record, census = self._now, self._pacing.record, await self._census()
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
            "flows": view.occupancy(census),
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
        return view.vips(self._now, await self._census(), self.sampler.rates())

    async def pools(self) -> list[Json]:
        return view.pools(self._now)

    async def backends(self) -> list[Json]:
        return view.backends(self._now, await self._census(), self.sampler.rates())

    async def counters(self) -> Json:
        return view.counters(self._kernel.counters())

    async def flows(self, query: FlowQuery) -> FlowPage:
        return await asyncio.to_thread(view.flow_page, self._now, self._kernel, query)

    async def where(self, question: Question) -> Json:
        return await asyncio.to_thread(where_of.where, self._now, self._kernel, question)

    async def _census(self) -> view.Census:
        return await asyncio.to_thread(self.sampler.census)

    # --- Changes --------------------------------------------------------------------------------

    async def plan(self, text: str) -> Json:
        desired = parse(text)
        return said(await self._pacing.call(lambda: self._reconciler.preview(desired)))

    async def reload(self) -> Json:
        notify.reloading()
        try:
            text, desired = await asyncio.to_thread(read_file, self._file)
            outcome = await self._pacing.submit(lambda: self._reload(text, desired))
        except LimpetError as error:
            self._file_error = str(error)
            log.error("reload refused; nothing was changed", file=str(self._file), why=str(error))
            raise
        finally:
            notify.ready(self.headline())
        self._file_error = ""
        configure(desired.log_level)
        self.start_metrics()
        log.info("reloaded", writes=outcome.writes, duration_s=round(outcome.duration_s, 3))
        return {**said(outcome.summary), "program_replaced": outcome.program_loaded}

    def _reload(self, text: str, desired: Desired) -> Outcome:
        outcome = self._reconciler.run(desired, prune=False)
        self._reconciler.file_digest = digest(text)
        return outcome

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
        census, rates = self.sampler.census(), self.sampler.rates()
        return Reading(
            director=now.desired.director.name,
            pop=now.desired.director.pop,
            version=__version__,
            counters=self._kernel.counters(),
            vips=view.vips(now, census, rates),
            pools=view.pools(now),
            backends=view.backends(now, census, rates),
            attachments=view.attachments(now),
            flows=view.occupancy(census),
            passes={"done": record.done, "error": record.failed},
            pass_duration_s=record.duration_s,
            pass_succeeded_at=record.succeeded_at,
        )
