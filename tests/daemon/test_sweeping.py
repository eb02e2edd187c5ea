# SPDX-License-Identifier: Apache-2.0
"""The sweeper of a running director, and thresholds of mega-proxies that follow a share."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.site import Site
from limpet.core.config import parse
from limpet.core.model import MegaProxy
from limpet.daemon.sweeping import SHARE_FLOWS_MIN, STEP, thresholds

PORTS = range(20_000, 20_050)
KEEPS = parse(
    """
[director]
name = "d1"
interfaces = ["eth0"]

[[backend]]
name = "b1"
address = "10.10.0.11"

[[pool]]
name = "web"
backends = { b1 = 1 }

[[vip]]
name = "web4"
address = "192.0.2.10"
protocol = "tcp"
port = 80
pool = "web"

[[vip]]
name = "each"
address = "192.0.2.11"
protocol = "tcp"
port = 80
pool = "web"
affinity = "flow"
"""
)
VIP = KEEPS.vips[0]
KEY = (VIP.address, VIP.protocol, VIP.port)


@pytest.mark.kernel
def test_expired_entries_free_their_places_without_traffic(site: Site) -> None:
    long = "[director.timeouts]\nudp_s = 600\n"
    site.file.write_text(site.file.read_text().replace("[[backend]]", f"{long}\n[[backend]]", 1))
    site.start()
    for _ in range(2):
        site.send(PORTS)
    site.wait_for(lambda: site.get("/v1/status")["flows"]["live"] == len(PORTS))
    assert site.get("/v1/status")["sessions"]["live"] == 1
    site.edit(long, long.replace("600", "1"))  # now they expire
    site.api.post("/v1/reload")
    site.wait_for(lambda: site.get("/v1/status")["flows"]["used"] == 0)

    def swept() -> tuple[int, int]:
        found = site.get("/v1/status")["sweeper"]
        return found["flows_expired"], found["sessions_expired"]

    site.wait_for(lambda: swept() == (len(PORTS), 1))
    site.wait_for(lambda: site.get("/v1/status")["sessions"]["live"] == 0)
    assert all(backend["sessions"] == 0 for backend in site.get("/v1/backends"))


@given(st.integers(0, 1_000_000), st.floats(0.1, 100), st.integers(0, 5_000))
def test_a_threshold_is_the_share_or_the_number_whichever_is_less(
    flows: int, share: float, number: int
) -> None:
    desired = replace(KEEPS, mega_proxy=MegaProxy(flows=number, share=share))
    (found,) = thresholds(desired, {KEY: flows}, {}).values()
    wanted = max(SHARE_FLOWS_MIN, round(flows * share / 100))
    assert found == (min(wanted, number) if number else wanted)


def test_a_threshold_moves_in_steps_and_only_where_clients_are_split() -> None:
    desired = replace(KEEPS, mega_proxy=MegaProxy(flows=0, share=10))
    at = thresholds(desired, {KEY: 10_000}, {})
    assert at == {KEY: 1_000}
    assert thresholds(desired, {KEY: int(10_000 * STEP) - 100}, at) == at
    assert thresholds(desired, {KEY: int(10_000 * STEP) + 100}, at) == {KEY: 1_260}
