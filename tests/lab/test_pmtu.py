# SPDX-License-Identifier: Apache-2.0
"""Path MTU discovery where a link of the path carries 1400 bytes, on either side of the director.

Beyond the director, towards the client: the router says "too big" to the VIP, because the backend's
packets bear that address; the director must hand it to the backend of that very flow, or its
download stalls. Between director and backend: the director itself must tell the client.
Neither end knows of the narrow link in advance, as on the internet.
"""

import contextlib
import errno
import hashlib
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from limpet.lab import namespace
from limpet.lab.state import State

from .hosts import Bulk, ask, connected, transfer
from .observe import (
    BACKENDS,
    BULK_PORT,
    UDP_PORT,
    client_of,
    counting,
    director,
    snmp_of,
    vip_of,
)

pytestmark = pytest.mark.lab

NARROW, WIDE = 1_400, 1_500
TRANSFER_BYTES = 20_000_000
SPEED_MIN = 1_000_000  # bytes/s; a sender that never learns gets nowhere
WAIT_S = 2.0
OUTER_HEADER = {"b1": 20, "b2": 20, "b3": 40}
TOO_BIG = {4: "IcmpInDestUnreachs", 6: "Icmp6InPktTooBigs"}
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
MTU_DISCOVER = {4: 10, 6: 23}
MTU = {4: 14, 6: 24}
PMTUDISC_DO = 2


@pytest.fixture(scope="module")
def payload() -> bytes:
    return np.random.default_rng(8).bytes(TRANSFER_BYTES)


def set_mtu(lab: str, host: str, interface: str, mtu: int) -> None:
    with namespace.netlink(f"{lab}-{host}") as netlink:
        index = netlink.link_lookup(ifname=interface)[0]
        netlink.link("set", index=index, mtu=mtu)


def forget_paths(now: State, host: str, **metrics: int) -> None:
    """Make its kernel forget what it has learned of path MTUs: for IPv6, with a new route."""
    segment = now.topology.segment_of(now.topology.find(host))
    gateways = {"0.0.0.0/0": segment.interface4(1).ip, "::/0": segment.interface6(1).ip}
    namespace.sysctl(f"{now.lab}-{host}", {"ipv4.route.flush": "1"})
    with namespace.netlink(f"{now.lab}-{host}") as netlink:
        for target, gateway in gateways.items():
            netlink.route("replace", dst=target, gateway=str(gateway), metrics=metrics)


@contextlib.contextmanager
def narrow_client(now: State) -> Iterator[None]:
    """client2's link carries 1400 bytes, and client2 announces segments as for 1500.

    So does a client on an Ethernet behind a tunnel: it does not know, and the server must learn.
    """

    def change(mtu: int) -> None:
        set_mtu(now.lab, "client2", "eth0", mtu)
        set_mtu(now.lab, "router", "client2", mtu)

    try:
        change(NARROW)
        forget_paths(now, "client2", advmss=WIDE - 60)
        yield
    finally:
        change(WIDE)
        for host in ("client2", *BACKENDS):
            forget_paths(now, host)


@contextlib.contextmanager
def narrow_backends(now: State) -> Iterator[None]:
    """The backends' links carry 1400 bytes, and the director's routes say so.

    The agents started when they carried 1500, so their MSS clamp is of no help.
    """
    lab, backends = now.lab, [now.topology.find(name) for name in BACKENDS]
    targets = [str(now.topology.backend_address(host)) for host in backends]

    def change(mtu: int) -> None:
        for name in BACKENDS:
            set_mtu(lab, name, "eth0", mtu)
            set_mtu(lab, "router", name, mtu)
        # A bridge's own MTU follows the lowest of its ports until it is set.
        set_mtu(lab, "router", "br-fra", WIDE)

    try:
        change(NARROW)
        with namespace.netlink(f"{lab}-fra-d1") as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            for target in targets:
                netlink.route("add", dst=target, oif=index, metrics={"mtu": NARROW})
        wait_mtu(lab, NARROW)
        yield
    finally:
        with namespace.netlink(f"{lab}-fra-d1") as netlink:
            for target in targets:
                netlink.route("del", dst=target)
        change(WIDE)
        wait_mtu(lab, WIDE)
        forget_paths(now, "client2")


def wait_mtu(lab: str, mtu: int) -> None:
    """Until the director has taken up what its routes say."""
    deadline = time.monotonic() + WAIT_S
    while any(row["next_hop"]["mtu"] != mtu for row in director(lab).get("/v1/backends")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def moved_data(now: State, version: int, backend: str, direction: str, payload: bytes) -> float:
    """Bytes per second of a transfer, its digest compared."""
    lab, vip = now.lab, vip_of(now, version)
    with (
        Bulk(lab, backend, BULK_PORT, payload),
        connected(lab, client_of(now, vip, backend, skip=5), vip, BULK_PORT) as session,
    ):
        begun = time.monotonic()
        assert transfer(session, direction, payload) == hashlib.sha256(payload).digest()
        return len(payload) / (time.monotonic() - begun)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_download_over_a_narrow_client_link_learns_from_the_router(
    served: State, payload: bytes, version: int, backend: str
) -> None:
    lab = served.lab
    with narrow_client(served):
        before = snmp_of(lab, BACKENDS, TOO_BIG[version])
        with counting(lab) as moved:
            speed = moved_data(served, version, backend, "download", payload)
        after = snmp_of(lab, BACKENDS, TOO_BIG[version])
    learned = {name for name in BACKENDS if after[name] > before[name]}
    assert learned == {backend}
    assert speed > SPEED_MIN
    # All by the connection table, the errors among it; the director had nothing to say itself.
    assert moved.new_flows == moved["flow_created"] == 1
    assert moved["home_existing"] == moved["too_big"] == moved["drop_icmp_quote"] == 0


@pytest.mark.parametrize("version", [4, 6])
def test_an_upload_over_a_narrow_client_link_is_the_clients_own_affair(
    served: State, payload: bytes, version: int
) -> None:
    with narrow_client(served), counting(served.lab) as moved:
        assert moved_data(served, version, "b3", "upload", payload) > SPEED_MIN
    assert moved["too_big"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_an_upload_over_a_narrow_backend_link_learns_from_the_director(
    served: State, payload: bytes, version: int, backend: str
) -> None:
    """The server announces 1400 bytes as its own; with the outer header they are too many."""
    with narrow_backends(served):
        with counting(served.lab) as moved:
            assert moved_data(served, version, backend, "upload", payload) > SPEED_MIN
        assert moved_data(served, version, backend, "download", payload) > SPEED_MIN
    # A handful per flow: what was in flight before the client knew.
    assert 1 <= moved["too_big"] <= 100
    assert moved["drop_icmp_limited"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_that_must_not_be_cut_learns_how_much_fits(
    served: State, version: int, backend: str
) -> None:
    lab, vip = served.lab, vip_of(served, version)
    room = NARROW - OUTER_HEADER[backend]
    headers = {4: 20, 6: 40}[version] + 8
    with (
        narrow_backends(served),
        counting(lab) as moved,
        connected(lab, client_of(served, vip, backend), vip, UDP_PORT, socket.SOCK_DGRAM) as client,
    ):
        client.setsockopt(LEVEL[version], MTU_DISCOVER[version], PMTUDISC_DO)
        client.send(bytes(room - headers + 1))
        with pytest.raises(OSError, match="Message too long") as refused:
            client.recv(100)
        assert refused.value.errno == errno.EMSGSIZE
        assert client.getsockopt(LEVEL[version], MTU[version]) == room
        assert ask(client, bytes(room - headers - 8)) == (backend, bytes(room - headers - 8))
    assert moved["too_big"] == 1
