# SPDX-License-Identifier: Apache-2.0
"""Hooks hear of a drain's end also when the director is killed right after it put it there."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cluster.conftest import Made
from cluster.member import WAIT_S, WITH_THIRD, Member, settled
from limpet.core import cluster_wire
from limpet.core.intent import Drain, Intents
from limpet.core.model import Desired, Director
from limpet.daemon.cluster.changes import Changes
from limpet.daemon.cluster.endings import Endings
from limpet.daemon.cluster.sight import HEAD
from limpet.daemon.intents import Change
from limpet.store.embedded import EmbeddedStore
from limpet.store.opening import FILE
from limpet.store.state import State


async def kill_at_the_end(one: Member, backend: str) -> None:
    """The moment that the head says that its drain is over."""
    store = EmbeddedStore(one.places.state.parent / "cluster-edge" / FILE)
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                entry = await store.get(HEAD)
                assert entry is not None
                if cluster_wire.decode_head(entry.value).intents.drains[backend].drained:
                    one.kill()
                    return
                await asyncio.sleep(0.001)
    finally:
        await store.close()


def test_an_end_that_nobody_lived_to_tell_is_told_by_the_next_daemon(
    make: Made, tmp_path: Path
) -> None:
    one, heard = make("fra-d1", "fra"), tmp_path / "heard"
    one.start()
    one.apply(WITH_THIRD + f'\n[hooks]\ncommand = ["/usr/bin/tee", "-a", "{heard}"]\n')
    settled(one, revision=1)
    left = ["b1", "b2", "b3"]
    while True:
        backend = left.pop()
        one.drain(backend)
        asyncio.run(kill_at_the_end(one, backend))
        if not (is_late := backend in tellings(heard)) or not left:
            break
        one.start()  # the machine stood still, and it told the hook before it was killed
    assert not is_late, "it was killed before it told the hook"
    one.start()
    one.wait_for(lambda: backend in tellings(heard), wait_s=WAIT_S)
    assert tellings(heard).count(backend) == 1


def tellings(heard: Path) -> list[str]:
    """The backends of whose end the hook was told."""
    lines = heard.read_text().splitlines() if heard.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    assert {each["kind"] for each in told} <= {"drained"}
    return [each["backend"] for each in told]


class Head:
    """The intents of a cluster, without one."""

    def __init__(self, drains: list[Drain]) -> None:
        self.intents = Intents({each.backend: each for each in drains})

    async def change(self, of: Callable[[Desired, Intents], Change], *_: object) -> None:
        self.intents = of(Desired(Director("d1", ("eth0",))), self.intents).intents

    async def drains(self) -> dict[str, Drain]:
        return dict(self.intents.drains)


def test_any_number_of_drains_may_end_at_once(tmp_path: Path) -> None:
    drains, heard = [Drain(f"b{n}", 1.0, "root") for n in range(100)], list[Any]()
    ended = [
        (replace(each, drained=2.0), {"kind": "drained", "backend": each.backend})
        for each in drains
    ]

    async def call(work: Callable[[], Any]) -> Any:
        return work()

    with State(tmp_path / "state.db") as state:
        endings = Endings(cast(Changes, Head(drains)), state, call, heard.append)
        asyncio.run(endings.end(ended))
        queued = [each.event["backend"] for each in state.pending("hook", 1_000)]
    wanted = [each.backend for each in drains]
    assert [each["backend"] for each in heard] == queued == wanted
