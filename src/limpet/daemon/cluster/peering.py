# SPDX-License-Identifier: Apache-2.0
"""Peering: where the other directors are asked for flows, from the first packet on.

Everybody who has reported, also those not heard of for a while. They are kept in the state file,
since a daemon that has just started does not know them otherwise: until it has read the store, and
if that is out of reach, for as long. Without anybody to ask, each flow that began elsewhere would
be an orphan. Not here: whether somebody answers (daemon/ownership/peers.py).
"""

import asyncio
import json

import structlog

from limpet.core.errors import LimpetError
from limpet.daemon.cluster.sight import Sight
from limpet.daemon.ownership.ownership import Ownership
from limpet.daemon.ownership.peers import Endpoint
from limpet.daemon.pacing import Pacing
from limpet.store.state import State

KEPT = "peers"  # the name in the state file
PERIOD_S = 0.5  # between two looks at who has reported
Listens = dict[str, str]  # director -> host:port
log = structlog.get_logger()


class Peering:
    """The peers of one director."""

    def __init__(self, sight: Sight, pacing: Pacing) -> None:
        self._sight, self._pacing = sight, pacing
        self._state: State | None = None
        self._known: Listens = {}

    async def recall(self, state: State) -> None:
        """Those of before, to be kept in that file from now on."""
        self._state = state
        kept = await self._pacing.call(lambda: state.kept(KEPT))
        self._known = {} if kept is None else json.loads(kept)

    async def run(self, ownership: Ownership) -> None:
        """Tell it whom it can ask, until cancelled."""
        while True:
            await self._look(ownership)
            await asyncio.sleep(PERIOD_S)

    async def _look(self, ownership: Ownership) -> None:
        """Until all reports have been read, those of before count as well, and nobody is missed."""
        reports = [seen.report for seen in self._sight.reports.values()]
        found: Listens = {report.name: report.listen for report in reports if report.listen}
        if self._sight.has_reports:
            ownership.peers(_endpoints(found))
            if found != self._known:
                await self._keep(found)
        elif self._known:
            ownership.peers(_endpoints(self._known | found))

    async def _keep(self, found: Listens) -> None:
        state = self._state
        assert state is not None, "recall comes first"
        try:
            await self._pacing.call(lambda: state.keep(KEPT, json.dumps(found).encode()))
        except LimpetError as error:  # the next look tries again
            log.warning("peers could not be kept", why=str(error))
        else:
            self._known = found


def endpoint(listen: str) -> Endpoint:
    """`host:port`, the host of IPv6 in brackets; ValueError if it is none."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _endpoints(listens: Listens) -> dict[str, Endpoint]:
    return {name: endpoint(listen) for name, listen in listens.items()}
