# SPDX-License-Identifier: Apache-2.0
"""Parts: what a running director is made of, put together, and the tasks that they run.

Events of all of them meet here: everybody who listens gets them (api/feed.py), and hooks wake up to
what the state file has for them.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict

from limpet.api.feed import Feed
from limpet.api.interface import Json
from limpet.core.health import Health
from limpet.core.model import BackendId, Desired
from limpet.daemon.checks.checker import Checker, Counts
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
        self, kernel: Kernel, state: State, reconciler: Reconciler, pacing: Pacing
    ) -> None:
        self.kernel, self.reconciler, self.pacing = kernel, reconciler, pacing
        self.feed = Feed()
        self.sampler = Sampler(kernel)
        self.draining = Draining(kernel, reconciler, pacing, self.feed)
        self.sweeping = Sweeping(kernel, reconciler, pacing, self.feed)
        director = self.desired.director
        self.hooks = Hooks(director.name, self.desired.hooks, state, pacing.call)
        self.resets = Resets(director.mark)
        self.resetting = Resetting(kernel, reconciler, self.resets)
        self.checker: Checker | None = None
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
        return {
            "sweeper": asdict(self.sweeping.record),
            "hooks": {name: asdict(each) for name, each in self.hooks.record.items()},
            "resets": asdict(self.resets.record),
            "checks": asdict(checks),
        }

    def check(self, known: Mapping[tuple[str, str], Health]) -> None:
        """From now on health is what checks say; `known` is that of before."""
        self.checker = Checker(self.desired, self._ids(), self._wake, known)
        self.reconciler.health = self.checker.health

    def update(self) -> None:
        """The configuration file was read again, and is in effect."""
        self.hooks.update(self.desired.hooks)
        if self.checker is not None:
            self.checker.update(self.desired, self._ids())
            self._wake()

    def tasks(self) -> list[Callable[[], Coroutine[object, object, None]]]:
        assert self.checker is not None
        parts = (self.pacing, self.sampler, self.sweeping, self.draining, self.hooks)
        return [*(p.run for p in parts), self.resets.run, self.resetting.run, self.checker.run]

    def _ids(self) -> Mapping[str, BackendId]:
        return {name: known.id for name, known in self.now.registry.backends.items()}

    def _wake(self) -> None:
        self.pacing.wake(False)

    def _tell(self, event: Json) -> None:
        self.feed.publish(**event)
        self.hooks.wake()
