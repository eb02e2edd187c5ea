# SPDX-License-Identifier: Apache-2.0
"""Sessions and sources of a running director, as the API lists them."""

import json
from typing import Any

import pytest

from daemon.site import VIP4, VIP6, Site
from limpet.core.errors import NotFound

pytestmark = pytest.mark.kernel


def sessions(site: Site, **query: object) -> list[dict[str, Any]]:
    total, *rows = [json.loads(line) for line in site.api.lines("/v1/sessions", **query)]
    assert total["total"] >= len(rows)
    return rows


def established(site: Site, ports: range, vip: str = VIP4) -> dict[int, str]:
    """Two packets of each flow, so that it counts as open."""
    site.forwarded(ports, vip)
    return site.forwarded(ports, vip)


def test_a_session_is_a_client_or_its_prefix(site: Site) -> None:
    site.start()
    seen = established(site, range(20_000, 20_005))
    (home,) = set(seen.values())
    established(site, range(20_000, 20_002), VIP6)
    (four,) = sessions(site, vip="web4")
    assert (four["client"], four["ports"], four["backend"]) == ("10.1.0.2", "", home)
    assert (four["flows"], four["life"]) == (5, "live")
    (six,) = sessions(site, vip=VIP6)
    assert six["client"].endswith("/64")
    assert six["flows"] == 2
    assert len(sessions(site)) == 2
    (same,) = sessions(site, client="10.1.0.2")
    assert same | {"idle_s": 0, "since_s": 0} == four | {"idle_s": 0, "since_s": 0}
    assert sessions(site, client="10.1.0.3") == []
    assert len(sessions(site, limit=1)) == 1
    with pytest.raises(NotFound, match="VIPs: web4, web6"):
        sessions(site, vip="db")


def test_a_session_of_port_ranges_says_which(site: Site) -> None:
    text = site.file.read_text().replace(
        'pool = "web"\n', 'pool = "web"\naffinity = "client+ports"\nport_ranges = 4096\n'
    )
    site.file.write_text(text)
    site.start()
    seen = established(site, range(16_000, 16_008)) | established(site, range(16_016, 16_020))
    rows = {row["ports"]: row for row in sessions(site)}
    assert {ports: row["flows"] for ports, row in rows.items()} == {
        "16000-16015": 8,
        "16016-16031": 4,
    }
    assert rows["16000-16015"]["backend"] == seen[16_000]
    asked = site.get("/v1/where", client="10.1.0.2", vip="web4", client_port=16_020)
    assert asked["rung"] == "session_new"
    assert [row["ports"] for row in asked["sessions"]] == ["16016-16031"]
    assert asked["backend"] == seen[16_016]


def test_the_heaviest_sources_come_first(site: Site) -> None:
    site.start()
    established(site, range(20_000, 20_030))
    established(site, range(20_000, 20_010), VIP6)
    first, second = site.get("/v1/sources")
    assert (first["client"], first["vip"], first["flows"]) == ("10.1.0.2", "web4", 30)
    assert (second["vip"], second["flows"], second["sessions"]) == ("web6", 10, 1)
    assert first["share_percent"] == 100
    assert not first["is_split"]
    assert site.get("/v1/sources", limit=1) == [first]
    assert site.get("/v1/sources", vip="web6") == [second]


def test_a_client_that_is_split_is_shown_with_the_reason(site: Site) -> None:
    site.file.write_text("[mega_proxy]\nflows = 20\nport_ranges = 4096\n\n" + site.file.read_text())
    site.start()
    (home,) = set(established(site, range(20_000, 20_025)).values())
    spread = established(site, range(30_000, 30_400))
    assert set(spread.values()) == {"b1", "b2"}
    assert set(established(site, range(20_000, 20_020)).values()) == {home}
    (source,) = site.get("/v1/sources", vip="web4")
    assert source["is_split"]
    assert source["why"] == "split from 20 flows on"
    assert source["sessions"] > 10

    def told() -> list[dict[str, Any]]:
        return [e for e in site.api.events(0, follow=False) if e["kind"] == "split"]

    site.wait_for(told)
    assert [(e["client"], e["vip"]) for e in told()] == [("10.1.0.2", "web4")]
