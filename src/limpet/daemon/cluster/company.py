# SPDX-License-Identifier: Apache-2.0
"""Company: all that makes a director a member of its cluster, put together.

Joining never waits long for the store. What was agreed on last is in the state file; a director
that has nothing there asks the store for a moment. One that has neither starts empty, unless its
kernel forwards already by what it cannot know: then it does not start, and the kernel goes on.
"""

import asyncio
import functools
import stat
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path

import structlog

from limpet.api.interface import Json
from limpet.api.places import Places
from limpet.core import cluster_wire
from limpet.core.cluster import NOTHING
from limpet.core.errors import ConfigError, LimpetError, Problem, Unavailable, unreadable
from limpet.core.model import Desired
from limpet.daemon import agreed as agreed_of
from limpet.daemon.agreed import Agreed
from limpet.daemon.cluster import peering
from limpet.daemon.cluster.changes import Changes
from limpet.daemon.cluster.leading import Leading
from limpet.daemon.cluster.membership import Membership
from limpet.daemon.cluster.sight import HEAD
from limpet.daemon.cluster.tidying import Tidying
from limpet.daemon.directory.directory import Directory, Identity
from limpet.daemon.ownership.ownership import Ownership
from limpet.daemon.pacing import Pacing
from limpet.daemon.reconcile import Reconciler
from limpet.datapath import clock, settings
from limpet.datapath.kernel import Kernel
from limpet.store.interface import Store
from limpet.store.opening import open_store
from limpet.store.state import State

FIRST_LOOK_S = 5.0  # that a director without a past waits for the store
RETRY_S = 0.2
KEY_BYTES_MIN = 32
Task = Callable[[], Coroutine[object, object, None]]
log = structlog.get_logger()


class Company:
    """The parts of a member, and their tasks."""

    def __init__(
        self,
        local: Desired,
        where: Places,
        kernel: Kernel,
        reconciler: Reconciler,
        pacing: Pacing,
        digest: Callable[[str], str],
    ) -> None:
        self._secret = secret_of(Path(local.cluster.key_file))
        folder = where.state.parent / f"cluster-{local.cluster.name}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._local, self._where, self._kernel = local, where, kernel
        self.store: Store = open_store(local.cluster, folder)
        self.member = Membership(self.store, local, kernel, reconciler, pacing)
        self.leading = Leading(self.member)
        member = self.member
        self.tidying = Tidying(self.store, member.sight, member.record, member.name)
        self.changes = Changes(self.member, digest)
        self._reconciler, self._pacing = reconciler, pacing
        self._peering = peering.Peering(self.member.sight, pacing)
        self.ownership: Ownership | None = None

    # --- Start ----------------------------------------------------------------------------------

    async def desired(self, state: State) -> Desired:
        """What is to be served from the first pass on. Raises Unavailable if nobody knows."""
        await self._peering.recall(state)
        kept = await self._pacing.call(lambda: state.kept(Agreed.KEPT))
        found = agreed_of.decode(kept) if kept is not None else await self._first_look()
        if found is None:
            return self._local
        self._reconciler.recall(found)
        self.member.recall(found)
        return self.member.desired(found)

    async def _first_look(self) -> Agreed | None:
        """What the store has; None if nobody has put anything there yet."""
        deadline = time.monotonic() + FIRST_LOOK_S
        while True:
            try:
                entry = await self.store.get(HEAD)
                head = None if entry is None else cluster_wire.decode_head(entry.value)
                if head is None or head.current == NOTHING:
                    return None
                return await self.member.fetch(head.current)
            except Unavailable as error:
                if time.monotonic() >= deadline:
                    self._check_empty(error)
                    return None
            await asyncio.sleep(RETRY_S)

    def _check_empty(self, error: LimpetError) -> None:
        """Raises Unavailable if the kernel forwards by what cannot be known now."""
        if self._kernel.adopted() is not None and self._kernel.observe().vips:
            raise Unavailable(
                f"{error}. {self._where.state_file} has nothing of the cluster either, so what the "
                "kernel forwards by is not known; it goes on with that. Bring the store back first"
            ) from error
        log.error("starting without the store, with nothing to serve", why=str(error))

    def begin(self) -> None:
        """After the first pass: directory and queries work on what is in the kernel."""
        name, cluster = self._local.director.name, self._local.cluster
        tick_s = settings.tick_s(clock.hz())
        identity = Identity(name, self._secret, self._where.state, tick_s, cluster.exceptions_max)
        self.member.directory = Directory(self.store, self._kernel, identity)
        self.ownership = Ownership(
            self._kernel,
            name=name,
            cluster=cluster.name,
            key=self._secret,
            listen=peering.endpoint(cluster.listen),
            generation=lambda: self.member.me.current.generation,
        )
        self._reconciler.reached = self.member.place
        self.member.place()

    # --- Tasks ----------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        assert self.member.directory is not None, "begin comes first"
        assert self.ownership is not None, "begin comes first"
        name_peers = functools.partial(self._peering.run, self.ownership)
        mine: list[Task] = [self.leading.run, self.tidying.run, name_peers]
        parts = [self.member.directory.run, self.ownership.run]
        return [*self.member.tasks(), *mine, *parts]

    def records(self) -> dict[str, Json]:
        """Counters of all parts, by part."""
        record = self.member.record
        record.unreadable = self.member.sight.unreadable
        record.reconnects = self.store.state.reconnects
        found: dict[str, Json] = {"cluster": {**asdict(record), **self.member.gauges()}}
        if self.member.directory is not None:
            found["directory"] = dict(self.member.directory.record())
        if self.ownership is not None:
            found["ownership"] = dict(self.ownership.record())
        return found

    def symptoms(self) -> list[str]:
        """What is wrong with this director, and with others as it sees them."""
        return [*self.member.symptoms.of_this(), *self.member.symptoms.of_others()]

    async def close(self) -> None:
        await self.store.close()


def secret_of(path: Path) -> bytes:
    """What signs all that directors tell each other. Raises ConfigError."""
    try:
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if len(secret) < KEY_BYTES_MIN:
        why = f"{len(secret)} bytes are no secret"
        mend = f"make one: openssl rand -out {path} {KEY_BYTES_MIN}"
        raise ConfigError([Problem(f"[cluster] key_file {path}", why, mend)])
    if mode & 0o077:
        why = f"is open to others (mode {stat.S_IMODE(mode):04o})"
        raise ConfigError([Problem(f"[cluster] key_file {path}", why, f"chmod 600 {path}")])
    return secret
