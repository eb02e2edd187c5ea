# SPDX-License-Identifier: Apache-2.0
"""Datagrams larger than a packet, and ICMP in both directions.

A datagram in fragments is either reassembled by one backend or not at all, so an echo of it proves
where all of them went. Full-sized fragments do not fit with an outer header: a client learns of
that once ("fragmentation needed"), loses that one datagram, and cuts smaller ones from then on.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from limpet.lab import probe
from limpet.lab.state import State

from .hosts import ask, connected, opened
from .observe import (
    BACKENDS,
    UDP_PORT,
    client_of,
    counting,
    icmp_error,
    snmp_of,
    sources,
    vip_of,
)

pytestmark = pytest.mark.lab

Found = TypeVar("Found")

DATAGRAM_BYTES = 8_000
FRAGMENTS = 6  # of it, at 1,440 bytes or so
SHORT_WAIT_S = 0.5  # for what is lost
WAIT_S = 2.0
ERROR_PORT = 7_010
ROUTER_HOPS = 1
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
RECVERR = {4: 11, 6: 25}
HOP_LIMIT = {4: socket.IP_TTL, 6: socket.IPV6_UNICAST_HOPS}
REASSEMBLED = {4: "IpReasmOKs", 6: "Ip6ReasmOKs"}
PIECES = {4: "IpReasmReqds", 6: "Ip6ReasmReqds"}
UNREACHABLE = {4: "IcmpInDestUnreachs", 6: "Icmp6InDestUnreachs"}


def learn_path(client: socket.socket) -> int:
    """Send until an answer comes; how many datagrams were lost."""
    for lost in range(4):
        try:
            ask(client, os.urandom(DATAGRAM_BYTES))
        except TimeoutError:
            continue
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # what a kernel makes of the director's answer
                raise
            continue
        return lost
    raise AssertionError("no datagram is ever answered")


@pytest.mark.parametrize("affinity", ["client", "flow"])
@pytest.mark.parametrize("version", [4, 6])
def test_all_fragments_of_a_datagram_reach_the_backend_of_its_flow(
    served: State, version: int, affinity: str
) -> None:
    lab, vip = served.lab, vip_of(served, version, affinity)
    source = sources(served, version)[40 if affinity == "client" else 41]
    before = {key: snmp_of(lab, BACKENDS, key) for key in (REASSEMBLED[version], PIECES[version])}
    with connected(lab, source, vip, UDP_PORT, socket.SOCK_DGRAM) as client:
        assert learn_path(client) <= 1
        with counting(lab) as moved:
            backends = set()
            for _ in range(10):
                data = os.urandom(DATAGRAM_BYTES)
                backend, echoed = ask(client, data)
                assert echoed == data
                backends.add(backend)
    after = {key: snmp_of(lab, BACKENDS, key) for key in before}
    assert len(backends) == 1
    assert moved["table"] == 10
    assert moved["fragment"] == 10 * (FRAGMENTS - 1)
    assert moved["home_fragment"] == moved["drop_fragment"] == moved["too_big"] == 0
    for name in BACKENDS:
        grown = {key: after[key][name] - before[key][name] for key in before}
        if name in backends:
            assert grown[REASSEMBLED[version]] >= 11
        else:
            assert grown == dict.fromkeys(before, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_full_sized_fragments_are_refused_once_and_the_client_told(
    served: State, version: int
) -> None:
    """Seen from client1, whose kernel knows nothing of the path yet."""
    lab, vip = served.lab, vip_of(served, version)
    with counting(lab) as moved, opened(lab, "client1", version, socket.SOCK_DGRAM) as client:
        client.settimeout(SHORT_WAIT_S)
        client.connect((str(vip), UDP_PORT))
        assert learn_path(client) == 1
    assert moved["too_big"] == 1
    assert moved["drop_too_big"] == FRAGMENTS - 2  # all but the first, and the last, which fits


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_request_to_every_vip_is_answered_by_the_director(
    served: State, version: int
) -> None:
    source = sources(served, version)[7]
    with counting(served.lab) as moved:
        for affinity in ("client", "flow"):
            vip = vip_of(served, version, affinity)
            with probe.Listener(f"{served.lab}-client2", source) as listener:
                listener.ask(vip, 1)
                assert listener.hears(vip, 1, WAIT_S)
    assert moved["echo_reply"] == 2
    assert moved["redirect"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_probe_whose_hop_limit_ends_at_the_director_names_the_director(
    served: State, version: int
) -> None:
    """As traceroute sends them: the router, the director, then the backend answers."""
    vip, source = vip_of(served, version), sources(served, version)[43]
    host = served.topology.find("fra-d1")
    own = {4: served.topology.interface4(host).ip, 6: served.topology.interface6(host).ip}
    with (
        counting(served.lab) as moved,
        connected(served.lab, source, vip, UDP_PORT, socket.SOCK_DGRAM) as client,
    ):
        client.setsockopt(LEVEL[version], RECVERR[version], 1)
        client.setsockopt(LEVEL[version], HOP_LIMIT[version], ROUTER_HOPS + 1)
        client.send(b"probe")
        assert error_of(client) == (*TIME_EXCEEDED[version], str(own[version]))
        client.setsockopt(LEVEL[version], HOP_LIMIT[version], ROUTER_HOPS + 2)
        assert ask(client, b"probe")[1] == b"probe"
    assert moved["hop_limit"] == 1


def error_of(client: socket.socket) -> tuple[int, int, str]:
    """The ICMP error that comes for a socket: type, code and who sent it."""

    def read() -> tuple[int, int, str] | None:
        try:
            return icmp_error(client.recvmsg(512, 512, socket.MSG_ERRQUEUE)[1])
        except BlockingIOError:
            return None

    return eventually(read)


def eventually(read: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = read()
        if found is not None:
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing after {WAIT_S} s")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_clients_port_unreachable_reaches_the_backend_of_the_flow(
    served: State, version: int, backend: str
) -> None:
    """The client's socket is gone: what the server sends must come back to it as an error."""
    lab, vip = served.lab, vip_of(served, version)
    before = snmp_of(lab, BACKENDS, UNREACHABLE[version])
    with opened(lab, backend, version, socket.SOCK_DGRAM) as server:
        server.bind((str(vip), ERROR_PORT))
        source = client_of(served, vip, backend, skip=3)
        with connected(lab, source, vip, ERROR_PORT, socket.SOCK_DGRAM) as client:
            client.send(b"hello")
            _, sender = server.recvfrom(100)
        server.connect(sender)
        with counting(lab) as moved:
            server.send(b"too late")
            with pytest.raises(ConnectionRefusedError):
                server.recv(100)
    assert moved["table"] == 1
    assert moved["home_existing"] == moved["home_new"] == 0
    after = snmp_of(lab, BACKENDS, UNREACHABLE[version])
    assert {name: after[name] - before[name] for name in BACKENDS} == {
        name: int(name == backend) for name in BACKENDS
    }
