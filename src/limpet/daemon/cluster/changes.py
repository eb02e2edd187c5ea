# SPDX-License-Identifier: Apache-2.0
"""Changes: what people want of a cluster, put into the head by compare-and-set.

Any member takes a change. Who was slower than another looks at what is, and decides again: a change
of intents is a function of those that are. Each head that people have made is kept as
`history/<revision>`. A change is answered when this director has it in its kernel, or, after a
while, without that: it is kept all the same.

With the store out of reach nothing is changed, and that is said (`Unavailable`).
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from limpet.api.problem import Stale
from limpet.core import cluster_wire
from limpet.core.cluster import Head
from limpet.core.config import parse_shared
from limpet.core.errors import Conflict, LimpetError, NotFound
from limpet.core.intent import Drain, Intents
from limpet.core.model import Desired
from limpet.daemon.cluster.membership import SOURCE, Membership
from limpet.daemon.cluster.sight import HEAD
from limpet.daemon.intents import Change
from limpet.store.interface import Entry, Outdated, Ready
from limpet.store.revisions import Revision

HISTORY = "history/"
TRIES_MAX = 8  # that somebody else may be faster
EFFECT_S = 15.0  # that a change waits to be in the kernel here
POLL_S = 0.02
log = structlog.get_logger()


class Changes:
    """Puts heads, and reads those of before."""

    def __init__(self, member: Membership, digest: Callable[[str], str]) -> None:
        self._member, self._store, self._digest = member, member.store, digest

    @property
    def digest(self) -> str:
        """Of the shared document that is in effect."""
        agreed = self._member.reconciler.agreed
        return "" if agreed is None else self._digest(agreed.agreement.text)

    async def apply(self, text: str, who: str, if_revision: int | None) -> tuple[int, bool, bool]:
        """Make this the shared document; its revision, whether it is in effect here, and whether
        it is a new one."""
        parse_shared(text, self._member.local)
        is_new = False

        def made(head: Head) -> Head:
            nonlocal is_new
            is_new = head.text != text
            return replace(head, text=text, what="shared document") if is_new else head

        return (*await self._change(made, who, if_revision), is_new)

    async def change(
        self, of: Callable[[Desired, Intents], Change], who: str, if_revision: int | None
    ) -> tuple[int, bool, Change]:
        """New intents; their revision, whether they are in effect here, and what was changed."""
        said: list[Change] = []

        def made(head: Head) -> Head:
            found = of(parse_shared(head.text, self._member.local, SOURCE), head.intents)
            said.append(found)
            if found.intents == head.intents:
                return head
            return replace(head, intents=found.intents, what=found.what)

        revision, is_in_effect = await self._change(made, who, if_revision)
        return revision, is_in_effect, said[-1]

    async def _change(
        self, of: Callable[[Head], Head], who: str, if_revision: int | None
    ) -> tuple[int, bool]:
        for _ in range(TRIES_MAX):
            entry = await self._store.get(HEAD)
            head = await self._first() if entry is None else _decoded(entry)
            if if_revision is not None and if_revision != head.revision:
                raise Stale(if_revision, head.revision)
            made = of(head)
            if made is head:
                return head.revision, await self._in_effect(head.revision)
            await self._keep(head)
            made = replace(made, revision=head.revision + 1, who=who, at=time.time())
            try:
                value = cluster_wire.encode_head(made)
                revision = await self._store.put_if(HEAD, value, entry.revision if entry else 0)
            except Outdated:
                continue
            self._member.sight.see_head(Entry(HEAD, value, revision))
            self._member.wake()
            await self._keep(made)
            log.info("head changed", revision=made.revision, by=who, what=made.what)
            return made.revision, await self._in_effect(made.revision)
        raise Conflict(
            f"{TRIES_MAX} times somebody else changed the cluster first: ask again in a moment"
        )

    async def _first(self) -> Head:
        """Where the store has none: what this director goes by, so that nothing changes yet."""
        agreed = self._member.reconciler.agreed
        if agreed is not None:
            known = agreed.agreement
            return Head(known.revision, known.text, known.slot_key, known.intents)
        key, intents = await self._member.pacing.call(self._member.reconciler.beginnings)
        return Head(0, "", key, intents)

    async def _in_effect(self, revision: int) -> bool:
        """Whether it is in the kernel of this director, in time."""
        deadline = time.monotonic() + EFFECT_S
        while time.monotonic() < deadline:
            agreed = self._member.reconciler.agreed
            is_there = agreed is not None and agreed.agreement.revision >= revision
            if is_there and agreed is not None and self._member.me.current == agreed.version:
                return True
            await asyncio.sleep(POLL_S)
        return False

    # --- History --------------------------------------------------------------------------------

    async def _keep(self, head: Head) -> None:
        """Also what another put, and could not keep any more. It never changes."""
        if not head.revision:
            return
        try:
            await self._store.put_if(_key(head.revision), cluster_wire.encode_head(head), 0)
        except Outdated:
            return
        except LimpetError as error:  # the head itself is what counts, and the next keeps it
            log.warning("a revision could not be kept", revision=head.revision, why=str(error))

    async def drains(self) -> Mapping[str, Drain]:
        """By backend, as the store has them now."""
        entry = await self._store.get(HEAD)
        return {} if entry is None else _decoded(entry).intents.drains

    async def history(self, limit: int | None) -> list[Revision]:
        """The last revisions, the current one first; None: all that are kept."""
        found: dict[str, Head] = {}
        watch = self._store.watch(HISTORY)
        async for each in watch:
            if isinstance(each, Ready):
                break
            if isinstance(each, Entry):
                found[each.key] = _decoded(each)
        newest = sorted(found.values(), key=lambda head: -head.revision)
        return [self._revision(head) for head in newest[:limit]]

    async def revision(self, number: int) -> Revision:
        """One of them; NotFound if it is not kept."""
        if number == 0:
            return Revision(0, 0.0, "", "no intents", "", Intents())
        entry = await self._store.get(_key(number))
        if entry is None:
            raise NotFound(f"there is no revision {number} of the cluster; see limpet history")
        return self._revision(_decoded(entry))

    def _revision(self, head: Head) -> Revision:
        digest = self._digest(head.text)
        return Revision(head.revision, head.at, head.who, head.what, digest, head.intents)


def _key(revision: int) -> str:
    return f"{HISTORY}{revision:010d}"


def _decoded(entry: Entry) -> Head:
    try:
        return cluster_wire.decode_head(entry.value)
    except ValueError as error:
        raise LimpetError(f"store: {entry.key}: {error}") from error
