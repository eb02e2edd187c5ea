# SPDX-License-Identifier: Apache-2.0
"""What `limpet lab status` prints: JSON that programs rely on, and a table for people."""

import json
import subprocess
import sys

import pytest

from limpet.lab.state import State

pytestmark = pytest.mark.lab

STATUS = [sys.executable, "-m", "limpet", "lab", "status"]
ROLES = {
    "router": "router",
    "client1": "client",
    "client2": "client",
    "fra-d1": "director",
    "b1": "backend",
    "b2": "backend",
    "b3": "backend",
}


def test_json_has_hosts_vips_and_pops(network: State) -> None:
    done = subprocess.run(
        [*STATUS, "--lab", network.lab, "--json"], capture_output=True, text=True, check=True
    )
    status = json.loads(done.stdout)
    assert status["lab"] == network.lab
    assert status["vips"] == ["192.0.2.10", "2001:db8:0:10::10"]
    assert status["pops"] == ["fra"]
    assert {host["name"]: host["role"] for host in status["hosts"]} == ROLES
    for host in status["hosts"]:
        assert host["netns"] == f"{network.lab}-{host['name']}"
        assert host["pop"] == (None if host["role"] in ("client", "router") else "fra")
    client2 = next(host for host in status["hosts"] if host["name"] == "client2")
    assert len(client2["addresses"]) == 2 * 512


def test_the_table_fits_a_terminal_and_names_every_host(network: State) -> None:
    argv = [*STATUS, "--lab", network.lab]
    environment = {"COLUMNS": "100", "PATH": "/usr/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert all(len(line) <= 100 for line in lines)
    for name in ROLES:
        assert any(f" {name} " in line for line in lines), name
    assert "and 1022 more" in done.stdout
    assert "192.0.2.10" in lines[-1]
