# SPDX-License-Identifier: Apache-2.0
"""Watchdog: tells systemd that the daemon is alive, as long as its passes come round.

The event loop lives on when the thread of the passes hangs, in a call to the kernel or to the disk:
the API answers, and nothing that is wanted comes into effect any more. Then systemd is told nothing
more, and starts the daemon again; the kernel forwards meanwhile. Without systemd it is only logged.
"""

import asyncio

import structlog

from limpet.daemon import notify
from limpet.daemon.pacing import Pacing

PERIOD_S = 15.0  # where nobody waits for a sign of life
log = structlog.get_logger()


async def run(pacing: Pacing) -> None:
    """Until cancelled."""
    wanted_s = notify.watchdog_s()
    was_stuck = False
    while True:
        stuck_s = pacing.stuck_s
        if not stuck_s:
            notify.alive()
        elif not was_stuck:
            what = "passes do not come round; systemd is not told any more that the daemon is alive"
            log.error(what, for_s=round(stuck_s))
        was_stuck = bool(stuck_s)
        await asyncio.sleep(PERIOD_S if wanted_s is None else wanted_s)
