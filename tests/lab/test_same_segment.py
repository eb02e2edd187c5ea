# SPDX-License-Identifier: Apache-2.0
"""Backends on the director's segment by MAC rewrite (`l2`), and VIPs of one port.

No outer header: what reaches a backend is the client's own packet, so full-sized segments fit and
no MSS needs clamping. A port that is no VIP's is not balanced.
"""

import hashlib
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from limpet.lab.state import State
from limpet.lab.topology import Topology

from .conftest import serving, varied
from .hosts import Bulk, connected, transfer
from .observe import BACKENDS, BULK_PORT, PORT, UDP_PORT, Wire, client_of, counting

pytestmark = pytest.mark.lab

VIPS = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8:0:10::10")}
ONE_PORT = {4: ip_address("192.0.2.20"), 6: ip_address("2001:db8:0:10::20")}


def same_segment(one_pop: Topology) -> Topology:
    """one-pop with backends reached by MAC rewrite, and two VIPs of one port more."""
    plain = varied(one_pop).model_dump()
    hosts = [h | ({"encapsulation": "l2"} if h["role"] == "backend" else {}) for h in plain["host"]]
    single = [{"address": address, "port": PORT} for address in ONE_PORT.values()]
    changed = {"host": hosts, "vip": [*plain["vip"], *single]}
    return Topology.model_validate({**plain, **changed})


@pytest.fixture(scope="module")
def flat(one_pop: Topology) -> Iterator[State]:
    with serving(same_segment(one_pop)) as now:
        yield now


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_reaches_a_backend_on_the_segment_without_an_outer_header(
    flat: State, version: int, backend: str
) -> None:
    source = client_of(flat, VIPS[version], backend)
    with Wire(flat.lab, backend) as wire:
        with connected(flat.lab, source, VIPS[version], PORT) as session:
            for count in range(1, 4):
                session.sendall(b"?\n")
                assert session.recv(100) == f"{backend} ? {count}\n".encode()
        assert not wire.encapsulations()


@pytest.mark.parametrize("version", [4, 6])
def test_full_sized_segments_fit_both_ways(flat: State, version: int) -> None:
    source = client_of(flat, VIPS[version], "b2")
    data = bytes(range(256)) * 40_000
    with counting(flat.lab) as moved, Bulk(flat.lab, "b2", BULK_PORT, data):
        for direction in ("upload", "download"):
            with connected(flat.lab, source, VIPS[version], BULK_PORT) as session:
                received = transfer(session, direction, data)
            assert received == hashlib.sha256(data).digest()
    assert moved["too_big"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_vip_of_one_port_balances_that_port_only(flat: State, version: int) -> None:
    source = client_of(flat, VIPS[version], "b1")
    with connected(flat.lab, source, ONE_PORT[version], PORT) as session:
        session.sendall(b"?\n")
        assert session.recv(100) == b"b1 ? 1\n"
    with (
        counting(flat.lab) as moved,
        connected(flat.lab, source, ONE_PORT[version], UDP_PORT, socket.SOCK_DGRAM) as other,
    ):
        other.send(b"nobody balances this port")
        other.settimeout(0.5)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            other.recv(100)
    assert moved["no_service"] >= 1
