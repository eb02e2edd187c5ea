# SPDX-License-Identifier: Apache-2.0
"""The director's own packets to a backend: real sockets on both machines, and the agent between."""

import os
import select
import socket
import time
from collections.abc import Iterator
from itertools import count

import pytest
from pyroute2 import IPRoute
from pyroute2.ethtool import Ethtool
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from agent.namespaces import CLIENT4, CLIENT6, VETH, VIP4, VIP6, listening
from datapath.way import BACKEND, SO_MARK, WAIT_S, Way, built, echoing, received
from limpet.core.errors import Conflict
from limpet.core.model import Director, Encapsulation, NextHop
from limpet.datapath import abi, outbound
from limpet.lab import namespace
from limpet.lab.offload import TRANSMIT_OFFLOADS

pytestmark = pytest.mark.kernel

NUMBERS = count(1)
KILOBYTES_100 = 100_000
ETH_P_ALL = 3
QUICK_S = 0.3
EVENTS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, addresses, routes


@pytest.fixture
def bare() -> Iterator[Way]:
    """Two machines, the map of backends; no way yet."""
    with built(f"to{os.getpid()}-{next(NUMBERS)}") as way:
        yield way


@pytest.fixture
def way(bare: Way) -> Way:
    bare.install_agent()
    bare.put()
    return bare


def enable_offloads(way: Way) -> None:
    """The director's interface takes packets without checksum, as NICs do. Segments larger than
    the MTU it does not take, because of the agent's native program at the other end."""
    with way.pair.inside(way.pair.client):
        tool = Ethtool()
        features = tool.get_features(VETH)
        for name in TRANSMIT_OFFLOADS:
            features.features[name].enable = True
        tool.set_features(VETH, features)
        found = tool.get_features(VETH).features
        tool.close()
    assert all(found[name].enable for name in TRANSMIT_OFFLOADS)


def exchange(way: Way, vip: str, source: str) -> None:
    """100 kB there and back over TCP; the server sees the director's own address."""
    data = os.urandom(KILOBYTES_100)
    with (
        listening(way.pair, vip, socket.SOCK_STREAM) as server,
        echoing(server, len(data)),
        way.calling(vip, socket.SOCK_STREAM) as client,
    ):
        client.connect((vip, 7))
        assert client.getsockname()[0] == source
        client.sendall(data)
        assert received(client, len(data)) == data


@pytest.mark.parametrize("on", [False, True], ids=["offloads off", "offloads on"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(("vip", "source"), [(VIP4, CLIENT4), (VIP6, CLIENT6)], ids=["4", "6"])
def test_connection_to_a_vip_carries_100_kb_both_ways(
    way: Way, vip: str, source: str, outer: int, on: bool
) -> None:
    """The program sees segments of many packets each, which the kernel cuts behind it."""
    if on:
        enable_offloads(way)
    way.put_backend(outer, way.hop())
    exchange(way, vip, source)
    counters = way.counters()
    assert counters.keys() == {"sent"}
    assert counters["sent"] < KILOBYTES_100 / abi.Limit.OUTBOUND_MTU  # acknowledgements included


@pytest.mark.parametrize("outer", [4, 6])
def test_kernel_forwards_while_the_next_hop_is_not_known(way: Way, outer: int) -> None:
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        namespace.sysctl(way.pair.client, {key: "1"})
    way.put_backend(outer)
    exchange(way, VIP4, CLIENT4)
    exchange(way, VIP6, CLIENT6)
    assert way.counters().keys() == {"via_kernel"}


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_backend_on_the_segment_gets_the_packet_as_it_is(way: Way, vip: str) -> None:
    way.put_backend(4, way.hop(), Encapsulation.L2)
    exchange(way, vip, CLIENT4 if vip == VIP4 else CLIENT6)
    assert way.counters().keys() == {"sent"}


def drops(way: Way, counter: str, backend: int = BACKEND, length: int = 8) -> None:
    """A datagram does not arrive, and the counter says why."""
    with (
        listening(way.pair, VIP4, socket.SOCK_DGRAM) as server,
        way.calling(VIP4, socket.SOCK_DGRAM, backend) as client,
    ):
        server.settimeout(QUICK_S)
        client.sendto(b"x" * length, (VIP4, 7))
        with pytest.raises(TimeoutError):
            server.recv(100)
    assert way.counters() == {counter: 1}


def test_backend_without_a_row_gets_nothing(way: Way) -> None:
    way.put_backend(4, way.hop())
    drops(way, "drop_unknown_backend", backend=BACKEND + 1)


def test_mark_without_a_backend_leads_nowhere(way: Way) -> None:
    drops(way, "drop_unknown_backend", backend=0)


def test_backend_on_the_segment_without_a_mac_gets_nothing(way: Way) -> None:
    unknown = NextHop(way.hop().ifindex, bytes(6), bytes(6), 1500)
    way.put_backend(4, unknown, Encapsulation.L2)
    drops(way, "drop_next_hop")


def test_packet_longer_than_the_path_is_dropped_by_name(way: Way) -> None:
    """28 bytes of inner headers and 20 of the outer one."""
    way.put_backend(4, way.hop(mtu=576))
    drops(way, "drop_too_big", length=576 - 48 + 1)


def test_packet_just_as_long_as_the_path_carries_arrives(way: Way) -> None:
    way.put_backend(4, way.hop(mtu=576))
    with (
        listening(way.pair, VIP4, socket.SOCK_DGRAM) as server,
        way.calling(VIP4, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"x" * (576 - 48), (VIP4, 7))
        assert len(server.recv(1_000)) == 576 - 48


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_outer_header_is_that_of_clients_packets(bare: Way, vip: str, outer: int) -> None:
    """Source in the director's prefix with entropy, right lengths and checksum, DSCP copied, and
    inside the packet with the hop limit that its sender gave it."""
    bare.put()
    bare.put_backend(outer, bare.hop())
    with bare.pair.inside(bare.pair.backend):
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    heard.bind((VETH, 0))
    heard.settimeout(WAIT_S)
    with heard, bare.calling(vip, socket.SOCK_STREAM) as client:
        if vip == VIP4:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x88)
        else:
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x88)
        client.setblocking(False)
        client.connect_ex((vip, 7))
        frame = syn(heard)
    sent = bytes(frame)
    again = frame.copy()
    for layer in (IP, IPv6):
        for field in ("len", "chksum", "plen"):
            for each in range(1, 3):
                found = again.getlayer(layer, each)
                if found is not None and field in found.fields:
                    delattr(found, field)
    assert bytes(Ether(bytes(again))) == sent  # lengths and checksums are what they must be
    over = frame.payload
    source = "100.64." if outer == 4 else "fd00:11be:7::"
    assert str(over.src).startswith(source)
    assert str(over.src) not in ("100.64.0.0", "fd00:11be:7::")
    assert (over.tos if outer == 4 else over.tc) == 0x88
    inner = over.payload
    assert (inner.ttl if vip == VIP4 else inner.hlim) == 64


def syn(heard: socket.socket) -> Ether:
    """The first encapsulated SYN that comes."""
    while True:
        frame = Ether(heard.recv(2_000))
        if TCP in frame and frame[TCP].flags == "S" and frame.payload.haslayer(TCP):
            inner = frame.payload.payload
            if isinstance(inner, IP | IPv6):
                return frame


def test_unmarked_packets_do_not_meet_the_program(way: Way) -> None:
    way.put_backend(4, way.hop())
    before = outbound.read_counters(way.pins)
    with way.pair.inside(way.pair.client):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, pytest.raises(OSError, match="unreachable"):
        client.sendto(b"hello", (VIP4, 7))
    assert outbound.read_counters(way.pins) == before


def test_put_again_swaps_the_program_and_keeps_connections_and_counters(way: Way) -> None:
    way.put_backend(4, way.hop())
    with (
        listening(way.pair, VIP4, socket.SOCK_STREAM) as server,
        way.calling(VIP4, socket.SOCK_STREAM) as client,
    ):
        client.connect((VIP4, 7))
        accepted, _ = server.accept()
        before = way.counters()["sent"]
        way.put()
        assert way.counters()["sent"] == before
        with accepted:
            accepted.settimeout(WAIT_S)
            client.send(b"still here")
            assert accepted.recv(100) == b"still here"
    assert way.counters()["sent"] > before


def test_put_again_is_no_event_for_those_who_watch_links_and_routes(way: Way) -> None:
    """The daemon does so, and would wake itself for ever."""
    with namespace.netlink(way.pair.client) as link:
        link.bind(groups=EVENTS)
        until = time.monotonic() + WAIT_S
        while has_event(link):  # of what was made just before: links come up, addresses are tried
            assert time.monotonic() < until
            link.get()
        way.put()
        assert not has_event(link)


def has_event(link: IPRoute) -> bool:
    return bool(select.select([link.fileno()], [], [], QUICK_S)[0])


def state(way: Way) -> tuple[set[str], list[str]]:
    """Interfaces and rules of the director's machine."""
    with namespace.netlink(way.pair.client) as link:
        names = {str(message.get_attr("IFLA_IFNAME")) for message in link.get_links()}
        rules = [
            str((message["family"], message.get_attr("FRA_FWMARK"), message.get_attr("FRA_TABLE")))
            for message in (*link.get_rules(family=2), *link.get_rules(family=10))
        ]
    return names, sorted(rules)


def test_removal_leaves_nothing_behind(bare: Way) -> None:
    before = state(bare)
    bare.put()
    assert state(bare) != before
    with bare.pair.inside(bare.pair.client):
        outbound.remove(bare.pins)
    assert state(bare) == before
    assert not (bare.pins / "outbound").exists()


def test_removal_without_anything_is_fine(bare: Way) -> None:
    with bare.pair.inside(bare.pair.client):
        outbound.remove(bare.pins)


def test_another_mark_takes_the_place_of_the_one_before(bare: Way) -> None:
    bare.put()
    before = state(bare)
    bare.director = Director(bare.director.name, (VETH,), mark=0x1234_5000)
    bare.put()
    after = state(bare)
    assert {"lp-out-12345", "lp-in-12345"} == after[0] - before[0]
    assert {"lp-out-6c690", "lp-in-6c690"} == before[0] - after[0]
    assert len(after[1]) == len(before[1])


def test_device_that_was_deleted_by_hand_is_made_again(way: Way) -> None:
    with namespace.netlink(way.pair.client) as link:
        link.link("del", index=link.link_lookup(ifname="lp-out-6c690")[0])
    way.put()
    way.put_backend(4, way.hop())
    exchange(way, VIP4, CLIENT4)


def test_device_of_that_name_which_is_somebody_elses_is_left_alone(bare: Way) -> None:
    with namespace.netlink(bare.pair.client) as link:
        link.link("add", ifname="lp-out-6c690", kind="veth", peer={"ifname": "other"})
    with pytest.raises(Conflict, match="rename it"):
        bare.put()


def test_device_is_named_by_the_mark_without_the_bits_of_backends() -> None:
    assert outbound.device(Director("d1", ("eth0",)).mark) == "lp-out-6c690"
    assert SO_MARK == socket.SO_MARK
