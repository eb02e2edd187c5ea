# SPDX-License-Identifier: Apache-2.0
"""A token bucket, as each CPU has one. Tokens are kept times 16, so that slow rates need no
fractions.
"""


class TokenBucket:
    """Allows `per_jiffy_16` / 16 per jiffy, and `burst` at once. Full at first. A rate of 0 is no
    limit.
    """

    def __init__(self, per_jiffy_16: int, burst: int) -> None:
        self._per_jiffy_16, self._burst_16 = per_jiffy_16, burst * 16
        self._tokens = self._refilled = 0

    def allow(self, jiffies: int) -> bool:
        """Take a token, if there is one."""
        if not self._per_jiffy_16:
            return True
        if jiffies != self._refilled:
            fresh = (jiffies - self._refilled) * self._per_jiffy_16
            self._tokens = min(self._tokens + fresh, self._burst_16)
            self._refilled = jiffies
        if self._tokens < 16:
            return False
        self._tokens -= 16
        return True
