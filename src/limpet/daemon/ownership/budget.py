# SPDX-License-Identifier: Apache-2.0
"""Budget: a share of the time of one thread, which a flood can use up but not overdraw.

The event loop also runs health checks: whoever serves packets in it measures what a slice of work
took, and stops for a while when its share is gone. Some of it may be saved up, for bursts.
"""


class Budget:
    """`share` of all time; at most `saved_s` of it at once."""

    def __init__(self, share: float, saved_s: float, now: float) -> None:
        self._share, self._saved = share, saved_s
        self._left, self._at = saved_s, now

    def spend(self, seconds: float, now: float) -> None:
        """Work of this length was done."""
        self._refill(now)
        self._left -= seconds

    def wait_s(self, now: float) -> float:
        """For how long nothing more may be done; 0: at once."""
        self._refill(now)
        return max(0.0, -self._left / self._share)

    def _refill(self, now: float) -> None:
        self._left = min(self._saved, self._left + (now - self._at) * self._share)
        self._at = now
