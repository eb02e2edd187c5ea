# SPDX-License-Identifier: Apache-2.0
"""Interleavings: every order of so few steps that each of them can count, the protocol's too.

Beside `exhaustive`, where people, clients and faults have few steps and the protocol as many as it
wants: there nothing that is longer is seen, here nothing that needs more of the protocol. Both
clients are in one world, and nothing is left out but last steps that are judged by nothing.
"""

from limpet.sim.exhaustive import JUDGED, TOGETHER, Found, state
from limpet.sim.member import Broken
from limpet.sim.small import Step, Violation, World, after, first_world, steps

Way = tuple[Step, ...]


def explore(length: int, broken: Broken = Broken.NOTHING) -> Found:
    """All ways of up to `length` steps, the shortest first."""
    first = first_world(broken, *TOGETHER)
    layer: list[tuple[World, Way]] = [(first, ())]
    seen = {state(first).number}
    transitions = 0
    for number in range(1, length + 1):
        following: list[tuple[World, Way]] = []
        for world, way in layer:
            for step in steps(world):
                if number == length and step[0] not in JUDGED | {"answer"}:
                    continue
                transitions += 1
                try:
                    found = after(world, step)
                except Violation as violation:
                    return Found(length, len(seen), transitions, str(violation), (*way, step))
                known = state(found).number
                if known not in seen:
                    seen.add(known)
                    following.append((found, (*way, step)))
        layer = following
    return Found(length, len(seen), transitions)
