# SPDX-License-Identifier: Apache-2.0
"""A whole lab, with the real director and agents: it forwards when a command says so."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from limpet.core.model import Address
from limpet.lab import changes, namespace, operations, probe
from limpet.lab.network import netns_of
from limpet.lab.state import State
from limpet.lab.topology import Role, Topology

from .conftest import fresh_name
from .test_lifecycle import remains

pytestmark = pytest.mark.lab

PORT = 7001
WAIT_S = 2.0
CLIENTS = 40
SERVER = """
import socketserver, sys
class Name(socketserver.BaseRequestHandler):
    def handle(self):
        while self.request.recv(100):
            self.request.sendall(sys.argv[1].encode())
class Server(socketserver.ThreadingTCPServer):
    address_family = socketserver.socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512
with Server(("::", int(sys.argv[2])), Name) as server:
    server.serve_forever()
"""


@pytest.fixture(scope="module")
def running(one_pop: Topology) -> Iterator[State]:
    with fresh_name() as name:
        yield operations.up(name, one_pop)


@contextmanager
def server(lab: str, host: str) -> Iterator[None]:
    """Answers each message on the host with the host's name."""
    with namespace.inside(f"{lab}-{host}"):
        child = subprocess.Popen([sys.executable, "-c", SERVER, host, str(PORT)])
    try:
        deadline = time.monotonic() + WAIT_S
        while not _connects(f"{lab}-{host}"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        child.kill()
        child.wait()


def _connects(netns: str) -> bool:
    with namespace.inside(netns):
        client = socket.socket()
    with client:
        return client.connect_ex(("127.0.0.1", PORT)) == 0


class Session:
    """A TCP connection from an address of client2 to a VIP."""

    def __init__(self, lab: str, source: Address, vip: Address) -> None:
        family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
        with namespace.inside(f"{lab}-client2"):
            self.socket = socket.socket(family)
        self.socket.settimeout(WAIT_S)
        self.socket.bind((str(source), 0))
        self.socket.connect((str(vip), PORT))

    def ask(self) -> str:
        self.socket.sendall(b"?")
        return self.socket.recv(100).decode()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def sources(now: State, version: int) -> list[Address]:
    every = now.topology.addresses(now.topology.find("client2"))
    return [address for address in every if address.version == version]


def answered_by(now: State, version: int, first: int) -> set[str]:
    """Who answers new connections of clients; each test says which, as known ones stay."""
    vip = next(vip.address for vip in now.topology.vip if vip.address.version == version)
    names = set()
    for source in sources(now, version)[first : first + CLIENTS]:
        with Session(now.lab, source, vip) as session:
            names.add(session.ask())
    return names


def daemons(lab: str) -> dict[str, str]:
    hosts = operations.status(lab)["hosts"]
    return {host["name"]: host["daemon"] for host in hosts if "daemon" in host}


@pytest.mark.parametrize("version", [4, 6])
def test_all_backends_answer_as_soon_as_it_is_up(running: State, version: int) -> None:
    with server(running.lab, "b1"), server(running.lab, "b2"), server(running.lab, "b3"):
        assert answered_by(running, version, first=0) == {"b1", "b2", "b3"}


def test_a_fresh_lab_has_every_daemon_up(running: State) -> None:
    assert set(daemons(running.lab).values()) == {"up"}


def test_an_added_backend_gets_clients_and_a_removed_one_gets_none(running: State) -> None:
    lab = running.lab
    changes.add(lab, "b4")
    with server(lab, "b1"), server(lab, "b2"), server(lab, "b3"), server(lab, "b4"):
        assert answered_by(running, 4, first=40) == {"b1", "b2", "b3", "b4"}
        changes.weight(lab, "b2", 0)
        assert answered_by(running, 4, first=80) == {"b1", "b3", "b4"}
        changes.weight(lab, "b2", 1)
        changes.remove(lab, "b4", keep_host=True)
        assert answered_by(running, 4, first=120) == {"b1", "b2", "b3"}
    changes.remove(lab, "b4", keep_host=False)
    assert not namespace.exists(f"{lab}-b4")


def test_live_sessions_outlast_the_daemon(running: State) -> None:
    """SIGKILL to the daemon, traffic without it, and its return: the kernel forwards throughout."""
    lab, vip = running.lab, running.topology.vip[0].address
    with server(lab, "b1"), server(lab, "b2"), server(lab, "b3"):
        with Session(lab, sources(running, 4)[-1], vip) as session:
            before = session.ask()
            changes.kill(lab, "fra-d1", daemon_only=True)
            assert daemons(lab)["fra-d1"] == "down"
            assert session.ask() == before
            assert answered_by(running, 4, first=160) == {"b1", "b2", "b3"}
            changes.start(lab, "fra-d1")
            assert session.ask() == before
        assert answered_by(running, 4, first=200) == {"b1", "b2", "b3"}


def test_a_change_while_the_daemon_is_dead_comes_with_its_start(running: State) -> None:
    lab = running.lab
    with server(lab, "b1"), server(lab, "b2"), server(lab, "b3"):
        changes.kill(lab, "fra-d1", daemon_only=True)
        changes.weight(lab, "b3", 0)
        changes.start(lab, "fra-d1")
        try:
            assert answered_by(running, 4, first=240) == {"b1", "b2"}
        finally:
            changes.weight(lab, "b3", 1)


@pytest.mark.parametrize("name", ["fra-d1", "b2", "router"])
def test_a_killed_host_forwards_again_once_started(running: State, name: str) -> None:
    lab = running.lab
    changes.kill(lab, name, daemon_only=False)
    changes.start(lab, name)
    with server(lab, "b1"), server(lab, "b2"), server(lab, "b3"):
        assert answered_by(running, 4, first=280) == {"b1", "b2", "b3"}
        assert answered_by(running, 6, first=320) == {"b1", "b2", "b3"}
    assert set(daemons(lab).values()) == {"up"}


def test_a_killed_agent_keeps_decapsulating_and_starts_again(running: State) -> None:
    lab = running.lab
    changes.kill(lab, "b1", daemon_only=True)
    with server(lab, "b1"), server(lab, "b2"), server(lab, "b3"):
        assert answered_by(running, 4, first=360) == {"b1", "b2", "b3"}
    changes.start(lab, "b1")
    assert daemons(lab)["b1"] == "up"


def test_the_director_answers_an_echo_request_to_a_vip(running: State) -> None:
    client = running.topology.hosts(Role.CLIENT)[0]
    netns = netns_of(running.lab, client)
    for vip, address in zip(running.topology.vip, running.topology.addresses(client), strict=True):
        with probe.Listener(netns, address) as listener:
            listener.ask(vip.address, 1)
            assert listener.hears(vip.address, 1, WAIT_S)


def test_metrics_are_served_inside_the_directors_namespace(running: State) -> None:
    with namespace.inside(f"{running.lab}-fra-d1"):
        connection = http.client.HTTPConnection("127.0.0.1", 9464, timeout=WAIT_S)
        connection.connect()
    connection.request("GET", "/metrics")
    assert b"limpet_" in connection.getresponse().read()


def test_nothing_is_left_of_a_lab_that_forwarded(one_pop: Topology) -> None:
    with fresh_name() as name:
        operations.up(name, one_pop)
    assert remains(name) == []
