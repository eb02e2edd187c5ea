# SPDX-License-Identifier: Apache-2.0
"""What limpet says about a running director is what happens: where, flows, show, plan.

The commands are run as people run them, against a lab; every answer is compared with what clients,
servers or a change then really do.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limpet.api.places import places
from limpet.core.model import SLOTS
from limpet.lab import changes, folder, operations
from limpet.lab.sessions import HeldSessions
from limpet.lab.state import State
from limpet.lab.topology import Topology

from .conftest import fresh_name, varied
from .hosts import connected
from .observe import BACKENDS, DIRECTOR, PORT, counting, director, sources, vip_of

pytestmark = pytest.mark.lab

CLIENTS = 50
SOURCE_PORT = 22_000  # the first of those that this module gives out


def limpet(lab: str, *arguments: str) -> Any:
    """The JSON that a command prints."""
    argv = [sys.executable, "-m", "limpet", *arguments, "--json"]
    socket = str(places(f"{lab}-{DIRECTOR}").socket)
    done = subprocess.run([*argv, "--socket", socket], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("affinity", ["client", "flow"])
def test_where_names_the_backend_that_really_answers_50_clients(
    served: State, affinity: str
) -> None:
    lab, client, answered = served.lab, director(served.lab), set()
    first = SOURCE_PORT + (500 if affinity == "flow" else 0)
    for number in range(CLIENTS):
        vip = vip_of(served, 4 if number % 2 else 6, affinity)
        source, port = sources(served, vip.version)[200 + number], first + number
        question = {"client": source, "vip": vip, "client_port": port, "vip_port": PORT}
        said = client.get("/v1/where", protocol="tcp", **question)
        assert said["rung"] == "home_new"
        with connected(lab, source, vip, PORT, source_port=port) as session:
            session.sendall(b"?\n")
            name = session.recv(100).decode().split()[0]
            later = client.get("/v1/where", protocol="tcp", **question)
        assert said["backend"] == said["home"] == name
        assert (later["rung"], later["backend"]) == ("table", name)
        answered.add(name)
    assert answered == set(BACKENDS)


def test_the_command_where_says_what_the_api_says(served: State) -> None:
    vip, source = vip_of(served, 4), sources(served, 4)[300]
    said = limpet(served.lab, "where", str(source), str(vip), "--protocol", "tcp")
    assert said == director(served.lab).get("/v1/where", client=source, vip=vip, protocol="tcp")
    assert said["backend"] in BACKENDS


def test_flows_and_show_know_every_live_session(served: State) -> None:
    lab, vips = served.lab, [str(vip_of(served, version)) for version in (4, 6)]
    with HeldSessions(lab, "client1", 40, PORT, vips) as held:
        held.wait_open()
        rows = held.settle()["rows"]
        wanted = {(r["source"], r["source_port"], PORT, r["backend"]) for r in rows}
        own = {r["source"] for r in rows}
        listed = [flow for source in own for flow in flows(lab, "--client", source)]
        shown = limpet(lab, "show", "backends")
        by_backend = {row["name"]: row["flows"] for row in shown}
    assert {
        (flow["client"], flow["client_port"], flow["vip_port"], flow["backend"])
        for flow in listed
        if flow["life"] == "established"
    } == wanted
    for name in {r["backend"] for r in rows}:
        assert by_backend[name] >= sum(r["backend"] == name for r in rows)
        assert {flow["backend"] for flow in flows(lab, "--backend", name)} == {name}


def flows(lab: str, *filters: str) -> list[dict[str, Any]]:
    said = limpet(lab, "flows", "--limit", "0", *filters)
    found: list[dict[str, Any]] = said["flows"]
    assert said["total"] == len(found)
    return found


def test_show_counts_what_a_client_sends(served: State) -> None:
    lab, vip, source = served.lab, vip_of(served, 4), sources(served, 4)[301]
    with counting(lab) as moved, connected(lab, source, vip, PORT) as session:
        session.sendall(b"?\n")
        session.recv(100)
        shown = {row["name"]: row for row in limpet(lab, "show", "counters")["rungs"]}
    assert shown["home_new"]["value"] > 0
    assert moved["home_new"] == 1
    slots = {row["name"]: row["slots"] for row in limpet(lab, "show", "pools")[0]["backends"]}
    assert sum(slots.values()) == SLOTS
    for weight, name in enumerate(BACKENDS, 1):
        assert abs(slots[name] - SLOTS * weight / 6) <= 1


def test_a_plan_foretells_what_the_change_then_does(one_pop: Topology, tmp_path: Path) -> None:
    with fresh_name() as lab:
        now = operations.up(lab, varied(one_pop))
        every = sources(now, 4)[:200]
        file = folder.of(lab) / f"{DIRECTOR}.toml"
        text = file.read_text()
        planned = tmp_path / "planned.toml"
        planned.write_text(text.replace("b1 = 1,", "b1 = 4,"))
        assert planned.read_text() != text

        homes = homes_of(now, every)
        said = limpet(lab, "plan", str(planned))
        assert homes_of(now, every) == homes
        assert limpet(lab, "plan", str(file))["changes"] is False
        changes.weight(lab, "b1", 4)
        assert limpet(lab, "plan", str(planned))["changes"] is False

        (moves,) = said["moves"]
        # b1 had 1/6 and gets 4/9; nothing else may move.
        assert abs(moves["slots_moved"] - SLOTS * (4 / 9 - 1 / 6)) <= 2
        assert {(move["from"], move["to"]) for move in moves["moves"]} == {
            ("b2", "b1"),
            ("b3", "b1"),
        }
        after = homes_of(now, every)
        moved = {(homes[client], after[client]) for client in homes} - {(b, b) for b in BACKENDS}
        assert moved == {("b2", "b1"), ("b3", "b1")}


def homes_of(now: State, clients: Any) -> dict[str, str]:
    api, vip = director(now.lab), vip_of(now, 4)
    return {
        str(client): api.get("/v1/where", client=client, vip=vip, protocol="tcp")["home"]
        for client in clients
    }
