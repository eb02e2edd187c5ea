# SPDX-License-Identifier: Apache-2.0
"""Symptoms: what is wrong with a director of a cluster, and with the others, in words.

For `limpet status`, `limpet pop list` and the report: an operator who is called at night reads here
first. What passes by itself with every change (a director that is a step behind for a second) is
none; what lasts for `LASTS_S` is. A change that did not wait for somebody is told for `TOLD_S`.
"""

import time
from collections.abc import Iterator

from limpet.core import cluster
from limpet.daemon.cluster.catchup import Catchup
from limpet.daemon.cluster.sight import Sight
from limpet.daemon.unixtime import CLOCK, JUMP_S
from limpet.store.interface import Store

SKEW_S = 10.0  # between the clocks of two directors, beyond which they do not answer each other
LASTS_S = cluster.PHASE_MAX_S  # that another director differs before that is a symptom
TOLD_S = 300.0


class Symptoms:
    """Of one director."""

    def __init__(self, store: Store, sight: Sight, catchup: Catchup, me: str) -> None:
        self._store, self._sight, self._catchup, self._me = store, sight, catchup, me
        self.is_cut_off = False  # from the store, for longer than a moment
        self.refusal = ""  # why the head is not followed
        self.failure = ""  # of the last step
        self.planning = ""  # of the last plan, as leader
        self._late = (-TOLD_S, "")  # when a change did not wait, and for whom
        self._since: dict[str, float] = {}  # that another director differs

    def note_late(self, generation: int, names: tuple[str, ...]) -> None:
        """A change of ours, as leader, went on without them."""
        said = f"generation {generation} did not wait for {', '.join(names)}: its time was up"
        self._late = time.monotonic(), said

    def of_this(self) -> tuple[str, ...]:
        """Nothing: all is well."""
        return tuple(each for each in self._of_this() if each)

    def _of_this(self) -> Iterator[str]:
        state = self._store.state
        if not state.is_connected:
            yield f"the store cannot be reached: {state.error}"
        elif self.is_cut_off:
            yield "the store does not hear this director: it is sure of no slot"
        if self._catchup.is_behind:
            whom = ", ".join(self._catchup.missing) or "other directors"
            yield f"what {whom} told of sessions is not loaded yet"
        yield from self._of_clocks()
        yield self.refusal
        yield self.failure
        if state.is_connected:
            yield self.planning
        at, late = self._late
        if time.monotonic() - at < TOLD_S:
            yield late

    def _of_clocks(self) -> Iterator[str]:
        if abs(CLOCK.off_s) > JUMP_S:
            jump = f"the wall clock jumped by {CLOCK.off_s:.0f} s, and is not followed"
            yield f"{jump}: set it right, or if it is right now, start the daemon again"
        there = cluster.reachable(self._sight.reports, time.monotonic()) - {self._me}
        for name, skew in sorted(self._sight.skews.items()):
            if name in there and abs(skew) > SKEW_S:
                yield f"the clock differs by {skew:.0f} s from that of {name}: set them by NTP"

    # --- Others ---------------------------------------------------------------------------------

    def look(self) -> None:
        """At the others; to be called every second or more often."""
        now = time.monotonic()
        self._since = {name: self._since.get(name, now) for name in self.differing()}

    def differing(self) -> frozenset[str]:
        """Other directors that are not reachable, or run something else than the head says."""
        head, reports = self._sight.head, self._sight.reports
        there = cluster.reachable(reports, time.monotonic())
        return frozenset(
            name
            for name, seen in reports.items()
            if name != self._me
            and (name not in there or (head is not None and seen.report.current != head.current))
        )

    def of_others(self) -> tuple[str, ...]:
        """What this director sees of the others; nothing while it does not see them itself."""
        now = time.monotonic()
        if self.is_cut_off or not self._store.state.is_connected:
            return ()
        lasting = [name for name, since in self._since.items() if now - since >= LASTS_S]
        return tuple(
            self._of_other(name) for name in sorted(lasting) if name in self._sight.reports
        )

    def _of_other(self, name: str) -> str:
        head, report = self._sight.head, self._sight.reports[name].report
        if name not in cluster.reachable(self._sight.reports, time.monotonic()):
            return f"director {name} is not reachable (limpet director remove: it is gone for good)"
        if head is None or report.current == head.current:
            return f"director {name} was behind"
        (what,) = cluster.differences([report], head.current)[name]
        return f"director {name} runs {what}"
