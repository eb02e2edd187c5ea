# SPDX-License-Identifier: Apache-2.0
"""Changes to a lab whose director's daemon is dead: they are kept for its next start."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from limpet.core import config
from limpet.core.errors import Conflict, NotFound
from limpet.core.model import Desired
from limpet.lab import changes, folder, namespace, operations, state
from limpet.lab.network import Network
from limpet.lab.state import State
from limpet.lab.topology import Topology

pytestmark = pytest.mark.lab


@pytest.fixture
def alone(lab: str, one_pop: Topology) -> State:
    """A network of its own, for a test that changes it."""
    with state.locked(lab, create=True):
        now = State(lab=lab, phase="up", topology=one_pop, numbers_used={"fra": 13})
        state.save(now)
        Network(lab, one_pop).build()
    return now


def desired(lab: str) -> Desired:
    path = folder.of(lab) / "fra-d1.toml"
    return config.parse(path.read_text(), path.name)


def test_a_weight_is_written_and_remembered(alone: State) -> None:
    changes.weight(alone.lab, "b2", 7)
    assert desired(alone.lab).pools[0].weights == {"b1": 1, "b2": 7, "b3": 1}
    changes.weight(alone.lab, "b1", 0)
    assert desired(alone.lab).pools[0].weights == {"b1": 0, "b2": 7, "b3": 1}


def test_a_removed_backend_with_its_host_kept_runs_on_and_can_come_back(alone: State) -> None:
    changes.remove(alone.lab, "b2", keep_host=True)
    assert [backend.name for backend in desired(alone.lab).backends] == ["b1", "b3"]
    assert namespace.exists(f"{alone.lab}-b2")
    assert _states(alone.lab)["b2"] == "removed"
    with pytest.raises(Conflict, match="b2' is out of the pool"):
        changes.weight(alone.lab, "b2", 2)
    changes.add(alone.lab, "b2")
    assert [backend.name for backend in desired(alone.lab).backends] == ["b1", "b2", "b3"]
    assert _states(alone.lab)["b2"] == "up"


def test_a_removed_backend_takes_its_host_along(alone: State) -> None:
    changes.remove(alone.lab, "b1", keep_host=False)
    assert not namespace.exists(f"{alone.lab}-b1")
    assert "b1" not in _states(alone.lab)
    assert [backend.name for backend in desired(alone.lab).backends] == ["b2", "b3"]


def test_a_kept_host_can_be_destroyed_later(alone: State) -> None:
    changes.remove(alone.lab, "b3", keep_host=True)
    changes.remove(alone.lab, "b3", keep_host=False)
    assert not namespace.exists(f"{alone.lab}-b3")
    assert "b3" not in _states(alone.lab)


def _states(lab: str) -> dict[str, str]:
    return {host["name"]: host["state"] for host in operations.status(lab)["hosts"]}


def test_a_killed_host_says_so(network: State) -> None:
    changes.kill(network.lab, "client1", daemon_only=False)
    assert _states(network.lab)["client1"] == "killed"
    changes.start(network.lab, "client1")
    assert _states(network.lab)["client1"] == "up"


def test_a_host_without_a_link_waits_for_the_router(network: State) -> None:
    changes.kill(network.lab, "router", daemon_only=False)
    changes.kill(network.lab, "b2", daemon_only=False)
    with pytest.raises(Conflict, match="no link while 'router' is down"):
        changes.start(network.lab, "b2")
    assert _states(network.lab)["b2"] == "killed"
    changes.start(network.lab, "router")
    assert _states(network.lab)["b2"] == "killed"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lab: changes.add(lab, "b1"), "host 'b1' is in lab .* already"),
        (lambda lab: changes.add(lab, "client1"), "host 'client1' is in lab .* already"),
        (lambda lab: changes.add(lab, "B 4"), "host name 'B 4' does not work"),
        (lambda lab: changes.weight(lab, "client1", 1), "is a client, not a backend"),
        (lambda lab: changes.weight(lab, "b1", 65_536), "weight 65536 does not work"),
        (lambda lab: changes.weight(lab, "b1", -1), "weight -1 does not work"),
        (lambda lab: changes.remove(lab, "router", keep_host=False), "router, not a backend"),
        (lambda lab: changes.kill(lab, "client1", daemon_only=True), "no limpet process runs"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(
    network: State, change: Callable[[str], object], why: str
) -> None:
    before = folder.read_state(network.lab)
    with pytest.raises(Conflict, match=why):
        change(network.lab)
    assert folder.read_state(network.lab) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda lab: changes.weight(lab, "b9", 1),
        lambda lab: changes.remove(lab, "b9", keep_host=False),
        lambda lab: changes.kill(lab, "b9", daemon_only=False),
        lambda lab: changes.start(lab, "b9"),
    ],
)
def test_an_unknown_host_is_named_with_those_there_are(
    network: State, change: Callable[[str], object]
) -> None:
    with pytest.raises(NotFound, match="no host 'b9' in this lab; there are router, client1"):
        change(network.lab)


def test_a_number_is_never_given_out_twice(one_pop: Topology) -> None:
    """The director may still hold sessions of the backend that had the address before."""
    smaller = one_pop.without_host("b3")
    host = changes.next_backend(
        State(lab="any", phase="up", topology=smaller, numbers_used={"fra": 13}), "b4"
    )
    assert smaller.with_host(host).backend_address(host) == ip_address("10.10.0.14")
