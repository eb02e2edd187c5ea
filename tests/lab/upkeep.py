# SPDX-License-Identifier: Apache-2.0
"""What the deployment guide says of the time after the first start, as steps under live sessions.

Maintenance of a PoP, of a director, of the software; a third PoP; the MTU of the backbone. Each is
done with sessions open, none of which may break, and leaves two PoPs that serve; the third stays.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from limpet.lab import namespace, programs, state
from limpet.lab.sessions import HeldSessions
from limpet.lab.topology import Role

from . import wheel
from .deployment import CLIENT, POPS, PORT, VIP, Deployment
from .differences import OFFLINE_PIP
from .guide import differing

SESSIONS = 100
DRAIN_S = 60  # of [bgp]
SECTION, THIRD = "Maintenance", "A third PoP"
NEWER_WHEEL = "'./limpet-0.1.1-py3-none-any.whl[cluster]'"
BULK = 50_000  # bytes of a request: dozens of full packets
SILENCE_S = 8.0  # a connection that gets nothing through for so long hangs


@contextmanager
def unbroken(site: Deployment) -> Iterator[HeldSessions]:
    with site.hold(SESSIONS) as held, site.stage.all_stay(held):
        yield held


# --- Maintenance --------------------------------------------------------------------------------


def a_pop_is_drained(site: Deployment) -> None:
    drain, undrain = site.guide.exchanges(SECTION)
    with unbroken(site) as held:
        site.says("fra-d1", drain)
        assert site.entry() == "par"
        held.settle()
        a_backend_is_drained(site)
        site.says("fra-d1", undrain)
        site.at("fra")


def a_backend_is_drained(site: Deployment) -> None:
    """It waits for its sessions, which do not end here; so it is taken back."""
    command = site.guide.command(SECTION, "limpet backend drain").split()
    waiting = site["fra-d1"].spawn(*command)
    backend = command[3]

    def is_draining() -> bool:
        rows = site.api("fra-d1").get("/v1/drains")
        return [row["backend"] for row in rows if row["sessions"]] == [backend]

    site.until(is_draining)
    assert backend not in site.newcomers()
    assert waiting.poll() is None
    site["fra-d1"].run(f"limpet backend undrain {backend}")
    assert waiting.wait(60) == 8


def a_director_is_replaced(site: Deployment) -> None:
    """By a machine of its name that knows nothing."""
    drain, _ = site.guide.exchanges(SECTION)
    with unbroken(site) as held:
        site["fra-d1"].run(drain.command)
        site.at("par")
        site["fra-d1"].run(site.guide.command(SECTION, "limpet down"))
        site["fra-d1"].close()
        held.settle()
        site.set_up("fra-d1")
        site.hand_out_director("fra-d1")
        site.write_director("fra-d1")
        site["fra-d1"].run(site.guide.command("Firewall", "nft -f"))
        assert site.guide.command(SECTION, "systemctl start").endswith(" limpet")
        site.start_director("fra-d1")
        all_alike(site, "fra-d1")
        site["fra-d1"].run(site.guide.command(SECTION, "limpet pop undrain"))
        site.at("fra")


def all_alike(site: Deployment, asked: str, number: int = 2) -> None:
    """Each director at the same revision, generation and digest, with lag 0 and no complaint."""
    row = re.compile(r"-d1(?: \(leads\))? +(\d+) +(\d+) +([0-9a-f]{16}) +0 ")

    def alike(said: str) -> bool:
        found = row.findall(said)
        return len(found) == number and len(set(found)) == 1 and "!" not in said

    site.ask(asked, site.guide.command(SECTION, "limpet pop list"), alike)


def a_newer_version_takes_over(site: Deployment) -> None:
    """On each director and on a backend, and back again."""
    newer = site.folder / "newer"
    files = wheel.newer_tree(site.folder / "tree")
    built = wheel.build(files, site.guide, newer)
    (older,) = (site.folder / "wheel").glob("*.whl")
    with unbroken(site) as held:
        programs = {d: site.api(d).get("/v1/status")["program"] for d in site.of(Role.DIRECTOR)}
        for path, version, is_other in ((built, "0.1.1", True), (older, "0.1.0", False)):
            for director in site.of(Role.DIRECTOR):
                upgrade(site, director, path)
                assert version in site[director].run("limpet version")
                all_alike(site, director)
                running = site.api(director).get("/v1/status")["program"]
                assert (running != programs[director]) == is_other
            upgrade(site, "fra-b1", path, "limpet-agent")
            held.settle()


def upgrade(site: Deployment, machine: str, path: Path, unit: str = "limpet") -> None:
    command = site.guide.command(SECTION, "/opt/limpet/bin/pip install")
    changes = {"/opt/limpet/bin/pip install": OFFLINE_PIP, NEWER_WHEEL: str(path)}
    site[machine].run(differing(command, changes))
    assert site.guide.command(SECTION, f"systemctl restart {unit}").endswith(f" {unit}")
    site[machine].restart(unit)


# --- Aggregates ---------------------------------------------------------------------------------


def the_internet_takes_no_host_routes(site: Deployment) -> None:
    """Border routers announce the covering prefix as long as they have the VIP."""
    added, outbound = site.guide.block("Border routers", "protocol static"), "filter outbound {"
    drain, undrain = site.guide.exchanges(SECTION)
    changes = {"export filter outbound": "export filter to_internet", outbound: added + outbound}
    routers = [f"{pop}-r" for pop in POPS]
    with unbroken(site):
        with ExitStack() as changed:
            for router in routers:
                changed.enter_context(site.rewritten(router, "/etc/bird/bird.conf", changes))
                site.configure(router)
            site.until(lambda: not site.on("isp2", f"ip route show {VIP}/32"))
            site.at("fra")
            begun = time.monotonic()
            site["fra-d1"].run(drain.command)
            assert time.monotonic() - begun > DRAIN_S / 2  # nobody out there was asked to go
            site.at("par")
            site["fra-d1"].run(undrain.command)
            site.at("fra")
        for router in routers:
            site.configure(router)
        site.until(lambda: bool(site.on("isp2", f"ip route show {VIP}/32")))


# --- A third PoP --------------------------------------------------------------------------------


def a_third_pop_joins(site: Deployment) -> None:
    backends = site.of(Role.BACKEND, "ams")
    site.set_up("ams-r", "ams-d1", *backends)
    more_keys(site)
    with unbroken(site) as held:
        for director in site.of(Role.DIRECTOR):
            let_in(site, director)
        site.start_backends(*backends)
        site.start_router("ams")
        site["ams-r"].run(site.guide.command(THIRD, "birdc disable"))
        site.write_director("ams-d1")
        let_in(site, "ams-d1")
        site.start_director("ams-d1")
        all_alike(site, "ams-d1", 3)
        site.shared = document(site.shared)
        site.share("ams-d1")
        said = site["ams-d1"].run(site.guide.command(THIRD, "limpet apply shared.toml --dry"))
        assert "slots" in said
        site["ams-d1"].run(site.guide.command(THIRD, "limpet apply shared.toml"))
        all_alike(site, "fra-d1", 3)
        everybody = {*site.of(Role.BACKEND), *backends}
        for director in (*site.of(Role.DIRECTOR), "ams-d1"):
            health = site.guide.command(THIRD, "limpet health")
            site.ask(director, health, lambda said: set(site.healthy(said)) == everybody)
        site["ams-r"].run(site.guide.command(THIRD, "birdc enable"))
        held.settle()
        prefer(site, "ams")
        held.settle()
        assert set(site.newcomers()) == everybody
        prefer(site, "fra")


def more_keys(site: Deployment) -> None:
    text = site.guide.block("Keys", "openssl rand")
    function = re.search(r"^one\(\) \{.*?^\}\n", text, re.M | re.S)
    assert function
    site.shell(function[0] + site.guide.block(THIRD, "openssl rand"))
    site.hand_out_director("ams-d1")


def let_in(site: Deployment, director: str) -> None:
    rules = site[director].path("/etc/nftables.conf")
    rules.write_text(differing(rules.read_text(), {"10.250.20.2 }": "10.250.20.2, 10.250.30.2 }"}))
    site[director].run(site.guide.command("Firewall", "nft -f"))


def document(text: str) -> str:
    """The shared document with the third PoP in it."""
    changes = {
        "costs = { par = 10 }": "costs = { par = 10, ams = 10 }",
        "costs = { fra = 10 }": "costs = { fra = 10, ams = 10 }",
        "par-b3 = 1 }": "par-b3 = 1, ams-b1 = 1, ams-b2 = 1, ams-b3 = 1 }",
    }
    added = '\n[[pop]]\nname = "ams"\ncosts = { fra = 10, par = 10 }\n'
    for number in (1, 2, 3):
        named = f'name = "ams-b{number}"\naddress = "10.250.30.1{number}"\npop = "ams"\n'
        added += f"[[backend]]\n{named}"
    return differing(text, changes) + added


def prefer(site: Deployment, pop: str) -> None:
    """The provider of the clients prefers another way: BGP, far from here."""
    now = state.read(site.lab)
    router = now.topology.find("isp2").model_copy(update={"prefers": pop})
    programs.prefer(site.lab, now.topology, router)
    site.at(pop)


# --- MTU ----------------------------------------------------------------------------------------


def large_packets_fit(site: Deployment) -> None:
    """With 1600 as they are; with 1500 because agents announce less; with neither they hang."""
    ends = [*site.of(Role.DIRECTOR), *site.of(Role.BACKEND)]
    for mtu in (1600, 1500):
        for name in ends:
            site[name].run(f"ip link set eth1 mtu {mtu}")
        for backend in site.of(Role.BACKEND):
            site[backend].reload("limpet-agent")
        show, mss = site.guide.command("First start", "limpet agent show"), f"MSS {mtu - 80},"
        site.ask("fra-b1", show, re.compile(mss).search)
        with unbroken(site):
            site.until(partial(gets_through, site))
    for name in ends:
        site[name].run("ip link set eth1 mtu 1600")
    for backend in site.of(Role.BACKEND):
        site[backend].reload("limpet-agent")


def gets_through(site: Deployment) -> bool:
    """A client's long request, and the answer that is as long."""
    with namespace.inside(f"{site.lab}-{CLIENT}"):
        client = socket.create_connection((VIP, PORT), SILENCE_S)
    with client:
        try:
            client.sendall(b"x" * BULK + b"\n")
            return len(client.makefile().readline()) > BULK
        except TimeoutError:
            return False


STEPS: tuple[Callable[[Deployment], None], ...] = (
    a_pop_is_drained,
    a_director_is_replaced,
    a_newer_version_takes_over,
    the_internet_takes_no_host_routes,
    large_packets_fit,
    a_third_pop_joins,
)
