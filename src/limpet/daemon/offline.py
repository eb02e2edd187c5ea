# SPDX-License-Identifier: Apache-2.0
"""Offline: plans without a daemon, from what the last one left in the kernel and its state file.

Intents and health are those that the daemon left. Next hops are left out on both sides, so that
only what people decide is compared. Writes nothing.
"""

import time
from dataclasses import replace
from pathlib import Path

from limpet.api.interface import Json
from limpet.api.places import Places, places
from limpet.core.config import parse
from limpet.core.errors import NotFound
from limpet.core.intent import Intents
from limpet.core.model import Desired, Image
from limpet.core.plan import plan as plan_image
from limpet.core.registry import Registry
from limpet.core.summary import summary
from limpet.daemon.answer import said
from limpet.daemon.effect import weigh
from limpet.daemon.recollection import recall
from limpet.daemon.reconcile import KEY_BYTES
from limpet.datapath.kernel import Kernel, Sizes
from limpet.store.state import State


def plan(text: str, source: str, state: Path | None) -> Json:
    """What the file would change, as the daemon's plan says it."""
    desired = parse(text, source)
    where = places(desired.director.name, state=state)
    desired, registry, intents = _remembered(desired, where)
    effect = weigh(None, desired, (0, intents), recall(where.state), time.time())
    following, image = plan_image(desired, registry, {}, None, effect.assessments)
    return said(summary(_observed(where), image, registry, following))


def _remembered(desired: Desired, where: Places) -> tuple[Desired, Registry, Intents]:
    if not where.state_file.exists():
        if (where.pins / "maps").exists():
            raise NotFound(
                f"{where.state_file} is not there, but the kernel holds director {where.name!r}, "
                "whose backends only that file names: give its folder with --state, or restore it"
            )
        return desired, Registry(), Intents()
    with State(where.state_file) as state:
        registry = state.load()
        if not desired.director.slot_key:
            key = state.secret("slot_key", KEY_BYTES)
            desired = replace(desired, director=replace(desired.director, slot_key=key))
        return desired, registry, state.intents()[1]


def _observed(where: Places) -> Image:
    if not (where.pins / "maps").exists():
        return Image()
    kernel = Kernel.open(where.pins, Sizes(1, 1, 1))
    try:
        held = kernel.observe()
    finally:
        kernel.close()
    return replace(held, backends=tuple(replace(row, next_hop=None) for row in held.backends))
