# SPDX-License-Identifier: Apache-2.0
"""Footing: whether a leader sees its cluster as it is now, not as it was before the store was away.

Reports come back from the store by themselves. After an outage the lease may be renewed before the
first of them is there: all are old then, so nobody seems reachable, no backend seems down, and
nobody is waited for. A leader that went on would put dead backends into the tables. So it leads
only when its own report has come back for a while, in which those of all others come as well.

Times are seconds of the caller's own steady clock. Not here: who holds the lease.
"""

from limpet.core.cluster import Reports, reachable

FIRM_S = 2.5  # two reports of everybody, and their way


class Footing:
    """Of one director."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since: float | None = None  # its own report has been coming back

    def is_firm(self, reports: Reports, now: float) -> bool:
        """To be asked more often than every FIRM_S."""
        if self._name not in reachable(reports, now):
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= FIRM_S
