# SPDX-License-Identifier: Apache-2.0
"""With the store out of reach everything goes on as it is; only changes are refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.conftest import Made
from cluster.member import SHARED, WAIT_S, WITH_THIRD, Member, settled
from limpet.lab import namespace
from limpet.lab.nats import Node, Server, free_ports, wait_for_port
from limpet.lab.topology import Topology

PORTS = range(21_000, 21_020)
UNAVAILABLE = 10  # exit status
HOST, ADDRESS = "b3", "10.10.0.13"  # a machine beside the directors


@pytest.fixture
def server(hosts: tuple[str, Topology], tmp_path: Path) -> Iterator[Server]:
    """A NATS server on a machine of its own, not started yet."""
    node = Node("n1", tmp_path / "nats", free_ports(1)[0], address=ADDRESS)
    found = Server(node)
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def start(hosts: tuple[str, Topology], server: Server) -> Callable[[], None]:
    def begin() -> None:
        with namespace.inside(f"{hosts[0]}-{HOST}"):
            server.start()
            wait_for_port(server.node)

    return begin


def is_degraded(member: Member) -> bool:
    return any("store cannot be reached" in each for each in member.get("/v1/pops")["degraded"])


def test_ten_minutes_without_the_store(
    make: Made, server: Server, start: Callable[[], None]
) -> None:
    """Shorter, as to the clock. One director is even started while the store is away."""
    more = f'servers = ["{server.node.url}"]'
    start()
    one, two = make("fra-d1", "fra", more), make("par-d1", "par", more)
    for each in (one, two):
        each.start()
    one.apply(SHARED)
    settled(one, two, revision=1)
    one.takes_over()
    before = one.forwarded(PORTS)

    server.kill()
    one.wait_for(lambda: is_degraded(one) and is_degraded(two), wait_s=WAIT_S)
    assert one.forwarded(PORTS) == before
    said = one.apply(WITH_THIRD, status=UNAVAILABLE)
    assert "store" in said
    one.cli("backend", "drain", "b1", status=UNAVAILABLE)
    assert one.drains() == {}
    two.kill()
    two.start()
    two.takes_over()
    assert two.forwarded(PORTS) == before, "it starts with what it was told last"
    assert two.shares() == one.shares()
    assert two.get("/v1/status")["ownership"]["peers"] == 1, "it knows whom to ask for flows"

    start()
    one.wait_for(lambda: not is_degraded(one) and not is_degraded(two), wait_s=WAIT_S)
    two.apply(WITH_THIRD)
    settled(one, two, revision=2)
    assert two.forwarded(PORTS) == before
    assert set(one.shares()) == {"b1", "b2", "b3"}
    one.takes_over()
    assert one.forwarded(PORTS) == before


def test_a_director_without_a_past_starts_empty_and_serves_when_the_store_comes(
    make: Made, server: Server, start: Callable[[], None]
) -> None:
    one = make("fra-d1", "fra", f'servers = ["{server.node.url}"]')
    one.start()
    assert one.get("/v1/vips") == []
    assert is_degraded(one)
    start()
    one.wait_for(lambda: not is_degraded(one), wait_s=WAIT_S)
    one.apply(SHARED)
    settled(one, revision=1)
    assert [row["name"] for row in one.get("/v1/vips")] == ["web4"]
