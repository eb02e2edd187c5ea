# SPDX-License-Identifier: Apache-2.0
"""Sessions of two PoPs: BGP, the pool, directors and the store change under them, and none breaks.

One lab for all; each test leaves it as it was. Both sides are asked, as in `stage`: what broke for
the client, who is connected by the server's word, and whether any backend sent a RST.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from pydantic import JsonValue

from limpet.lab import changes, namespace, programs, shifting, source, state
from limpet.lab.impairment import Impairment
from limpet.lab.sessions import HeldSessions
from limpet.lab.topology import Topology

from .conftest import Report
from .observe import PORT
from .stage import HEALTH, Stage, stage_of

pytestmark = pytest.mark.lab

SESSIONS = 200
FLAPS, FLAP_S = 20, 0.2
CLIENT = "client2"
CLOSED_PORT = 9
STORES = ("store1", "store2", "store3")


def pops(name: str = "two-pop", **tables: dict[str, JsonValue]) -> Topology:
    """A built-in topology with health checks, and more addresses of clients."""
    plain = source.load(name).model_dump()
    client = next(host for host in plain["host"] if host["name"] == CLIENT)
    client |= {"sources": 2_048, "sources4": "10.2.8.0/21", "sources6": "2001:db8:2:800::/53"}
    pool = {"health": HEALTH, **tables.pop("pool", {})}
    director = {**plain["director"], **tables.pop("director", {})}
    assert not tables
    return Topology.model_validate({**plain, "pool": pool, "director": director})


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with stage_of(pops()) as stage:
        yield stage


@pytest.fixture(autouse=True)
def at_fra(stage: Stage) -> None:
    """Every test begins with the client's packets going to fra."""
    if pop_of(stage) != {"fra"}:
        shifting.shift(stage.lab, CLIENT, "fra")


def pop_of(stage: Stage) -> set[str]:
    return {each.path.pop for each in shifting.path(stage.lab, CLIENT, "")}


@contextmanager
def shifted(stage: Stage, pop: str = "par") -> Iterator[None]:
    shifting.shift(stage.lab, CLIENT, pop)
    assert pop_of(stage) == {pop}
    yield
    shifting.shift(stage.lab, CLIENT, "fra")


@contextmanager
def cut(stage: Stage, a: str, *others: str) -> Iterator[None]:
    for b in others:
        shifting.impair(stage.lab, Impairment(a=a, b=b, cut=True))
    try:
        yield
    finally:
        for b in others:
            shifting.impair(stage.lab, Impairment(a=a, b=b))


@contextmanager
def killed(stage: Stage, host: str) -> Iterator[None]:
    changes.kill(stage.lab, host, daemon_only=False)
    try:
        yield
    finally:
        changes.start(stage.lab, host)


@contextmanager
def added(stage: Stage, name: str, pop: str) -> Iterator[None]:
    """A backend that serves before it is in the pool, and is gone afterwards."""
    changes.add(stage.lab, name, pop=pop, pooled=False)
    with stage.serving(name):
        changes.add(stage.lab, name)
        try:
            yield
        finally:
            changes.remove(stage.lab, name, keep_host=True)
    changes.remove(stage.lab, name, keep_host=False)


@contextmanager
def removed(stage: Stage, name: str) -> Iterator[None]:
    """Out of the pool; its machine, and so its sessions, live on."""
    changes.remove(stage.lab, name, keep_host=True)
    try:
        yield
    finally:
        changes.add(stage.lab, name)


def said(report: Report, what: str, held: HeldSessions) -> None:
    found = held.report()
    report(
        f"{what}: {found['alive']} of {found['sessions']} sessions live, "
        f"longest wait {found['longest_gap_ms']} ms"
    )


def test_new_clients_reach_the_backends_of_both_pops_from_either(stage: Stage) -> None:
    assert set(stage.newcomers(120)) == set(stage.servers)
    with shifted(stage):
        assert set(stage.newcomers(120)) == set(stage.servers)


def test_sessions_survive_a_shift_and_the_shift_back(stage: Stage, report: Report) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held):
            shifting.shift(stage.lab, CLIENT, "par")
        assert pop_of(stage) == {"par"}
        with stage.all_stay(held):
            shifting.shift(stage.lab, CLIENT, "fra")
        assert pop_of(stage) == {"fra"}
        said(report, "shift and back", held)


def test_sessions_survive_flapping(stage: Stage, report: Report) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held):
            found = shifting.flap(stage.lab, CLIENT, FLAP_S, FLAPS * FLAP_S)
        assert found.asked == FLAPS
        assert found.seen > FLAPS / 2
        said(report, f"{found.seen} flaps", held)


def test_sessions_survive_a_shift_together_with_changes_of_the_pool(
    stage: Stage, report: Report
) -> None:
    """The problem that limpet is for: BGP and the pool change at once."""
    with stage.hold(SESSIONS) as held, ExitStack() as undone:
        with stage.all_stay(held, may_stray=("fra-b2",)):
            undone.enter_context(added(stage, "fra-b4", "fra"))
            undone.enter_context(added(stage, "par-b4", "par"))
            undone.enter_context(removed(stage, "fra-b2"))
            undone.enter_context(shifted(stage))
        with stage.all_stay(held, may_stray=("fra-b2",)):
            shifting.shift(stage.lab, CLIENT, "fra")
        said(report, "2 added, 1 removed, shift, shift back", held)
        held.finish()


def test_sessions_survive_the_loss_of_their_director(stage: Stage, report: Report) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held), killed(stage, "fra-d1"):
            stage.until(lambda: pop_of(stage) == {"par"})
            held.settle()
        stage.until(lambda: pop_of(stage) == {"fra"})
        said(report, "director killed, and started", held)


def test_sessions_survive_the_death_of_the_daemon_during_a_shift(
    stage: Stage, report: Report
) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held):
            changes.kill(stage.lab, "fra-d1", daemon_only=True)
            shifting.shift(stage.lab, CLIENT, "par")
            held.settle()
            changes.start(stage.lab, "fra-d1")
        said(report, "daemon killed, shift", held)


def test_sessions_survive_a_shift_while_the_store_is_cut_off(stage: Stage, report: Report) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held), cut(stage, "par", *STORES), cut(stage, "fra", *STORES):
            shifting.shift(stage.lab, CLIENT, "par")
            held.settle()
        said(report, "store cut off, shift", held)


def test_sessions_survive_the_loss_of_a_node_of_the_store_during_a_shift(
    stage: Stage, report: Report
) -> None:
    with stage.hold(SESSIONS) as held:
        with stage.all_stay(held), killed(stage, "store1"), shifted(stage):
            held.settle()
        said(report, "node of the store killed, shift", held)
    urls = programs.store_urls(stage.lab, state.read(stage.lab).topology)
    assert len(urls) == len(STORES)


def round_trip_ms(stage: Stage, host: str, to: str, port: int) -> float:
    """The least of some: of a handshake, or of a SYN and the RST that answers it."""
    found = []
    for _ in range(5):
        with namespace.inside(f"{stage.lab}-{host}"):
            begun = time.monotonic()
            with suppress(ConnectionRefusedError), socket.create_connection((to, port), 5):
                pass
            found.append((time.monotonic() - begun) * 1_000)
    return min(found)


@contextmanager
def slow(stage: Stage, a: str, b: str, delay_ms: float) -> Iterator[None]:
    shifting.worsen(stage.lab, a, b, delay_ms=delay_ms)
    try:
        yield
    finally:
        shifting.worsen(stage.lab, a, b, delay_ms=0)


def test_sessions_live_over_slow_links_each_way_by_their_delay(
    stage: Stage, report: Report
) -> None:
    """The client's own link, and the backbone between two PoPs but not to the store."""
    topology = state.read(stage.lab).topology
    far, store = (str(topology.on_backbone(topology.find(n))[0]) for n in ("par-d1", "store1"))
    ways = {
        "client": (CLIENT, stage.vips[0], PORT),
        "backbone": ("fra-d1", far, CLOSED_PORT),
        "store": ("fra-d1", store, CLOSED_PORT),
    }

    def measured() -> dict[str, float]:
        return {name: round_trip_ms(stage, *way) for name, way in ways.items()}

    before = measured()
    with stage.hold(60) as held, stage.all_stay(held):
        with slow(stage, CLIENT, "isp2", 20), slow(stage, "fra", "par", 10):
            during = measured()
            held.settle()
        after = measured()
    rose = {name: during[name] - before[name] for name in ways}
    report(f"round trips rose by { ({name: round(ms, 1) for name, ms in rose.items()}) } ms")
    assert 40 <= rose["client"] < 60
    assert 20 <= rose["backbone"] < 40
    assert abs(rose["store"]) < 10
    assert all(after[name] < before[name] + 10 for name in ways)
    assert not [name for name in state.read(stage.lab).processes if name.endswith("/delay")]


def test_every_director_checks_every_backend(stage: Stage) -> None:
    """Over the backbone, from both PoPs: the check of a backend answers there too."""
    assert set(stage.health()) == set(stage.servers)
    stage.until(lambda: all(stage.health().values()), see=stage.health)


def test_with_the_hash_alone_a_shift_with_a_change_of_the_pool_breaks_sessions(
    report: Report,
) -> None:
    """The control: were sessions not told from broken ones, the tests above would prove nothing."""
    with stage_of(pops(director={"hash_only": True})) as stage:
        stage.until(lambda: pop_of(stage) == {"fra"})
        with stage.hold(SESSIONS, again=0) as held, added(stage, "fra-b4", "fra"):
            shifting.shift(stage.lab, CLIENT, "par")
            found = held.settle()
    said(report, "the hash alone, shift and 1 added", held)
    assert len(found["broken"]) > SESSIONS / 20


@pytest.mark.parametrize("policy", ["round-robin", "least-sessions"])
def test_sessions_of_three_pops_survive_whatever_the_policy(policy: str, report: Report) -> None:
    """No session is where the hash says, and each new one is told to the other PoPs."""
    with stage_of(pops("three-pop", pool={"policy": policy, "prefer": "near"})) as stage:
        stage.until(lambda: pop_of(stage) == {"fra"})
        with stage.hold(SESSIONS) as held, ExitStack() as undone:
            assert {name.partition("-")[0] for name in held.report()["by_backend"]} == {"fra"}
            with stage.all_stay(held, may_stray=("fra-b2",)):
                shifting.shift(stage.lab, CLIENT, "par")
                undone.enter_context(added(stage, "fra-b4", "fra"))
                undone.enter_context(removed(stage, "fra-b2"))
                shifting.shift(stage.lab, CLIENT, "ams")
            said(report, f"three PoPs, {policy}", held)
            held.finish()
