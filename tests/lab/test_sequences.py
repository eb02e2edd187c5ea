# SPDX-License-Identifier: Apache-2.0
"""Random sequences of changes under live sessions: 0 broken, 0 misdelivered.

A few in every run; `make soak` runs 100, `make soak SEED=17 N=1` one again. The lab is a new one
each time, so that a sequence depends on its seed alone.
"""

import os

import pytest
from pydantic import JsonValue

from limpet.lab.topology import Topology

from . import sequence
from .conftest import Report
from .stage import HEALTH, stage_of, staged

pytestmark = pytest.mark.lab

SEED, NUMBER = int(os.environ.get("SEED") or 1), int(os.environ.get("N") or 3)
POOL: dict[str, JsonValue] = {"health": HEALTH, "on_down": "hold", "hold_s": 3_600}


@pytest.mark.parametrize("seed", range(SEED, SEED + NUMBER))
def test_no_session_breaks_or_strays_in_a_random_sequence(
    one_pop: Topology, report: Report, seed: int
) -> None:
    with stage_of(staged(one_pop, weights=(1, 1, 1, 1), pool=POOL)) as stage:
        try:
            exchanges = sequence.run(stage, seed)
        finally:
            for name in set(stage.servers) - set(sequence.BACKENDS):
                stage.servers.pop(name).close()
    report(f"seed {seed}, {exchanges:,} exchanges: {'; '.join(sequence.story(seed))}")


def test_a_sequence_depends_on_its_seed_alone() -> None:
    stories = [sequence.story(seed) for seed in range(100)]
    assert stories == [sequence.story(seed) for seed in range(100)]
    assert {len(story) for story in stories} == {sequence.STEPS}
    kinds = {step.kind for seed in range(100) for step, _ in sequence.sequence(seed)}
    assert kinds == set(sequence.Pool().choices())
