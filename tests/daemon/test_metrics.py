# SPDX-License-Identifier: Apache-2.0
"""Metrics: what Prometheus gets from a running daemon, and what the documentation says of it."""

import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.site import WAIT_S, Site
from limpet.datapath.abi import MEANINGS
from limpet.lab import namespace
from limpet.metrics.members import CLUSTER_RESULTS

pytestmark = pytest.mark.kernel
LISTEN = "127.0.0.1:9464"
DOCUMENT = Path(__file__).parents[2] / "docs/operate/metrics.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(site: Site) -> str:
    url = f"http://{LISTEN}/metrics"
    with namespace.inside(site.netns), urllib.request.urlopen(url, timeout=WAIT_S) as response:
        return str(response.read().decode())


@pytest.fixture
def metered(site: Site) -> Site:
    site.file.write_text(site.file.read_text() + f'\n[metrics]\nlisten = "{LISTEN}"\n')
    site.start()
    return site


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(v for (n, own), v in found.items() if n == name and labels.items() <= set(own))


def scraped(site: Site, *are_so: Callable[[Samples], bool]) -> Samples:
    """The first scrape of which all this is so; or the last, for the test to see what is not."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = samples(scrape(site))
        if all(is_so(found) for is_so in are_so) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_a_scrape_counts_what_was_forwarded(metered: Site) -> None:
    metered.forwarded(range(20_000, 20_030))
    found = scraped(
        metered,
        # Counters are sampled, and who is there is counted, a moment later each.
        lambda found: total(found, "limpet_backend_packets_total") == 30,
        lambda found: total(found, "limpet_backend_flows", state="active") == 30,
        lambda found: total(found, "limpet_backend_sessions") == 1,
    )
    assert total(found, "limpet_verdicts_total", verdict="redirect") == 30
    assert total(found, "limpet_rungs_total", rung="home_new") == 1
    assert total(found, "limpet_rungs_total", rung="session_new") == 29
    assert total(found, "limpet_events_total", event="flow_created") == 30
    assert total(found, "limpet_packets_total", vip="web4") == 30
    assert total(found, "limpet_backend_packets_total") == 30
    assert total(found, "limpet_backend_flows", state="active") == 30
    assert (
        total(found, "limpet_flows", state="datagram")
        + total(found, "limpet_flows", state="opening")
        == 30
    )
    assert total(found, "limpet_vip_sessions", vip="web4") == 1  # affinity `client`
    assert total(found, "limpet_sessions_created_total", vip="web4") == 1
    assert total(found, "limpet_backend_sessions") == 1
    assert total(found, "limpet_backend_sessions_created_total") == 1
    assert total(found, "limpet_backend_slots", pool="web") == 65_536
    assert total(found, "limpet_backend_effective_weight", pool="web") == 2
    assert total(found, "limpet_sweeps_total", result="failed") == 0
    assert total(found, "limpet_revision") == 0
    assert total(found, "limpet_attached", interface="eth0", mode="native") == 1
    assert total(found, "limpet_reconcile_passes_total", result="done") >= 1


def test_a_drain_is_seen_from_its_begin_to_its_end(metered: Site) -> None:
    metered.forwarded(range(20_000, 20_010))
    metered.wait_for(lambda: any(row["sessions"] for row in metered.get("/v1/backends")))
    (home,) = {row["name"] for row in metered.get("/v1/backends") if row["sessions"]}
    metered.drain(home, deadline_s=600)
    metered.wait_for(lambda: metered.drains()[home]["leaving_per_s"] is not None)
    found = samples(scrape(metered))
    assert total(found, "limpet_drain", backend=home, state="draining") == 1
    assert total(found, "limpet_drain_sessions", backend=home) == 1
    assert total(found, "limpet_drain_flows", backend=home) == 10
    assert 0 < total(found, "limpet_drain_end_seconds", backend=home) <= 600
    assert total(found, "limpet_backend_effective_weight", backend=home) == 0
    assert total(found, "limpet_backend_weight", backend=home) == 1
    assert total(found, "limpet_revision") == 1
    metered.drain(home, deadline_s=0.1)
    metered.wait_for(lambda: metered.drains()[home]["state"] == "drained")
    assert total(samples(scrape(metered)), "limpet_drain", state="drained") == 1


def test_every_series_says_which_director(metered: Site) -> None:
    for _, labels in samples(scrape(metered)):
        assert {("director", metered.name), ("pop", "fra")} <= labels


def test_counters_carry_their_severity(metered: Site) -> None:
    found = samples(scrape(metered))
    for section, name in (("verdict", "limpet_verdicts"), ("rung", "limpet_rungs")):
        for label, (_, severity) in MEANINGS[section].items():
            wanted = {section: label.lower(), "severity": severity}
            assert [k for k in found if k[0] == f"{name}_total" and wanted.items() <= set(k[1])]


def test_the_listener_follows_the_file(metered: Site) -> None:
    metered.edit(LISTEN, "127.0.0.1:9465")
    metered.cli("reload")
    with namespace.inside(metered.netns):
        with urllib.request.urlopen("http://127.0.0.1:9465/metrics", timeout=WAIT_S) as response:
            assert response.status == 200
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=WAIT_S)


def test_a_port_that_is_taken_does_not_stop_forwarding(site: Site) -> None:
    with namespace.inside(site.netns):
        taken = socket.create_server(("127.0.0.1", 9464))
    with taken:
        site.file.write_text(site.file.read_text() + f'\n[metrics]\nlisten = "{LISTEN}"\n')
        site.start()
        assert len(site.forwarded(range(20_000, 20_010))) == 10
        assert "Address already in use" in site.get("/v1/status")["file_error"]


def test_the_document_lists_every_metric_and_meaning(metered: Site) -> None:
    """docs/operate/metrics.md against a real scrape, both ways."""
    families = [
        family
        for family in text_string_to_metric_families(scrape(metered))
        if family.name.startswith("limpet_")
    ]
    document = DOCUMENT.read_text()
    rows = [line.split("|")[1:-1] for line in document.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row] for row in rows]
    listed = {row[0].strip("`"): row for row in cells if row[0].startswith("`limpet_")}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        wanted = ", ".join(sorted(labels - {"director", "pop"}))
        kind, labelled = listed.pop(name)[1:3]
        assert kind == family.type
        assert labelled == wanted or not family.samples  # no drain, no check: no series
    assert listed == {}
    others = [[row[0].strip("`"), *row[1:]] for row in cells if not row[0].startswith("`limpet_")]
    results, meant = others[: len(CLUSTER_RESULTS)], others[len(CLUSTER_RESULTS) :]
    assert [row[0] for row in results] == list(CLUSTER_RESULTS)
    assert {row[2] for row in results} <= {"normal", "watch", "alarm"}
    assert meant == [
        [name.lower(), text, severity]
        for section in ("verdict", "rung", "event", "outbound")
        for name, (text, severity) in MEANINGS[section].items()
    ]
