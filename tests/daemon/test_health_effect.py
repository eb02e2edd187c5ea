# SPDX-License-Identifier: Apache-2.0
"""What follows from health in a running director: tables, sessions, fail-open, restarts."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from daemon.site import Site
from limpet.lab import namespace

pytestmark = pytest.mark.kernel
PORT, HOLD_S = 9_000, 2
HEALTH = """
[pool.health]
kind = "tcp"
path = "direct"
port = 9000
interval_s = 0.3
timeout_s = 0.3
rise = 2
fall = 3
"""


class Server:
    """A listener on each backend, which a test can take away and put back."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._open: dict[str, socket.socket] = {}

    def up(self, *names: str) -> None:
        for name in names:
            with namespace.inside(f"{self._site.lab}-{name}"):
                self._open[name] = socket.create_server(("", PORT))

    def down(self, *names: str) -> None:
        for name in names:
            self._open.pop(name).close()

    def close(self) -> None:
        self.down(*self._open)


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    """Both backends answer; the pool checks them."""
    checked(site, "")
    made = Server(site)
    with contextlib.closing(made):
        made.up("b1", "b2")
        yield made


def checked(site: Site, keys: str) -> None:
    """Let the pool check its backends; `keys` are of the pool."""
    text = site.file.read_text().replace(HEALTH, "")
    text = text.replace("b2 = 1 }\n", f"b2 = 1 }}\n{keys}{HEALTH}", 1)
    site.file.write_text(text)


def verdicts(site: Site) -> dict[str, int]:
    return {c["name"]: c["value"] for c in site.get("/v1/counters")["verdicts"]}


def health(site: Site) -> dict[str, bool]:
    return {row["backend"]: row["is_up"] for row in site.get("/v1/health")}


def test_a_backend_that_falls_gets_no_new_sessions_until_it_is_up_again(
    site: Site, server: Server
) -> None:
    site.start()
    assert site.shares() == {"b1": 50, "b2": 50}
    server.down("b1")
    site.wait_for(lambda: site.shares() == {"b1": 0, "b2": 100})
    row = next(b for b in site.get("/v1/backends") if b["name"] == "b1")
    assert (row["intent"], row["health"]) == ("active", "down")
    assert row["why_no_new_sessions"][0].startswith("down: ")
    server.up("b1")
    site.wait_for(lambda: site.shares() == {"b1": 50, "b2": 50})
    told = [e for e in site.api.events(0, follow=False) if e["kind"] == "health_changed"]
    assert [(e["pool"], e["backend"], e["is_up"]) for e in told] == [
        ("web", "b1", False),
        ("web", "b1", True),
    ]


def test_sessions_of_a_backend_that_fell_leave_it_with_their_next_flow(
    site: Site, server: Server
) -> None:
    site.start()
    (home,) = set(site.forwarded(range(20_000, 20_002)).values())
    other = {"b1": "b2", "b2": "b1"}[home]
    server.down(home)
    site.wait_for(lambda: site.shares()[home] == 0)
    assert set(site.forwarded(range(20_000, 20_002)).values()) == {home}  # flows are held
    assert set(site.forwarded(range(21_000, 21_002)).values()) == {other}


def test_after_the_hold_rehash_takes_open_flows_elsewhere(site: Site, server: Server) -> None:
    checked(site, f'hold_s = {HOLD_S}\non_down = "rehash"\n')
    site.start()
    (home,) = set(site.forwarded(range(20_000, 20_002)).values())
    other = {"b1": "b2", "b2": "b1"}[home]
    fell = time.monotonic()
    server.down(home)
    seen = [home]

    def has_left() -> bool:
        seen.extend(site.forwarded(range(20_000, 20_001)).values())
        return seen[-1] == other

    site.wait_for(has_left)
    assert time.monotonic() - fell > HOLD_S  # it was held so long at least
    assert set(seen[:-1]) == {home}
    assert set(site.forwarded(range(20_000, 20_002)).values()) == {other}


@pytest.mark.parametrize("fails_open", [True, False])
def test_with_every_backend_down_the_pool_says_what_happens(
    site: Site, server: Server, fails_open: bool
) -> None:
    checked(site, f"fail_open = {str(fails_open).lower()}\n")
    site.start()
    server.down("b1", "b2")
    site.wait_for(lambda: not any(health(site).values()))
    if fails_open:
        site.wait_for(lambda: site.shares() == {"b1": 50, "b2": 50})
        assert len(site.forwarded(range(20_000, 20_010))) == 10
    else:
        site.wait_for(lambda: site.shares() == {"b1": 0, "b2": 0})
        with site.ears() as ears:
            site.send(range(20_000, 20_002))
            site.wait_for(lambda: verdicts(site)["drop_no_backend"] == 2)
            assert ears.hear(1, 0) == {}


def test_a_backend_that_was_down_is_down_after_a_restart(site: Site, server: Server) -> None:
    """Until checks say otherwise: nobody is sent there in the first seconds."""
    site.start()
    server.down("b1")
    site.wait_for(lambda: site.shares()["b1"] == 0)
    site.kill()
    site.start()
    assert site.shares() == {"b1": 0, "b2": 100}
    assert health(site) == {"b1": False, "b2": True}
    server.up("b1")
    site.wait_for(lambda: site.shares() == {"b1": 50, "b2": 50})


def test_a_check_that_a_reload_takes_away_counts_no_more(site: Site, server: Server) -> None:
    site.start()
    server.down("b1")
    site.wait_for(lambda: site.shares()["b1"] == 0)
    site.edit(HEALTH, "")
    site.cli("reload")
    site.wait_for(lambda: site.shares() == {"b1": 50, "b2": 50})
    assert site.get("/v1/health") == []
    row = next(b for b in site.get("/v1/backends") if b["name"] == "b1")
    assert row["health"] == "unchecked"
