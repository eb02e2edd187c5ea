# SPDX-License-Identifier: Apache-2.0
"""`where` says what the data plane then does."""

from typing import Any

import pytest

from daemon.site import Site

pytestmark = pytest.mark.kernel
CLIENT = "10.1.0.2"


def policy(site: Site, name: str, affinity: str) -> None:
    text = site.file.read_text().replace(
        'pool = "web"\n', f'pool = "web"\naffinity = "{affinity}"\n'
    )
    site.file.write_text(text.replace("[[pool]]\n", f'[[pool]]\npolicy = "{name}"\n', 1))


def asked(site: Site, port: int) -> Any:
    return site.get(
        "/v1/where", client=CLIENT, vip="web4", client_port=port, vip_port=7, protocol="udp"
    )


def test_the_freest_is_foretold_as_it_will_be_chosen(site: Site) -> None:
    policy(site, "least-sessions", "flow")
    site.start()
    site.api.put("/v1/pools/web/backends/b1/weight", {"weight": 3})
    for port in range(20_000, 20_024):
        said = asked(site, port)
        assert said["rung"] == "freest"
        assert site.forwarded(range(port, port + 1)) == {port: said["backend"]}
        assert asked(site, port)["rung"] == "table"

    def there() -> dict[str, int]:
        return {row["name"]: row["sessions"] for row in site.get("/v1/backends")}

    site.wait_for(lambda: sum(there().values()) == 24)  # they are not counted for every question
    assert there() == {"b1": 18, "b2": 6}


def test_a_turn_is_not_foretold(site: Site) -> None:
    policy(site, "round-robin", "flow")
    site.start()
    said = asked(site, 20_000)
    assert (said["rung"], said["backend"]) == ("round_robin", None)
    seen = site.forwarded(range(20_000, 20_020))
    assert sorted(seen.values()) == ["b1"] * 10 + ["b2"] * 10


def test_the_home_is_foretold_by_the_hash_of_the_data_plane(site: Site) -> None:
    policy(site, "hash", "flow")
    site.start()
    ports = range(20_000, 20_030)
    foretold = {port: asked(site, port)["backend"] for port in ports}
    assert {asked(site, port)["rung"] for port in ports} == {"home_new"}
    assert site.forwarded(ports) == foretold


def test_a_session_that_will_leave_its_backend_says_so_and_why(site: Site) -> None:
    site.start()
    (home,) = set(site.forwarded(range(20_000, 20_002)).values())
    other = {"b1": "b2", "b2": "b1"}[home]
    site.drain(home, rule="flows")
    said = asked(site, 30_000)
    assert (said["rung"], said["backend"]) == ("home_new", other)
    assert said["why"].startswith(f"the client's session leaves {home} (draining since")
    assert site.forwarded(range(30_000, 30_001)) == {30_000: other}
