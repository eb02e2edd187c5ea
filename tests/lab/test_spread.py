# SPDX-License-Identifier: Apache-2.0
"""10,000 short connections from 1,024 addresses spread over the backends as their weights say.

The slot key, the addresses and the source ports are fixed, so a run gives the same numbers each
time: within three sigma, and not by luck of the day.
"""

import math

import pytest

from limpet.lab.sessions import short_connections
from limpet.lab.state import State

from .conftest import Report
from .observe import BACKENDS, PORT, counters, sources, vip_of

pytestmark = pytest.mark.lab

CONNECTIONS = 10_000
WEIGHTS = {"b1": 1, "b2": 2, "b3": 3}
# Below the ports that a kernel gives out itself; apart, because a closed one stays taken a while.
PORT_FIRST = {"client": 20_000, "flow": 21_000}
SIGMAS = 3


def spread(now: State, affinity: str) -> dict[str, int]:
    """Connections by backend, all of them answered."""
    vips = [str(vip_of(now, version, affinity)) for version in (4, 6)]
    found = short_connections(
        now.lab, "client2", CONNECTIONS, PORT, vips, port_first=PORT_FIRST[affinity]
    )
    assert found["failed"] == {}
    by_backend: dict[str, int] = found["by_backend"]
    assert set(by_backend) == set(BACKENDS)
    assert sum(by_backend.values()) == CONNECTIONS
    return by_backend


def sigmas(found: dict[str, int], draws: int) -> dict[str, float]:
    """How far each backend is from its share p, in sigmas: sigma^2 = p (1 - p) * `draws`."""
    shares = {name: weight / sum(WEIGHTS.values()) for name, weight in WEIGHTS.items()}
    return {
        name: round(abs(found[name] - p * CONNECTIONS) / math.sqrt(p * (1 - p) * draws), 2)
        for name, p in shares.items()
    }


def test_affinity_client_spreads_addresses_by_weight(served: State, report: Report) -> None:
    """An address's connections stay together: the sum of 1,024 draws, each worth what it opens.

    With p the backend's share and c_i the connections of address i, the variance of the backend's
    connections is p (1 - p) * sum(c_i^2), not p (1 - p) * sum(c_i).
    """
    addresses = [len(sources(served, version)) for version in (4, 6)]
    assert addresses == [512, 512]
    opened = [len(range(i, CONNECTIONS // 2, count)) for count in addresses for i in range(count)]
    assert sum(opened) == CONNECTIONS
    found = spread(served, "client")
    away = sigmas(found, sum(c * c for c in opened))
    report(f"affinity client, 10,000 connections: {found}, sigmas away: {away}")
    assert max(away.values()) < SIGMAS


def test_affinity_flow_spreads_connections_by_weight(served: State, report: Report) -> None:
    """Every connection is a draw of its own: binomial, variance p (1 - p) n."""
    before = counters(served.lab)
    found = spread(served, "flow")
    away = sigmas(found, CONNECTIONS)
    report(f"affinity flow, 10,000 connections: {found}, sigmas away: {away}")
    assert max(away.values()) < SIGMAS
    moved = counters(served.lab) - before
    assert moved["home_new"] == moved["flow_created"] == CONNECTIONS
    assert moved["home_existing"] == 0
