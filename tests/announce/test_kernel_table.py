# SPDX-License-Identifier: Apache-2.0
"""Speaker "kernel": routes in a table, and the operator's BIRD that tells a router of them.

BIRD's configuration is that of docs/operate/bgp.md, word for word.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from announce.router import Router
from daemon.site import VIP4, VIP6, Site
from limpet.announce.folder import Folder
from limpet.lab import namespace

pytestmark = [pytest.mark.kernel, pytest.mark.lab]
DOCUMENT = Path(__file__).parents[2] / "docs" / "operate" / "bgp.md"
NS = 1e9
BGP = """
[bgp]
speaker = "kernel"
hold_s = {hold_s}
"""


def table(site: Site, number: int = 117) -> set[str]:
    """What `ip route` shows there, in words that matter."""
    with namespace.inside(site.netns):
        found = [
            subprocess.run(
                ["ip", family, "route", "show", "table", str(number)],
                capture_output=True,
                text=True,
            ).stdout
            for family in ("-4", "-6")
        ]
    return set(re.findall(r"blackhole (\S+)", "\n".join(found)))


@pytest.fixture
def operators(site: Site, tmp_path: Path) -> Iterator[Path]:
    """The BIRD of an operator on the director's machine, as documented. Its control socket."""
    text = next(
        block
        for block in re.findall(r"^```\w*\n(.*?)^```$", DOCUMENT.read_text(), re.S | re.M)
        if "kernel table 117" in block
    )
    segment = site.topology.segment_of(site.topology.find("fra-d1"))
    for shown, real in (
        ("10.10.0.1 ", f"{segment.interface4(1).ip} "),
        ("2001:db8:a::1 ", f"{segment.interface6(1).ip} "),
    ):
        assert shown in text
        text = text.replace(shown, real)
    config, control = tmp_path / "operator.conf", tmp_path / "operator.ctl"
    config.write_text(text)
    argv = ["/usr/sbin/bird", "-f", "-c", str(config), "-s", str(control)]
    with namespace.inside(site.netns):
        process = subprocess.Popen(argv)
    try:
        yield control
    finally:
        process.kill()
        process.wait()


def test_routes_in_the_table_reach_a_router_by_the_operators_bird(
    site: Site, router: Router, operators: Path
) -> None:
    site.file.write_text(site.file.read_text() + BGP.format(hold_s=600))
    router.start()
    site.start()
    site.wait_for(lambda: table(site) == {VIP4, VIP6})
    router.wait(lambda: router.routes().keys() == {f"{VIP4}/32", f"{VIP6}/128"})
    assert "table 117" in site.cli("routes")
    site.api.put("/v1/pops/fra/drain", {})

    def is_leaving() -> bool:
        site.send(range(20_000, 20_001))  # which is sent to does not go yet
        return router.routes()[f"{VIP4}/32"].communities == "(65535,0)"

    router.wait(is_leaving)
    site.wait_for(lambda: table(site) == set())
    router.wait(lambda: not router.routes())


def test_routes_leave_the_table_when_the_daemon_stays_away(site: Site) -> None:
    site.file.write_text(site.file.read_text() + BGP.format(hold_s=3))
    site.start()
    site.wait_for(lambda: table(site) == {VIP4, VIP6})
    site.kill()
    sign = Folder(site.places.speaker).sign()
    assert sign is not None
    site.wait_for(lambda: table(site) != {VIP4, VIP6})
    assert time.monotonic() > sign.count / NS + sign.hold_s  # it is numbered by its time
    site.wait_for(lambda: table(site) == set())


def test_another_table_is_left_and_routes_of_others_are_not_touched(site: Site) -> None:
    with namespace.inside(site.netns):
        command = "ip route add blackhole 198.51.100.1/32 table 117"
        subprocess.run(command.split(), check=True)
    site.file.write_text(site.file.read_text() + BGP.format(hold_s=600))
    site.start()
    site.wait_for(lambda: table(site) == {VIP4, VIP6, "198.51.100.1"})
    site.edit("hold_s = 600", "hold_s = 600\ntable = 118")
    site.api.post("/v1/reload")
    site.wait_for(lambda: table(site, 118) == {VIP4, VIP6})
    assert table(site) == {"198.51.100.1"}
    site.cli("down", site.name)
    assert table(site, 118) == set()
    assert not Folder(site.places.speaker).path.exists()
    with namespace.inside(site.netns):
        subprocess.run(command.replace("add", "del").split(), check=True)
