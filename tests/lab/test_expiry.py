# SPDX-License-Identifier: Apache-2.0
"""A session ends by its idle timeout, to the second; whoever returns later goes to the freest."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from limpet.lab import changes
from limpet.lab.sessions import returning_clients
from limpet.lab.topology import Topology

from .conftest import Report
from .observe import PORT
from .stage import stage_of, staged

pytestmark = pytest.mark.lab

IDLE_S = 5
STAY_S, RETURN_S = 4.0, 6.0
HELD, CLIENTS = 120, 1_000
UNEVEN = (5, 1, 1, 1)
WEIGHTS = {"b1": 1, "b2": 1, "b3": 2, "b4": 4}
AWAY_MAX = 2  # sessions from the ideal, per backend


def freest(loads: Mapping[str, int], weights: Mapping[str, int], arrivals: int) -> Counter[str]:
    """Sessions per backend after so many have each gone to where there are fewest per weight."""
    found = Counter(loads)
    for _ in range(arrivals):
        found[min(weights, key=lambda name: (found[name] + 1) / weights[name])] += 1
    return found


def test_idle_clients_stay_until_the_timeout_and_then_go_to_the_freest(
    one_pop: Topology, report: Report
) -> None:
    """1,000 clients come three times, while others hold sessions, most of them on b1."""
    with stage_of(staged(one_pop, weights=UNEVEN, idle_s=IDLE_S)) as stage:
        with stage.hold(HELD, every=1.0, again=0) as held:
            for name, weight in WEIGHTS.items():
                changes.weight(stage.lab, name, weight)
            loads = Counter(held.report()["by_backend"])
            assert loads["b1"] > HELD / 3
            found = returning_clients(
                stage.lab,
                "client2",
                CLIENTS,
                PORT,
                stage.vips,
                skip=stage.fresh(CLIENTS),
                idle=STAY_S,
                pause=RETURN_S,
            )
            first, second, last = found["visits"]
            now = held.settle()
            views = {name: server.view() for name, server in stage.servers.items()}
        # Those who came too late were kept from it by a busy machine, and are placed anew.
        in_time = [i for i, idle_s in enumerate(found["idle_s"]) if idle_s < IDLE_S]
        assert len(in_time) > CLIENTS / 2
        assert [second[i] for i in in_time] == [first[i] for i in in_time]
        assert set(first) == set(WEIGHTS)
        assert (now["broken"], now["by_backend"]) == ([], loads)
        result, ideal = loads + Counter(last), freest(loads, WEIGHTS, CLIENTS)
        report(f"held {dict(loads)}, first {dict(Counter(first))}; at last {dict(result)}")
        report(f"ideal {dict(ideal)}; {len(in_time)} came again after {STAY_S} s")
        assert max(abs(result[name] - ideal[name]) for name in WEIGHTS) <= AWAY_MAX
        assert known(views) == Counter(first + second + last) + loads


def known(views: Mapping[str, Mapping[str, Sequence[object]]]) -> Counter[str]:
    """Connections that each server has seen."""
    return Counter(
        {name: len(view["connected"]) + len(view["ended"]) for name, view in views.items()}
    )
