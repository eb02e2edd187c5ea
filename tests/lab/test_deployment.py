# SPDX-License-Identifier: Apache-2.0
"""docs/operate/deployment.md carried out: its files and commands, on machines of their own.

The steps stand in the order of the guide, and each goes on where the one before it ended; a test of
one that is run alone goes through those before it first. What the guide shows as the answer to a
command is compared with what the command says here. At the end no block and no command of the guide
may be left that was neither carried out nor is listed below.

`make test` goes as far as a shift; `make soak` goes on.
"""

import re
import socket
from collections.abc import Iterator

import pytest

from limpet.lab import namespace
from limpet.lab.topology import Role

from . import symptoms, upkeep
from .deployment import CLIENT, STORES, VIP, VISITOR, WAIT_S, Deployment, Step, deployed
from .guide import shape
from .journey import IS_WHOLE
from .symptoms import SYMPTOMS
from .upkeep import STEPS as UPKEEP

pytestmark = pytest.mark.lab

SESSIONS = 100
FIRST = "First start"
METRIC = re.compile(r"limpet_\w+")
# Not carried out -> why.
LEFT_OUT = {
    "systemctl enable nftables": "there is no systemd here, and no boot",
    "limpet lab up two-pop": "test_two_pop.py has that lab",
    "limpet lab shift client2 par": "likewise",
}
# Beside what only `make soak` does in whole sections.
ONLY_WHOLE = {"protocol static aggregate {"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as site:
        yield site


def keys_are_where_they_belong_and_only_there(site: Deployment) -> None:
    site.make_keys()
    site.hand_out_all()
    for director in site.of(Role.DIRECTOR):
        folder = site[director].path("/etc/limpet")
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        secret = dict.fromkeys(("cluster.key", "bgp", "nats.pem", "nats.key"), 0o600)
        assert modes == secret | {"nats-ca.pem": 0o644}


def firewalls_are_loaded(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        site.write_director(director)


# --- First start --------------------------------------------------------------------------------


def stores_find_a_leader(site: Deployment) -> None:
    """By their logs: one leads, and the others know it."""
    site.start_stores()
    leads = site.guide.snippet(FIRST, "Self is new")
    follows = site.guide.snippet(FIRST, "JetStream cluster new")

    def is_agreed() -> bool:
        logs = [site[store].log.read_text() for store in STORES]
        knows = [leads in log or follows in log for log in logs]
        return all(knows) and any(leads in log for log in logs)

    site.until(is_agreed)


def agents_attach_both_programs(site: Deployment) -> None:
    site.start_backends(*site.of(Role.BACKEND))
    said = site["fra-b1"].run(site.guide.command(FIRST, "limpet agent show"))
    assert "XDP native" in said
    assert "tc egress" in said


def routers_wait_for_their_directors(site: Deployment) -> None:
    for pop in ("fra", "par"):
        site.start_router(pop)
    row = next(
        line
        for line in site["fra-r"].run(site.guide.command(FIRST, "birdc show")).splitlines()
        if line.startswith("fra_d1 ")
    )
    assert row.split()[-1] in ("Active", "Connect")


def directors_start_without_anything_to_serve(site: Deployment) -> None:
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


def the_document_is_in_effect_everywhere(site: Deployment) -> None:
    site.shared = site.guide.block("The shared document")
    site.share("fra-d1")
    dry = site["fra-d1"].run(site.guide.command(FIRST, "limpet apply shared.toml --dry"))
    apply, *shown = site.guide.exchanges(FIRST)
    assert shape(dry) == shape(apply.said)[:-1]
    assert apply.command == site.guide.command(FIRST, "limpet apply shared.toml")
    assert shape(site["fra-d1"].run(apply.command)) == shape(apply.said)
    for exchange in shown:
        site.says("fra-d1", exchange)


def every_director_reaches_every_backend_and_hears_its_answers(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        command = site.guide.command(FIRST, "limpet health")
        site.ask(director, command, lambda said: site.healthy(said) == site.of(Role.BACKEND))
        assert " up " in site[director].run(site.guide.command(FIRST, "limpet show"))


def clients_are_served(site: Deployment) -> None:
    site.at("fra")
    page = site.on(CLIENT, site.guide.command(FIRST, "curl"))
    assert page.strip() in site.stage.servers
    assert set(site.newcomers()) == set(site.stage.servers)


# --- A test shift -------------------------------------------------------------------------------


def a_shift_breaks_no_session(site: Deployment) -> None:
    section = "A test shift"
    away, back = site.guide.block(section, "birdc disable").splitlines()
    (where,) = site.guide.exchanges(section, "limpet where")
    with site.hold(1, VISITOR) as one, site.hold(SESSIONS) as held:
        site.says("fra-d1", where)
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


def metrics_to_watch_are_there(site: Deployment) -> None:
    """To be read on the backbone, through the director's firewall."""
    named = {name for cell in site.guide.rows("What to watch") for name in METRIC.findall(cell)}
    assert len(named) > 5
    said = site.metrics("fra-d1")
    assert not [name for name in named if not re.search(rf"^{name}[ {{]", said, re.M)]


def nobody_outside_speaks_as_a_director(site: Deployment) -> None:
    """What comes from the internet with the address of one gets no further than the border."""
    site.on("tr1", "ip addr add 100.64.0.1/32 dev lo")
    backend = str(site.topology.interface4(site.topology.find("fra-b1")).ip)
    heard = []
    with namespace.inside(f"{site.lab}-fra-b1"), socket.socket(type=socket.SOCK_DGRAM) as there:
        there.bind((backend, 0))
        there.settimeout(WAIT_S)
        for source in ("100.64.0.1", "0.0.0.0"):
            with namespace.inside(f"{site.lab}-tr1"), socket.socket(type=socket.SOCK_DGRAM) as own:
                own.bind((source, 0))
                own.sendto(source.encode(), there.getsockname())
        heard.append(there.recv(100).decode())
    assert heard == ["0.0.0.0"]


# --- All of it ----------------------------------------------------------------------------------

STEPS: tuple[Step, ...] = (
    keys_are_where_they_belong_and_only_there,
    firewalls_are_loaded,
    stores_find_a_leader,
    agents_attach_both_programs,
    routers_wait_for_their_directors,
    directors_start_without_anything_to_serve,
    the_document_is_in_effect_everywhere,
    every_director_reaches_every_backend_and_hears_its_answers,
    clients_are_served,
    a_shift_breaks_no_session,
    metrics_to_watch_are_there,
    nobody_outside_speaks_as_a_director,
    *(UPKEEP if IS_WHOLE else ()),
    *(SYMPTOMS.values() if IS_WHOLE else [*SYMPTOMS.values()][:1]),
)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_the_guide_can_be_carried_out(site: Deployment, step: Step) -> None:
    site.reach(step, STEPS)


def test_every_symptom_is_made_once(site: Deployment) -> None:
    rows = site.guide.rows(symptoms.SECTION)
    made = {row: [begin for begin in SYMPTOMS if row.startswith(begin)] for row in rows}
    assert len(made) == len(SYMPTOMS)
    assert all(len(begins) == 1 for begins in made.values()), made


def test_nothing_of_the_guide_is_left_out(site: Deployment) -> None:
    """Neither a block nor a command."""
    site.reach(STEPS[-1], STEPS)
    later = () if IS_WHOLE else (upkeep.SECTION, upkeep.THIRD, symptoms.SECTION)
    left = site.guide.left(*later) - (set() if IS_WHOLE else ONLY_WHOLE)
    assert left == set(LEFT_OUT), "carried out or gone, or neither carried out nor in the list"
