# SPDX-License-Identifier: Apache-2.0
"""A real director and a real router: what is announced, with what, when it goes and comes back."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from announce.router import Router
from daemon.site import VIP4, VIP6, Site
from limpet.announce.folder import Folder

pytestmark = [pytest.mark.kernel, pytest.mark.lab]
ROUTES = {f"{VIP4}/32", f"{VIP6}/128"}
BGP = """
[bgp]
speaker = "bird"
asn = 64501
router_id = "10.10.0.2"
hold_s = {hold_s}
drain_s = {drain_s}

[[bgp.peer]]
name = "r4"
address = "{router4}"
asn = 64500
bfd = true
{extra}

[[bgp.peer]]
name = "r6"
address = "{router6}"
asn = 64500
"""
ROUTE = """
[vip.route]
communities = ["64501:100", "64501:200"]
med = 50
prepend = 2
"""


def configure(
    site: Site, *, hold_s: int = 600, drain_s: int = 60, extra: str = "", route: str = ""
) -> None:
    """Attributes are those of the IPv6 VIP, the last of the file."""
    segment = site.topology.segment_of(site.topology.find("fra-d1"))
    router4, router6 = segment.interface4(1).ip, segment.interface6(1).ip
    text = BGP.format(hold_s=hold_s, drain_s=drain_s, router4=router4, router6=router6, extra=extra)
    site.file.write_text(site.file.read_text() + route + text)


def routes(site: Site) -> dict[str, Any]:
    return {row["address"]: row for row in site.get("/v1/routes")["routes"]}


def told(site: Site) -> dict[str, Any]:
    """Who is told of what, as the director has read it back."""
    return {address: row["told"] for address, row in routes(site).items() if row["told"]}


def has_all(router: Router) -> bool:
    return router.routes().keys() == ROUTES


def is_empty(router: Router) -> bool:
    return not router.routes()


def speaker(site: Site) -> Folder:
    return Folder(site.places.speaker)


def test_what_can_be_served_is_announced_with_its_attributes(site: Site, router: Router) -> None:
    configure(site, route=ROUTE)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    found = router.routes()[f"{VIP6}/128"]
    assert found.communities == "(64501,100) (64501,200)"
    assert found.med == "50"
    assert found.path == "64501 64501 64501"
    plain = router.routes()[f"{VIP4}/32"]
    assert (plain.communities, plain.med, plain.path) == ("", "", "64501")
    assert plain.via == str(site.topology.interface4(site.topology.find("fra-d1")).ip)
    site.wait_for(lambda: len(told(site)) == 2)
    assert told(site)[VIP6] == [
        {"to": "r6", "communities": ["64501:100", "64501:200"], "med": 50, "path": [64501, 64501]}
    ]
    assert "Established" in site.cli("routes")


def test_address_goes_with_its_last_eligible_backend_and_comes_back(
    site: Site, router: Router
) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    for name in ("b1", "b2"):
        site.drain(name)
    router.wait(lambda: is_empty(router), wait_s=5)
    assert "no eligible backend is in reach for web4 (pool web)" in routes(site)[VIP4]["why"]
    site.api.delete("/v1/backends/b1/drain")
    router.wait(lambda: has_all(router), wait_s=5)


def test_drained_pop_asks_routers_first_and_then_withdraws(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    site.cli("pop", "drain", "fra")
    router.wait(lambda: router.routes()[f"{VIP4}/32"].communities == "(65535,0)", wait_s=3)
    assert has_all(router)
    assert routes(site)[VIP4]["state"] == "leaving"
    router.wait(lambda: is_empty(router), wait_s=8)  # nobody sends anything
    # What is shown is what the pass that withdrew it leaves behind when it ends.
    router.wait(lambda: routes(site)[VIP4]["state"] == "withdrawn", wait_s=5)
    assert routes(site)[VIP4]["why"].startswith("the PoP is drained")
    found = site.cli_json("pop", "drain", "fra", "--wait")
    assert {row["state"] for row in found["routes"]} == {"withdrawn"}
    site.cli("pop", "undrain", "fra")
    router.wait(lambda: has_all(router), wait_s=5)
    assert router.routes()[f"{VIP4}/32"].communities == ""


def test_route_that_leaves_stays_while_packets_come_until_its_time_is_up(
    site: Site, router: Router
) -> None:
    configure(site, drain_s=9)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    began = time.monotonic()
    site.cli("pop", "drain", "fra")
    port = 20_000
    while f"{VIP4}/32" in router.routes():
        site.send(range(port, port + 1))
        port += 1
        time.sleep(0.2)
        assert time.monotonic() - began < 15
    lasted_s = time.monotonic() - began
    assert lasted_s > 8  # the other address, to which nobody sends, goes sooner
    assert f"{VIP6}/128" not in router.routes()


def test_drain_of_an_unknown_pop_is_refused(site: Site) -> None:
    site.start()
    assert "there is no PoP 'par'; PoPs: fra" in site.cli("pop", "drain", "par", status=3)
    assert "PoP 'fra' is not drained" in site.cli("pop", "undrain", "fra", status=4)


def test_killed_bird_is_started_again_and_routes_are_back(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    old = speaker(site).report()
    os.kill(old.bird_pid, signal.SIGKILL)
    router.wait(lambda: is_empty(router), wait_s=5)
    router.wait(lambda: has_all(router))
    site.wait_for(lambda: site.get("/v1/routes")["bird_restarts"] == 1)
    new = speaker(site).report()
    assert new.bird_pid != old.bird_pid
    assert new.pid == old.pid


def test_killed_speaker_takes_its_bird_along_and_another_comes(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    old = speaker(site).report()
    os.kill(old.pid, signal.SIGKILL)
    site.wait_for(lambda: not Path(f"/proc/{old.bird_pid}/exe").exists())
    site.wait_for(lambda: speaker(site).owner() not in (None, old.pid), wait_s=10)
    router.wait(lambda: has_all(router))


def test_routes_stay_without_a_daemon_and_go_when_the_hold_is_over(
    site: Site, router: Router
) -> None:
    configure(site, hold_s=4)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    held = speaker(site).report()
    site.kill()
    time.sleep(2)
    assert has_all(router)
    router.wait(lambda: is_empty(router), wait_s=8)
    assert speaker(site).report().withdrawals == 1
    site.start()
    router.wait(lambda: has_all(router))
    assert speaker(site).report().pid == held.pid  # it was the same one all the time
    site.wait_for(lambda: not speaker(site).report().is_withdrawn)


def test_daemon_that_comes_back_interrupts_no_route(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    before = router.ask("show protocols")
    bird = speaker(site).report().bird_pid
    site.kill()
    site.start()
    site.wait_for(lambda: len(told(site)) == 2)
    assert router.ask("show protocols") == before  # with the time at which each came up
    assert speaker(site).report().bird_pid == bird


def test_going_down_withdraws_and_leaves_nothing(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    held = speaker(site).report()
    site.cli("down", site.name)
    assert is_empty(router)
    assert not speaker(site).path.exists()
    assert not Path(f"/proc/{held.pid}/exe").exists()
    assert not Path(f"/proc/{held.bird_pid}/exe").exists()


def test_reload_without_bgp_ends_the_speaker(site: Site, router: Router) -> None:
    text = site.file.read_text()
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    site.file.write_text(text)
    site.api.post("/v1/reload")
    router.wait(lambda: is_empty(router), wait_s=5)
    site.wait_for(lambda: speaker(site).owner() is None)
    assert "routers are told nothing" in site.cli("routes")


def test_password_has_to_be_the_same_and_a_wrong_one_is_said(
    site: Site, router: Router, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("salt\n")
    secret.chmod(0o600)
    configure(site, extra=f'password_file = "{secret}"')
    router.start(password="pepper")
    site.start()

    def peer() -> Any:
        return next((p for p in site.get("/v1/routes")["peers"] if p["name"] == "r4"), None)

    site.wait_for(lambda: peer() and "the passwords here and on the router" in peer()["error"], 15)
    assert not peer()["is_up"]
    router.stop()
    router.start(password="salt")
    router.wait(lambda: f"{VIP4}/32" in router.routes())
    site.wait_for(lambda: peer()["is_up"] and not peer()["error"])


def test_password_that_others_may_read_is_refused_and_the_rest_goes_on(
    site: Site, router: Router, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("salt\n")
    secret.chmod(0o600)
    configure(site, extra=f'password_file = "{secret}"')
    router.start(password="salt")
    site.start()
    router.wait(lambda: has_all(router))
    secret.chmod(0o644)
    for name in ("b1", "b2"):  # a route that has to go goes all the same
        site.drain(name)
    router.wait(lambda: is_empty(router), wait_s=5)
    error = site.get("/v1/routes")["error"]
    assert "is open to others (mode 0644)" in error
    assert f"chmod 600 {secret}" in error
