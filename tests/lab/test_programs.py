# SPDX-License-Identifier: Apache-2.0
"""Sessions of PostgreSQL, SSH and MQTT, and of the lab, survive whatever happens to two PoPs.

One lab for all; `make soak` runs every scenario, and `make test` the one where all comes together.
"""

from collections.abc import Iterator

import pytest

from .conftest import Report
from .journey import IS_WHOLE, SCENARIOS, Journey, many_pops
from .stage import stage_of

pytestmark = pytest.mark.lab

SHARE = ("everything_at_once",)


@pytest.fixture(scope="module")
def journey() -> Iterator[Journey]:
    with stage_of(many_pops("two-pop")) as stage:
        journey = Journey(stage)
        with journey.programs():
            yield journey


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if IS_WHOLE or name in SHARE])
def test_sessions_of_programs_survive(journey: Journey, report: Report, scenario: str) -> None:
    journey.survives(f"two-pop, {scenario}", SCENARIOS[scenario], report)
