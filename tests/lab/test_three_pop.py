# SPDX-License-Identifier: Apache-2.0
"""Three PoPs, new sessions at near backends, policies that place by turns or by load: none breaks.

Each combination of policy and affinity has a lab of its own, whose scenarios are those of two PoPs.
`make soak` runs all; `make test` two scenarios of one combination.
"""

from collections.abc import Iterator

import pytest

from .conftest import Report
from .journey import AWAY, HOME, IS_WHOLE, SCENARIOS, Journey, many_pops
from .stage import stage_of

pytestmark = pytest.mark.lab

COMBINATIONS = [
    ("round-robin", "flow"),
    ("least-sessions", "client"),
    ("round-robin", "client"),
    ("least-sessions", "flow"),
]
SHARE = ("everything_at_once", "loss_of_director")


@pytest.fixture(
    scope="module",
    params=COMBINATIONS if IS_WHOLE else COMBINATIONS[:1],
    ids="-".join,
)
def journey(request: pytest.FixtureRequest) -> Iterator[tuple[str, Journey]]:
    policy, affinity = request.param
    with stage_of(many_pops("three-pop", affinity, policy=policy, prefer="near")) as stage:
        yield f"three-pop, near, {policy}, {affinity}", Journey(stage, affinity)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if IS_WHOLE or name in SHARE])
def test_sessions_of_three_pops_survive(
    journey: tuple[str, Journey], report: Report, scenario: str
) -> None:
    title, way = journey
    way.survives(f"{title}, {scenario}", SCENARIOS[scenario], report)


def test_new_sessions_stay_near(journey: tuple[str, Journey]) -> None:
    """At the backends of the PoP that they come to."""
    _, way = journey
    for pop in (AWAY, HOME):
        way.shift(pop)
        near = {name for name in way.stage.servers if name.startswith(pop)}
        assert set(way.stage.newcomers(60)) == near
