# SPDX-License-Identifier: Apache-2.0
"""A real director and a real router: what is announced, with what, when it goes and comes back."""

import os
import re
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
QUIET_S = 3  # without a packet, after which a route that is leaving goes
TRIES_MAX = 3
NS = 1e9
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
    router.wait(lambda: is_empty(router))
    why = "no eligible backend is in reach for web4 (pool web)"
    site.wait_for(lambda: why in routes(site)[VIP4]["why"])  # said when the step has ended
    site.api.delete("/v1/backends/b1/drain")
    router.wait(lambda: has_all(router))


def test_drained_pop_asks_routers_first_and_then_withdraws(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    site.api.put("/v1/pops/fra/drain", {})

    def are_leaving() -> bool:
        for vip in (VIP4, VIP6):  # which is sent to does not go yet
            site.send(range(20_000, 20_001), vip)
        heard = {each.communities for each in router.routes().values()}
        said = {row["state"] for row in routes(site).values()}
        return (heard, said) == ({"(65535,0)"}, {"leaving"})

    router.wait(are_leaving)
    assert has_all(router)
    router.wait(lambda: is_empty(router))  # nobody sends anything
    # What is shown is what the pass that withdrew it leaves behind when it ends.
    router.wait(lambda: routes(site)[VIP4]["state"] == "withdrawn")
    assert routes(site)[VIP4]["why"].startswith("the PoP is drained")
    found = site.cli_json("pop", "drain", "fra", "--wait")
    assert {row["state"] for row in found["routes"]} == {"withdrawn"}
    site.cli("pop", "undrain", "fra")
    router.wait(lambda: has_all(router))
    assert router.routes()[f"{VIP4}/32"].communities == ""


def test_route_that_leaves_stays_while_packets_come_until_its_time_is_up(
    site: Site, router: Router
) -> None:
    configure(site, drain_s=9)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    lasted_s = 0.0
    for _ in range(TRIES_MAX):
        lasted_s, pause_s = leave(site, router)
        if pause_s < QUIET_S / 2:
            break
        site.api.delete("/v1/pops/fra/drain")  # this machine stood still, and nobody sent
        router.wait(lambda: has_all(router))
    assert lasted_s >= 9  # the other address, to which nobody sends, goes sooner


def leave(site: Site, router: Router) -> tuple[float, float]:
    """The PoP is drained, and somebody sends to one address: (seconds until its route has gone,
    the longest in which nothing was sent)."""
    began = sent = time.monotonic()
    pause_s, found, is_first = 0.0, set(ROUTES), False
    site.api.put("/v1/pops/fra/drain", {})
    while f"{VIP4}/32" in found:
        site.send(range(20_000, 20_001))
        sent, before = time.monotonic(), sent
        pause_s = max(pause_s, sent - before)
        assert sent - began < 60
        time.sleep(0.2)
        found = set(router.routes())
        is_first |= found == {f"{VIP4}/32"}
    assert is_first, "the other address goes sooner"
    return time.monotonic() - began, pause_s


def test_drain_of_an_unknown_pop_is_refused(site: Site) -> None:
    site.start()
    assert "there is no PoP 'par'; PoPs: fra" in site.cli("pop", "drain", "par", status=3)
    assert "PoP 'fra' is not drained" in site.cli("pop", "undrain", "fra", status=4)


def test_killed_bird_is_started_again_and_routes_are_back(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    old, before = speaker(site).report(), router.ask("show protocols")
    os.kill(old.bird_pid, signal.SIGKILL)
    # Routes go with their session, if only for a moment; since when there is one is kept.
    router.wait(lambda: router.ask("show protocols") != before)
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
    site.wait_for(lambda: speaker(site).owner() not in (None, old.pid))
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
    sign = speaker(site).sign()
    assert sign is not None
    router.wait(lambda: not has_all(router))
    assert time.monotonic() > sign.count / NS + sign.hold_s  # it is numbered by its time
    router.wait(lambda: is_empty(router))
    assert speaker(site).report().withdrawals == 1
    site.start()
    router.wait(lambda: has_all(router))
    assert speaker(site).report().pid == held.pid  # it was the same one all the time
    site.wait_for(lambda: not speaker(site).report().is_withdrawn)


def protocols(router: Router) -> tuple[str, list[float]]:
    """What the router says of them, and when each came up, in seconds of the day. BIRD works that
    out anew each time, and differs by a millisecond now and then."""
    said = router.ask("show protocols")
    times = re.findall(r"(\d+):(\d+):([\d.]+)", said)
    seconds = [3_600 * int(h) + 60 * int(m) + float(s) for h, m, s in times]
    return re.sub(r"[\d:]+\.\d+", "", said), seconds


def test_daemon_that_comes_back_interrupts_no_route(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    before, came_up = protocols(router)
    bird = speaker(site).report().bird_pid
    site.kill()
    site.start()
    site.wait_for(lambda: len(told(site)) == 2)
    after, still_up = protocols(router)
    assert after == before
    assert still_up == pytest.approx(came_up, abs=0.5)
    assert speaker(site).report().bird_pid == bird


def test_going_down_withdraws_and_leaves_nothing(site: Site, router: Router) -> None:
    configure(site)
    router.start()
    site.start()
    router.wait(lambda: has_all(router))
    held = speaker(site).report()
    site.cli("down", site.name)
    router.wait(lambda: is_empty(router))
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
    router.wait(lambda: is_empty(router))
    site.wait_for(lambda: speaker(site).owner() is None)
    site.wait_for(lambda: "routers are told nothing" in site.cli("routes"))


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

    site.wait_for(lambda: peer() and "the passwords here and on the router" in peer()["error"])
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
    router.wait(lambda: is_empty(router))
    site.wait_for(lambda: site.get("/v1/routes")["error"])
    error = site.get("/v1/routes")["error"]
    assert "is open to others (mode 0644)" in error
    assert f"chmod 600 {secret}" in error
