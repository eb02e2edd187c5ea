# SPDX-License-Identifier: Apache-2.0
"""The life of the daemon: start, reload, death, restart, end; packets flow through all of it."""

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.site import READY_S, SILENCE_S, VIP6, WAIT_S, Site

pytestmark = pytest.mark.kernel
PORTS = range(20_000, 20_040)


def image(site: Site) -> Any:
    """All that a reload could change."""
    vips = [{k: v[k] for k in ("name", "id", "pool", "address")} for v in site.get("/v1/vips")]
    backends = [(b["name"], b["id"], b["state"], b["pools"]) for b in site.get("/v1/backends")]
    return vips, site.get("/v1/pools"), backends, site.get("/v1/status")["program"]


def by_flow(site: Site) -> None:
    """Let every flow pick its own backend, so that one client reaches all."""
    text = site.file.read_text().replace('pool = "web"\n', 'pool = "web"\naffinity = "flow"\n')
    site.file.write_text(text)


def test_it_forwards_when_it_is_ready(site: Site) -> None:
    by_flow(site)
    site.start()
    assert set(site.forwarded(PORTS).values()) == {"b1", "b2"}
    assert len(site.forwarded(PORTS, VIP6)) == len(PORTS)
    counters = {c["name"]: c["value"] for c in site.get("/v1/counters")["verdicts"]}
    assert counters["redirect"] == 2 * len(PORTS)
    assert counters["via_kernel"] == 0


def test_a_new_backend_leaves_live_flows_where_they_are(site: Site) -> None:
    by_flow(site)
    site.start()
    before = site.forwarded(PORTS)
    site.add_third()
    answer = site.cli_json("reload")
    assert answer["backends"]["added"] == ["b3"]
    assert answer["moves"][0]["slots_moved"] in (21_845, 21_846)
    assert site.forwarded(PORTS) == before
    fresh = site.forwarded(range(30_000, 30_040))
    assert set(fresh.values()) == {"b1", "b2", "b3"}


def test_a_removed_backend_lingers_for_its_flows(site: Site) -> None:
    by_flow(site)
    site.start()
    before = site.forwarded(PORTS)
    site.edit("b1 = 1, b2 = 1", "b1 = 1")
    site.edit('[[backend]]\nname = "b2"\naddress = "10.10.0.12"\n', "")
    site.cli("reload")
    states = {b["name"]: b["state"] for b in site.get("/v1/backends")}
    assert states == {"b1": "active", "b2": "lingering"}
    assert site.forwarded(PORTS) == before
    assert set(site.forwarded(range(30_000, 30_040)).values()) == {"b1"}


BAD = {
    "not TOML": ("[director]", "[director", 2, "limpet.toml:2"),
    "an unknown backend": ("b2 = 1 }", "b2 = 1, b9 = 1 }", 2, "there is no backend 'b9'"),
    "another name": ("-d", "-e", 4, "director.name cannot change"),
    "another flows_max": ("4096", "65536", 4, "director.flows_max cannot change"),
    "no such interface": ('"eth0"', '"eth9"', 4, "there is no eth9; this machine has lo, eth0"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_changes_nothing(site: Site, kind: str) -> None:
    old, new, status, says = BAD[kind]
    site.start()
    held = image(site)
    if kind == "another name":
        old, new = f'"{site.name}"', '"other"'
    site.edit(old, new)
    error = site.cli("reload", status=status)
    assert says in error
    assert image(site) == held
    assert site.get("/v1/status")["file_error"]
    assert says in site.says()
    assert len(site.forwarded(PORTS)) == len(PORTS)


def test_sighup_reloads_and_survives_a_bad_file(site: Site) -> None:
    process = site.start()
    good = site.file.read_text()
    site.file.write_text(good + "rubbish")
    process.send_signal(signal.SIGHUP)
    site.wait_for(lambda: site.get("/v1/status")["file_error"])
    site.file.write_text(good)
    site.add_third()
    process.send_signal(signal.SIGHUP)
    site.wait_for(lambda: len(site.get("/v1/backends")) == 3)
    assert site.get("/v1/status")["file_error"] == ""


def test_new_settings_are_a_new_program_and_the_flows_stay(site: Site) -> None:
    by_flow(site)
    site.start()
    before = site.forwarded(PORTS)
    site.edit("flows_max = 4096", "flows_max = 4096\nnew_flows_per_s = 4321")
    assert site.cli_json("reload")["program_replaced"]
    site.wait_for(lambda: site.get("/v1/status")["flows"]["live"] == len(PORTS))
    assert site.forwarded(PORTS) == before


def test_sigkill_changes_nothing_and_a_restart_adopts(site: Site) -> None:
    by_flow(site)
    process = site.start()
    before, held = site.forwarded(PORTS), image(site)
    process.kill()
    process.wait()
    assert site.forwarded(PORTS) == before
    assert "still forwarded" in site.cli("show", status=6)
    site.start()
    assert image(site) == held
    site.wait_for(lambda: site.get("/v1/status")["flows"]["live"] == len(PORTS))
    assert site.forwarded(PORTS) == before
    rungs = {c["name"]: c["value"] for c in site.get("/v1/counters")["rungs"]}
    assert rungs == {**rungs, "home_new": len(PORTS), "table": 2 * len(PORTS)}


def test_no_packet_is_lost_while_the_daemon_is_killed_and_restarted(site: Site) -> None:
    process = site.start()
    site.forwarded(PORTS)
    with site.ears() as ears:
        site.send(range(21_000, 21_100))
        process.kill()
        process.wait()
        fresh = site.spawn()
        sent = 100
        deadline = time.monotonic() + READY_S
        while site.says().count('"event": "ready"') < 2:
            assert time.monotonic() < deadline, site.says()
            site.send(range(21_000 + sent, 21_010 + sent))
            sent += 10
            time.sleep(0.02)
        assert fresh.poll() is None
        assert sent > 110
        assert len(ears.hear(sent)) == sent


def test_sigterm_ends_it_and_packets_keep_flowing(site: Site) -> None:
    process = site.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert not site.places.socket.exists()
    assert len(site.forwarded(PORTS)) == len(PORTS)
    assert "the kernel keeps forwarding" in site.says()


def test_a_second_daemon_is_refused_by_name_of_the_first(site: Site) -> None:
    process = site.start()
    second = site.spawn()
    assert second.wait(WAIT_S) == 4
    assert f"has a daemon already (pid {process.pid})" in site.says()
    assert len(site.forwarded(PORTS)) == len(PORTS)


@pytest.mark.parametrize("alive", [True, False])
def test_down_leaves_nothing(site: Site, alive: bool) -> None:
    process = site.start()
    site.forwarded(PORTS)
    assert len(site.remains()) == 5  # the pins, the socket, the program, two neighbours
    if not alive:
        process.kill()
        process.wait()
    assert site.cli_json("down", site.name)["removed"]
    assert site.remains() == []
    assert process.wait(WAIT_S) == (0 if alive else -signal.SIGKILL)
    assert site.forwarded(range(20_000, 20_002), wait_s=SILENCE_S) == {}


def test_down_keeps_the_state_so_that_slots_are_the_same(site: Site) -> None:
    site.edit('slot_key = "000102030405060708090a0b0c0d0e0f"', "")
    site.start()
    where, pools = site.get("/v1/where", client="10.1.0.2", vip="web4"), site.get("/v1/pools")
    site.cli("down", site.name)
    site.start()
    assert site.get("/v1/where", client="10.1.0.2", vip="web4") == where
    assert site.get("/v1/pools") == pools


def test_a_lost_state_file_is_refused_not_guessed(site: Site) -> None:
    process = site.start()
    before = site.forwarded(PORTS)
    process.kill()
    process.wait()
    for path in site.places.state.iterdir():
        path.unlink()
    assert site.spawn().wait(WAIT_S) == 4
    assert "does not know what the kernel forwards by" in site.says()
    assert site.forwarded(PORTS) == before


def test_systemd_is_told(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_S)
        process = site.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000")
        heard = systemd.recv(4096).decode()
        while "READY=1" not in heard:
            heard += systemd.recv(4096).decode()
        assert "STATUS=forwarding 2 VIPs to 2 backends on eth0" in heard
        while "WATCHDOG=1" not in heard:
            heard += systemd.recv(4096).decode()
        process.send_signal(signal.SIGHUP)
        while "RELOADING=1" not in heard or not heard.rpartition("RELOADING=1")[2].count("READY=1"):
            heard += systemd.recv(4096).decode()
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard += systemd.recv(4096).decode()
    assert process.wait(WAIT_S) == 0


def test_secrets_are_only_for_their_owner(site: Site) -> None:
    site.start()
    assert site.places.state_file.stat().st_mode & 0o777 == 0o600
