# SPDX-License-Identifier: Apache-2.0
"""Stores to test: each kind, opened as a director opens it, and taken away again.

One set of NATS servers serves all tests of a module; each store there has a cluster of its own, and
what it made is deleted with it.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nats

from limpet.core.model import Cluster
from limpet.store.interface import Limits, Store
from limpet.store.opening import open_store

T = TypeVar("T")
WAIT_S = 60.0  # for what must come: the machine may stand still meanwhile
PATIENT_S = 30.0  # the same, of a call
KINDS = ("file", "one server", "three servers")
USUAL = Limits(deadline_s=PATIENT_S)
SMALL = Limits(deadline_s=PATIENT_S, log_bytes=4_000, blobs_bytes=4 << 20)


@dataclass
class Place:
    """Where stores are opened."""

    folder: Path
    urls: tuple[str, ...] = ()
    limits: Limits = SMALL
    names: list[str] = field(default_factory=list)

    def fresh(self) -> str:
        """The name of a cluster that nobody has used. Its characters are not those of NATS."""
        self.names.append(f"{uuid.uuid4().hex[:8]}. é")
        return self.names[-1]

    def open(self, name: str, limits: Limits | None = None) -> Store:
        cluster = Cluster(name=name, servers=self.urls)
        return open_store(cluster, self.folder / name, limits or self.limits)

    async def clear(self) -> None:
        """Delete what is in NATS, with what was set aside for it."""
        if not self.urls:
            return
        client = await nats.connect(list(self.urls))
        for info in await client.jetstream().streams_info():
            await client.jetstream().delete_stream(info.config.name or "")
        await client.close()


async def reached(store: Store) -> Store:
    """Once it answers: servers that have just started elect their leaders."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await store.get("x")
                return store
            except Exception:
                await asyncio.sleep(0.05)


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(work)


@contextlib.asynccontextmanager
async def opened(place: Place, limits: Limits | None = None) -> AsyncIterator[Store]:
    store = place.open(place.fresh(), limits)
    try:
        yield store
    finally:
        await store.close()
        await place.clear()
