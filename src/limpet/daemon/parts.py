# SPDX-License-Identifier: Apache-2.0
"""Parts: what a running director is made of, put together, and the tasks that they run.

Events of all of them meet here: everybody who listens gets them (api/feed.py), and hooks wake up to
what the state file has for them.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict

from limpet.announce.folder import Folder
from limpet.api.feed import Feed
from limpet.api.interface import Json
from limpet.api.places import places
from limpet.core.health import Health
from limpet.core.model import BackendId, Desired
from limpet.daemon import announced
from limpet.daemon.announcing import Announcing
from limpet.daemon.checks.checker import Checker, Counts
from limpet.daemon.cluster.company import Company
from limpet.daemon.cluster.endings import Endings
from limpet.daemon.draining import Draining
from limpet.daemon.hooks import Hooks
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Now, Reconciler
from limpet.daemon.resets import Resets
from limpet.daemon.resetting import Resetting
from limpet.daemon.sampler import Sampler
from limpet.daemon.sweeping import Sweeping
from limpet.datapath.kernel import Kernel
from limpet.store.state import State


class Parts:
    """The parts of one director, after its first pass."""

    def __init__(
        self,
        kernel: Kernel,
        state: State,
        reconciler: Reconciler,
        pacing: Pacing,
        company: Company | None = None,
    ) -> None:
        self.company = company  # of a member of a cluster
        if company is not None:
            company.begin()
            company.member.updated = self.update
        self.kernel, self.reconciler, self.pacing = kernel, reconciler, pacing
        self.feed = Feed()
        self.sampler = Sampler(kernel)
        self.draining = Draining(kernel, reconciler, pacing, self.feed)
        self.sweeping = Sweeping(kernel, reconciler, pacing, self.feed)
        director = self.desired.director
        speaker = Folder(places(director.name).speaker)
        self.announcing = Announcing(kernel, reconciler, self.feed, speaker)
        self.hooks = Hooks(director.name, self.desired.hooks, state, pacing.call)
        self.resets = Resets(director.mark)
        self.resetting = Resetting(kernel, reconciler, self.resets)
        self.checker: Checker | None = None
        if company is not None:
            catchup = company.member.catchup
            self.announcing.not_ready = lambda: catchup.why
            company.member.left = lambda: self.draining.counts
            self.draining.with_others = company.member.with_others
            self._endings = Endings(company.changes, state, pacing.call, self._tell)
            self.draining.end = self._endings.end
        pacing.tell = self._tell

    @property
    def now(self) -> Now:
        assert self.reconciler.now is not None, "the first pass comes first"
        return self.reconciler.now

    @property
    def desired(self) -> Desired:
        return self.now.desired

    def records(self) -> dict[str, Json]:
        """What became of the work of each; for status and metrics."""
        checks = Counts() if self.checker is None else self.checker.counts
        of_cluster = {} if self.company is None else self.company.records()
        return {
            **of_cluster,
            "sweeper": asdict(self.sweeping.record),
            "hooks": {name: asdict(each) for name, each in self.hooks.record.items()},
            "resets": asdict(self.resets.record),
            "checks": asdict(checks),
            "routes": announced.record(self.announcing),
        }

    def symptoms(self, file_error: str) -> list[str]:
        """What is not as it should be, in words. `file_error`: of the last reload."""
        stuck_s = self.pacing.stuck_s
        errors = {
            "passes": f"none has ended for {stuck_s:.0f} s: the thread hangs" if stuck_s else "",
            "the kernel is not as it should be": self.pacing.record.error,
            "the configuration file": file_error,
            "checks and resets": self.reconciler.outbound_error,
            "routes": self.announcing.record.error,
        }
        found = [f"{what}: {error}" for what, error in errors.items() if error]
        return found + ([] if self.company is None else self.company.symptoms())

    def check(self, known: Mapping[tuple[str, str], Health]) -> None:
        """From now on health is what checks say; `known` is that of before."""
        self.checker = Checker(self.desired, self._ids(), self._wake, known)
        self.reconciler.health = self.checker.health

    def update(self) -> None:
        """The configuration file was read again, and is in effect."""
        self.hooks.update(self.desired.hooks)
        self.announcing.wake()
        if self.checker is not None:
            self.checker.update(self.desired, self._ids())
            self._wake()

    def tasks(self) -> list[Callable[[], Coroutine[object, object, None]]]:
        assert self.checker is not None
        parts = (self.pacing, self.sampler, self.sweeping, self.draining, self.hooks)
        tasks = [self.resets.run, self.resetting.run, self.checker.run, self.announcing.run]
        of_cluster = [] if self.company is None else [*self.company.tasks(), self._endings.run]
        return [*(p.run for p in parts), *tasks, *of_cluster]

    def _ids(self) -> Mapping[str, BackendId]:
        return {name: known.id for name, known in self.now.registry.backends.items()}

    def _wake(self) -> None:
        self.pacing.wake(False)

    def _tell(self, event: Json) -> None:
        self.feed.publish(**event)
        self.hooks.wake()
