# SPDX-License-Identifier: Apache-2.0
"""docs/operate/deployment.md carried out: its files and commands, on machines of their own.

The tests stand in the order of the guide, and each goes on where the one before it ended. What the
guide shows as the answer to a command is compared with what the command says here. At the end no
block and no command of the guide may be left that was neither carried out nor is listed below.

`make test` goes as far as a shift; `make soak` goes on.
"""

import re
from collections.abc import Iterator

import pytest

from limpet.lab import sessions
from limpet.lab.topology import Role

from .conftest import Report
from .deployment import CLIENT, PORT, STORES, VIP, VISITOR, Deployment, deployed
from .guide import Exchange, shape
from .journey import IS_WHOLE
from .machine import HOME

pytestmark = pytest.mark.lab

SESSIONS = 100
FIRST = "First start"
# Not carried out -> why.
LEFT_OUT = {
    "limpet lab up two-pop": "test_two_pop.py has that lab",
    "limpet lab shift client2 par": "likewise",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as site:
        yield site


def says(site: Deployment, machine: str, exchange: Exchange) -> None:
    """What the guide shows, but for figures; in time, since others have to have heard of it."""
    site.ask(machine, exchange.command, lambda said: shape(said) == shape(exchange.said))


def test_keys_are_where_they_belong_and_only_there(site: Deployment) -> None:
    site.make_keys()
    site.hand_out_all()
    for director in site.of(Role.DIRECTOR):
        folder = site[director].path("/etc/limpet")
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        secret = dict.fromkeys(("cluster.key", "bgp", "nats.pem", "nats.key"), 0o600)
        assert modes == secret | {"nats-ca.pem": 0o644}


def test_firewalls_are_loaded(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        site.write_director(director)
        site[director].run(site.guide.command("Firewall", "nft -f"))


def test_backends_know_the_way_back_to_directors(site: Deployment) -> None:
    lines = site.guide.block("Addresses").splitlines()
    for backend in site.of(Role.BACKEND):
        (own,) = [line for line in lines if line.endswith(f"in {site.pop_of(backend)}")]
        site[backend].run(own)


# --- First start --------------------------------------------------------------------------------


def test_stores_find_a_leader(site: Deployment) -> None:
    """By their logs: one leads, and the others know it."""
    site.start_stores()
    leads = site.guide.snippet(FIRST, "Self is new")
    follows = site.guide.snippet(FIRST, "JetStream cluster new")

    def is_agreed() -> bool:
        logs = [site[store].log.read_text() for store in STORES]
        knows = [leads in log or follows in log for log in logs]
        return all(knows) and any(leads in log for log in logs)

    site.until(is_agreed)


def test_agents_attach_both_programs(site: Deployment) -> None:
    site.start_backends(*site.of(Role.BACKEND))
    said = site["fra-b1"].run(site.guide.command(FIRST, "limpet agent show"))
    assert "XDP native" in said
    assert "tc egress" in said


def test_routers_wait_for_their_directors(site: Deployment) -> None:
    for pop in ("fra", "par"):
        site.start_router(pop)
    row = next(
        line
        for line in site["fra-r"].run(site.guide.command(FIRST, "birdc show")).splitlines()
        if line.startswith("fra_d1 ")
    )
    assert row.split()[-1] in ("Active", "Connect")


def test_directors_start_without_anything_to_serve(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        said = site[director].run(site.guide.command(FIRST, "limpet check"))
        assert site.guide.snippet(FIRST, "good. ") in said
    for director in site.of(Role.DIRECTOR):
        site.start_director(director)
    command = site.guide.command(FIRST, "limpet pop list")
    nobody = re.compile(r"-d1.* 0 +0 +0 +[0-9.]+ s ago")
    for director in site.of(Role.DIRECTOR):
        site.ask(director, command, lambda said: len(nobody.findall(said)) == 2)
        routes = site.guide.command(FIRST, "limpet routes")
        assert VIP not in site.ask(director, routes, lambda said: "Established" in said)


def test_the_document_is_in_effect_everywhere(site: Deployment) -> None:
    site["fra-d1"].write(f"{HOME}/shared.toml", site.guide.block("The shared document"))
    dry = site["fra-d1"].run(site.guide.command(FIRST, "limpet apply shared.toml --dry"))
    apply, *shown = site.guide.exchanges(FIRST)
    assert shape(dry) == shape(apply.said)[:-1]
    assert apply.command == site.guide.command(FIRST, "limpet apply shared.toml")
    assert shape(site["fra-d1"].run(apply.command)) == shape(apply.said)
    for exchange in shown:
        says(site, "fra-d1", exchange)


def test_every_director_reaches_every_backend_and_hears_its_answers(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        command = site.guide.command(FIRST, "limpet health")
        site.ask(director, command, lambda said: up_by(said) == site.of(Role.BACKEND))


def up_by(said: str) -> list[str]:
    rows = [line.split() for line in said.splitlines()]
    return [backend for row in rows for backend in row if "-b" in backend and "up" in row]


def test_clients_are_served(site: Deployment) -> None:
    site.at("fra")
    page = site.outside(site.guide.command(FIRST, "curl"))
    assert page.strip() in site.stage.servers
    found = sessions.short_connections(
        site.lab, CLIENT, SESSIONS, PORT, [VIP], skip=site.stage.fresh(SESSIONS)
    )
    assert found["failed"] == {}
    assert set(found["by_backend"]) == set(site.stage.servers)


# --- A test shift -------------------------------------------------------------------------------


def test_a_shift_breaks_no_session(site: Deployment, report: Report) -> None:
    section = "A test shift"
    away, back = site.guide.block(section, "birdc disable").splitlines()
    (where,) = site.guide.exchanges(section, "limpet where")
    with site.hold(1, VISITOR) as one, site.hold(SESSIONS) as held:
        says(site, "fra-d1", where)
        (row,) = one.report()["rows"]
        with site.stage.all_stay(held):
            site["fra-r"].run(away)
            site.at("par")
            held.settle()
        assert one.settle()["broken"] == []
        said = site["par-d1"].run(site.guide.command(section, "limpet where"))
        assert row["backend"] in said.splitlines()[0]
        assert "orphan" not in site["par-d1"].run(site.guide.command(section, "limpet show"))
        with site.stage.all_stay(held):
            site["fra-r"].run(back)
            site.at("fra")
            held.settle()
        assert one.settle()["broken"] == []
        report(f"shift: {held.report()['alive']} of {SESSIONS} live")


# --- All of it ----------------------------------------------------------------------------------


def test_nothing_of_the_guide_is_left_out(site: Deployment) -> None:
    """Only after all tests above."""
    left = site.guide.left()
    assert set(LEFT_OUT) <= left, "listed, but carried out or not in the guide"
    if IS_WHOLE:
        assert left - set(LEFT_OUT) == set()
