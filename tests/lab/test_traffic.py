# SPDX-License-Identifier: Apache-2.0
"""TCP and UDP through a VIP: both families, every encapsulation, large transfers.

What comes back must be what was sent, from the backend that `where` names; and counters and the
frames on the wire must show that it went the way it should, not just that it arrived.
"""

import hashlib
import socket
import time

import numpy as np
import pytest

from limpet.lab.state import State

from .hosts import Bulk, ask, connected, transfer
from .observe import BACKENDS, BULK_PORT, PORT, UDP_PORT, Wire, client_of, counting, vip_of

pytestmark = pytest.mark.lab

# All that may count a session to which nothing happens; a bucket may be full of ended ones, and
# those of tests before expire meanwhile.
ORDINARY = {
    "home_new",
    "session_new",
    "session_created",
    "session_spilled",
    "flow_created",
    "flow_spilled",
    "flow_expired",
    "session_expired",
    "table",
    "redirect",
    "not_ip",
    "not_vip",
}

OUTER = {"b1": 4, "b2": 4, "b3": 6}
TRANSFER_BYTES = 200_000_000
SPEED_MIN = 5_000_000  # bytes/s; with segments refused and sent again it would not come near


@pytest.fixture(scope="module")
def payload() -> bytes:
    return np.random.default_rng(7).bytes(TRANSFER_BYTES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_reaches_the_backend_of_the_client_in_the_right_wrapping(
    served: State, version: int, backend: str
) -> None:
    lab, vip = served.lab, vip_of(served, version)
    source = client_of(served, vip, backend)
    with Wire(lab, backend) as wire, counting(lab) as moved:
        with connected(lab, source, vip, PORT) as session:
            for count in range(1, 4):
                session.sendall(b"?\n")
                assert session.recv(100) == f"{backend} ? {count}\n".encode()
        wrapped = wire.encapsulations()
    # SYN, ACK and three requests; the end of the session may still be under way.
    assert set(wrapped) == {f"{version}-in-{OUTER[backend]}"}
    assert wrapped.total() >= 5
    assert moved.new_flows == moved["flow_created"] == 1
    assert moved["table"] >= 4
    assert moved["redirect"] == moved.new_flows + moved["table"]
    assert set(moved) <= ORDINARY


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_udp_reaches_the_backend_of_the_client_in_the_right_wrapping(
    served: State, version: int, backend: str
) -> None:
    lab, vip = served.lab, vip_of(served, version)
    source = client_of(served, vip, backend)
    with Wire(lab, backend) as wire, counting(lab) as moved:
        with connected(lab, source, vip, UDP_PORT, socket.SOCK_DGRAM) as client:
            for number in range(4):
                assert ask(client, b"%d" % number) == (backend, b"%d" % number)
        wrapped = wire.encapsulations()
    assert wrapped == {f"{version}-in-{OUTER[backend]}": 4}
    assert moved.new_flows == moved["flow_created"] == 1
    assert moved["table"] == 3
    assert moved["redirect"] == 4


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_large_transfer_arrives_whole_and_fast_with_every_mtu_at_1500(
    served: State, payload: bytes, version: int, direction: str
) -> None:
    """To b3, whose outer header is the larger one. The agent's MSS clamp alone makes it fit."""
    lab, vip = served.lab, vip_of(served, version)
    source = client_of(served, vip, "b3")
    with (
        Bulk(lab, "b3", BULK_PORT, payload),
        counting(lab) as moved,
        connected(lab, source, vip, BULK_PORT) as session,
    ):
        begun = time.monotonic()
        received = transfer(session, direction, payload)
        speed = TRANSFER_BYTES / (time.monotonic() - begun)
    assert received == hashlib.sha256(payload).digest()
    assert speed > SPEED_MIN
    assert moved["too_big"] == 0
    assert moved.new_flows == 1
    assert set(moved) <= ORDINARY
