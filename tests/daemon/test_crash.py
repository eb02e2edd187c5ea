# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed at random moments between and within changes: what it acknowledged lasts."""

import random
import threading

import pytest

from daemon.site import Site
from limpet.core.errors import LimpetError

pytestmark = pytest.mark.kernel
ROUNDS = 5


@pytest.mark.parametrize("seed", [1])
def test_what_was_acknowledged_survives_a_kill_at_any_moment(site: Site, seed: int) -> None:
    moments = random.Random(seed)
    site.start()
    weight = acknowledged = revision = 0
    for _ in range(ROUNDS):
        process = site.processes[-1]
        killer = threading.Timer(moments.uniform(0.05, 0.8), process.kill)
        try:
            while True:
                weight += 1
                answer = site.api.put("/v1/pools/web/backends/b1/weight", {"weight": weight})
                assert answer["revision"] > revision
                acknowledged, revision = weight, answer["revision"]
                if not killer.ident:  # not before the first is acknowledged, however slow we are
                    killer.start()
        except LimpetError:
            assert process.wait(30) != 0  # it was killed, and did not refuse
        assert len(site.forwarded(range(20_000, 20_005))) == 5
        site.start()
        now = site.get("/v1/intents")
        (row,) = now["weights"]
        # The change that was under way may have been kept or not; none is lost or half done.
        assert (row["weight"], now["revision"]) in (
            (acknowledged, revision),
            (weight, revision + 1),
        )
        assert site.shares()["b1"] == pytest.approx(
            100 * row["weight"] / (row["weight"] + 1), abs=0.01
        )
        weight, revision = row["weight"], now["revision"]
    assert acknowledged >= ROUNDS


def test_a_drain_is_in_the_kernel_before_it_is_acknowledged(site: Site) -> None:
    """Killed right after the answer, the kernel alone keeps new sessions away."""
    text = site.file.read_text().replace('pool = "web"\n', 'pool = "web"\naffinity = "flow"\n')
    site.file.write_text(text)
    process = site.start()
    site.drain("b1")
    process.kill()
    process.wait()
    assert set(site.forwarded(range(20_000, 20_020)).values()) == {"b2"}
