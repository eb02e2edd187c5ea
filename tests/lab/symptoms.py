# SPDX-License-Identifier: Apache-2.0
"""The last table of the deployment guide: each fault is made, its symptom seen, and it is mended.

A fault is looked for where the table says. Where sessions are to outlive it, they are held. Every
fault leaves the site as it was.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial

from limpet.lab.sessions import AckFlood, short_connections
from limpet.lab.topology import Role

from .deployment import CLIENT, PORT, STORES, VIP, Deployment
from .guide import differing
from .upkeep import gets_through, unbroken

SECTION = "What goes wrong most likely"
FEW = 24  # connections: some to backends of every PoP
FAR = '{ "par-b1", "par-b2", "par-b3" }'
CUT = f'iifname "fra-d1" oifname {FAR} ip protocol 4 drop'
STATEFUL = "ct state invalid drop"
DEAF = "udp dport 7117 drop"
SILENT = re.compile(r'^limpet_ownership_now\{.*"silent_peers"\} [1-9]', re.M)
NARROW = "meta length > 1500 drop"


# --- Faults -------------------------------------------------------------------------------------


@contextlib.contextmanager
def ruled(site: Deployment, host: str, family: str, hook: str, rule: str) -> Iterator[None]:
    """A rule of a firewall somewhere, which nobody has told the operator of."""
    chain = f"chain c {{\n type filter hook {hook} priority -10; {rule}\n}}"
    site.on(host, f"nft 'table {family} fault {{\n{chain}\n}}'")
    try:
        yield
    finally:
        site.on(host, f"nft delete table {family} fault")


def health(site: Deployment, director: str, down: set[str]) -> None:
    """These are down there, and no others."""
    command = site.guide.command("First start", "limpet health")
    site.ask(director, command, lambda said: set(re.findall(r"(\S+-b\d) +down", said)) == down)


def everything_up(site: Deployment) -> None:
    for director in site.of(Role.DIRECTOR):
        health(site, director, set())


# --- Symptoms -----------------------------------------------------------------------------------


def far_backends_are_down(site: Deployment) -> None:
    """Encapsulated packets of one director do not pass the backbone."""
    with ruled(site, "backbone", "bridge", "forward", CUT):
        health(site, "fra-d1", set(site.of(Role.BACKEND, "par")))
        health(site, "par-d1", set())
        metrics = site.metrics("fra-d1")
        assert re.search(r'^limpet_health_up\{.*"par-b1".*\} 0', metrics, re.M)
    everything_up(site)


def long_requests_hang(site: Deployment) -> None:
    """The backbone carries less than its ends believe. Clients may know better from before."""
    site.on(CLIENT, "ip route flush cache")
    assert gets_through(site)
    with ruled(site, "backbone", "bridge", "forward", NARROW):
        assert site.newcomers()
        assert not gets_through(site)
    assert gets_through(site)


def connections_hang(site: Deployment) -> None:
    """A firewall on the way out has not seen the SYN, which came in by the other PoP."""
    with ruled(site, "par-r", "inet", "forward", STATEFUL):
        skip = site.stage.fresh(FEW)
        found = short_connections(site.lab, CLIENT, FEW, PORT, [VIP], skip=skip)
        assert found["failed"]
        assert not [name for name in found["by_backend"] if name.startswith("par-")]
        show = site["fra-d1"].run(site.guide.command(SECTION, "limpet show"))
        assert re.search(r"par-b\d .* active +up .* [1-9]\d*( +\S+){3}$", show, re.M), show
    assert [name for name in site.newcomers() if name.startswith("par-")]


def questions_are_refused(site: Deployment) -> None:
    """Who has another key is not believed, and nobody answers who hears nothing."""
    key = site["par-d1"].path("/etc/limpet/cluster.key")
    right = key.read_bytes()
    key.write_bytes(bytes(32))
    site["par-d1"].restart("limpet")
    # Slots move, and so there is something to ask.
    site["fra-d1"].run("limpet backend weight fra-b1 3")
    with AckFlood(site.lab, CLIENT, VIP, PORT):
        site.until(lambda: refused(site, "par-d1") > 0)
    key.write_bytes(right)
    site["par-d1"].restart("limpet")
    with ruled(site, "par-d1", "inet", "input", DEAF), AckFlood(site.lab, CLIENT, VIP, PORT):
        site.until(lambda: bool(SILENT.search(site.metrics("fra-d1"))))
    site["fra-d1"].run("limpet backend weight fra-b1 --reset")


def refused(site: Deployment, director: str) -> float:
    """Questions of others that it does not believe."""
    counter = re.compile(r'^limpet_ownership_total\{.*"refused_forged".*\} (\S+)', re.M)
    return sum(map(float, counter.findall(site.metrics(director))))


def peer_stays_active(site: Deployment) -> None:
    """The passwords differ. Clients go to the other PoP meanwhile, and their sessions with them."""
    password = (site.keys / "bgp-fra").read_text().strip()
    with unbroken(site):
        with site.rewritten("fra-r", "/etc/bird/bird.conf", {password: "another"}):
            site.configure("fra-r")
            routes = site.guide.command("First start", "limpet routes")
            said = site.ask("fra-d1", routes, lambda said: "passwords" in said)
            assert re.search(r"fra-r .* (Active|Connect|OpenSent)", said), said
            site.at("par")
        site.configure("fra-r")
        site.at("fra")


def router_filters(site: Deployment) -> None:
    """All is well for limpet, and no client comes."""
    with unbroken(site):
        changes = {"192.0.2.0/24{32,32}": "198.51.100.0/24"}
        with site.rewritten("fra-r", "/etc/bird/bird.conf", changes):
            site.configure("fra-r")
            site.at("par")
            show = site.guide.command(SECTION, "birdc show route")
            assert VIP not in site["fra-r"].run(show)
            said = site["fra-d1"].run(site.guide.command("First start", "limpet routes"))
            assert "Established" in said
            assert "announced" in said
        site.configure("fra-r")
        site.at("fra")
        assert VIP in site["fra-r"].run(show)


def tables_in_the_wrong_file(site: Deployment) -> None:
    said = site["fra-d1"].run("limpet apply /etc/limpet/limpet.toml", status=2)
    assert site.guide.snippet(SECTION, "does not belong here") in said
    site.share("fra-d1")
    for verb in ("check", "plan"):
        command = site.guide.command(SECTION, f"limpet {verb}")
        for file in ("/etc/limpet/limpet.toml", "shared.toml"):
            site["fra-d1"].run(f"{command} {file}")


def store_is_away(site: Deployment) -> None:
    """Two of three. Packets go on, changes wait."""
    apply, before = site.guide.command("First start", "limpet apply shared.toml"), site.shared
    site.shared = differing(before, {"fra-b1 = 1": "fra-b1 = 2"})
    site.share("fra-d1")
    with unbroken(site) as held:
        with stopped(site, *STORES[1:]):
            said = site["fra-d1"].run(apply, status=10)
            texts = ("the store cannot be reached", "Are most of the NATS servers up")
            assert any(site.guide.snippet(SECTION, text) in said for text in texts), said
            held.settle()
        site.until(partial(is_applied, site, apply))
        site.shared = before
        site.share("fra-d1")
        site["fra-d1"].run(apply)


@contextlib.contextmanager
def stopped(site: Deployment, *stores: str) -> Iterator[None]:
    for store in stores:
        site.stop_store(store)
    try:
        yield
    finally:
        for store in stores:
            site.start_store(store)


def is_applied(site: Deployment, apply: str) -> bool:
    with contextlib.suppress(AssertionError):
        site["fra-d1"].run(apply)
        return True
    return False


def director_is_silent(site: Deployment) -> None:
    listed = site.guide.command("First start", "limpet pop list")
    silent = site.guide.snippet(SECTION, "not reachable")
    with unbroken(site) as held:
        site["par-d1"].stop("limpet")
        site.ask("fra-d1", listed, lambda said: silent in said)
        held.settle()
        site.start_director("par-d1")
        site.ask("fra-d1", listed, lambda said: silent not in said)


# Beginning of the row -> what makes it so.
SYMPTOMS: dict[str, Callable[[Deployment], None]] = {
    "a table `does not belong here`": tables_in_the_wrong_file,
    "backends of the other PoP are down": far_backends_are_down,
    "all up, but clients' connections hang": long_requests_hang,
    "connections hang at once": connections_hang,
    "sessions break on a shift": questions_are_refused,
    "peer in `Active` for long": peer_stays_active,
    "peer `Established`, route announced": router_filters,
    "exit status 10": store_is_away,
    "`not reachable` in `limpet pop list`": director_is_silent,
}
