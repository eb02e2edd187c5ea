# SPDX-License-Identifier: Apache-2.0
"""The commands while no daemon runs."""

import pytest

from daemon.site import Site

pytestmark = pytest.mark.kernel


def test_plan_without_a_daemon_uses_what_it_left(site: Site) -> None:
    process = site.start()
    process.kill()
    process.wait()
    state = ("--state", str(site.places.state))
    assert site.cli("plan", str(site.file), *state) == "nothing changes\n"
    site.edit("b2 = 1 }", "b2 = 3 }")
    assert "16384  b1 -> b2" in site.cli("plan", str(site.file), *state)


def test_plan_of_a_first_start_is_all_new(site: Site) -> None:
    text = site.cli("plan", str(site.file), "--state", str(site.places.state))
    assert text.splitlines()[:2] == ["+ VIP web4", "+ VIP web6"]
    assert not site.places.pins.exists()


def test_without_a_daemon_it_says_what_that_means(site: Site) -> None:
    error = site.cli("show", status=6)
    assert "no daemon answers at" in error
    assert "Start the daemon: systemctl start limpet" in error


def test_down_of_nothing_is_fine(site: Site) -> None:
    assert "had nothing in the kernel" in site.cli("down", site.name)
