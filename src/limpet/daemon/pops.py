# SPDX-License-Identifier: Apache-2.0
"""Pops: what draining a PoP makes of the intents, or why it is refused.

As daemon/intents.py for backends: pure, and whoever asks for what is so already changes nothing. A
drain of a PoP concerns what its directors announce; its backends stay in use from elsewhere.
"""

from limpet.api.interface import Json
from limpet.core.errors import Conflict, NotFound
from limpet.core.intent import Intents, PopDrain, with_pop_drain, without_pop_drain
from limpet.core.model import Desired
from limpet.daemon.intents import Change


def drain(desired: Desired, intents: Intents, pop: str, by: str, now: float) -> Change:
    """Its directors announce nothing from now on."""
    _check(desired, pop)
    if pop in intents.pop_drains:
        return Change(intents, "")
    event: Json = {"kind": "pop_drain_began", "at": now, "pop": pop, "by": by}
    return Change(with_pop_drain(intents, PopDrain(pop, now, by)), f"drain PoP {pop}", (event,))


def undrain(desired: Desired, intents: Intents, pop: str, by: str, now: float) -> Change:
    """Its directors announce what they can serve again."""
    if pop not in intents.pop_drains:
        _check(desired, pop)
        drained = ", ".join(sorted(intents.pop_drains)) or "none"
        raise Conflict(f"PoP {pop!r} is not drained; drained: {drained}")
    event: Json = {"kind": "pop_drain_ended", "at": now, "pop": pop, "by": by}
    return Change(without_pop_drain(intents, pop), f"undrain PoP {pop}", (event,))


def _check(desired: Desired, pop: str) -> None:
    known = {desired.director.pop, *(each.name for each in desired.pops)} - {""}
    if pop not in known:
        names = ", ".join(sorted(known)) or "none: [director] has no `pop`"
        raise NotFound(f"there is no PoP {pop!r}; PoPs: {names}")
    if not desired.cluster.name and pop != desired.director.pop:
        raise Conflict(
            f"this director stands alone, in PoP {desired.director.pop!r}: a drain of {pop!r} "
            "would reach nobody. Give it to a director there, or make them a cluster ([cluster])"
        )
