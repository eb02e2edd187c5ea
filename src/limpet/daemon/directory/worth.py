# SPDX-License-Identifier: Apache-2.0
"""Worth: which of the exceptions that were found here are worth telling.

Not the echo: an entry that says what the cluster knows already, unless it makes it last longer by
half of the grace. So an entry always outlasts the longest that its session may stay idle, even if
whoever told it is gone by then; or unless the session has come here from the director that told
it, whose own table forgets it after its idle limit. Nor what is outdated: a session that was seen
elsewhere, on another backend, after it was last seen here. What is told becomes later than what it
overrules.

Sessions are never told of as gone. Who ends here by idle timeout may live on at another director,
which follows it and stays silent, since the cluster knows; a tombstone would take its exception
away from all the others. An entry lapses soon after its session could last have been alive.

Pure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limpet.core.exception import Flag, Records
from limpet.daemon.directory.placement import GRACE_S

SKEW_MS = 10_000  # by which the clock of whoever was overruled may have been ahead
RENEW_MS = GRACE_S * 500  # by which an entry has to last longer to be worth it
ASK, GONE = np.uint8(Flag.ASK), np.uint8(Flag.GONE)


@dataclass(frozen=True, slots=True)
class Worth:
    """Some of those that were found."""

    told: Records  # with their final times
    echoes: int
    outdated: int


def worth(found: Records, known: Records, now: int, *, is_news: bool) -> Worth:
    """`known`: what the directory has of each, all zeros for nothing. `now`: Unix time in ms.

    News are what the data path has just decided, with what it knew: those overrule what was told
    by a clock that is a little ahead. What a scan finds does not.
    """
    there = (known["expiry"].astype(np.int64) > now) & (known["flags"] & GONE == 0)
    same_backend = there & (known["backend"] == found["backend"])
    adds = (found["flags"] & ~known["flags"] > 0) | ((found["flags"] ^ known["flags"]) & ~ASK > 0)
    longer = found["expiry"].astype(np.int64) - known["expiry"].astype(np.int64)
    echo = same_backend & ~adds & (longer <= RENEW_MS) & ~_has_come(found, known)
    tolerance = np.uint64(SKEW_MS if is_news else 0)
    outdated = there & ~same_backend & (found["time"] + tolerance <= known["time"])
    tells = ~echo & ~outdated
    told, before, same = found[tells], known[tells], same_backend[tells]
    after = before["time"] + (before["time"] > 0).astype(np.uint64)
    told["time"] = np.maximum(told["time"], after)
    told["flags"][same] |= before["flags"][same] & ASK
    told["expiry"][same] = np.maximum(told["expiry"], before["expiry"])[same]
    return Worth(told, int(echo.sum()), int(outdated.sum()))


def _has_come(found: Records, known: Records) -> NDArray[np.bool_]:
    """Whether a session lives here, and was not told of by who told it for half its idle limit: a
    director has no entry of its own in its data path, and needs ours before its session ends."""
    idle = (found["expiry"] - found["time"]).astype(np.int64) - GRACE_S * 1_000
    later = found["time"].astype(np.int64) - known["time"].astype(np.int64)
    come: NDArray[np.bool_] = (found["origin"] != known["origin"]) & (idle > 0) & (2 * later > idle)
    return come
