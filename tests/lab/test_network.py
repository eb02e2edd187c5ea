# SPDX-License-Identifier: Apache-2.0
"""The lab's network carries packets as real machines would, without any limpet process."""

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest
from pyroute2 import IPRoute

from limpet.core.model import Address
from limpet.lab import changes, namespace, probe
from limpet.lab.network import netns_of
from limpet.lab.state import State
from limpet.lab.topology import INTERFACE

pytestmark = pytest.mark.lab

PORT = 7000
TRANSFER_BYTES = 8_000_000
WAIT_S = 1.0


def opened(now: State, host: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the host."""
    with namespace.inside(netns_of(now.lab, now.topology.find(host))):
        made = socket.socket(family, kind, protocol)
    made.settimeout(WAIT_S)
    return made


def family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def own_addresses(now: State, host: str) -> list[Address]:
    found = now.topology.find(host)
    return [now.topology.interface4(found).ip, now.topology.interface6(found).ip]


def answers(now: State, asker: Address, target: Address, host: str = "client1") -> bool:
    with probe.Listener(netns_of(now.lab, now.topology.find(host)), asker) as listener:
        listener.ask(target, 1)
        return listener.hears(target, 1, WAIT_S)


def test_every_host_answers_a_client_over_both_families(network: State) -> None:
    for host in network.topology.host:
        for target in network.topology.addresses(host)[:4]:
            asker = own_addresses(network, "client1")[target.version == 6]
            assert answers(network, asker, target), f"{host.name} {target}"


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_carries_bulk_data_both_ways(network: State, version: int) -> None:
    """What arrives is what was sent, over a path whose interfaces have no offloads."""
    address = own_addresses(network, "b1")[version == 6]
    sent = os.urandom(TRANSFER_BYTES)
    with opened(network, "b1", family(address), socket.SOCK_STREAM) as server:
        server.bind((str(address), PORT))
        server.listen()
        echoing = threading.Thread(target=_echo_once, args=[server])
        echoing.start()
        with opened(network, "client1", family(address), socket.SOCK_STREAM) as client:
            client.connect((str(address), PORT))
            sending = threading.Thread(target=_send, args=[client, sent])
            sending.start()
            returned = _read_all(client)
            sending.join()
        echoing.join()
    assert hashlib.sha256(returned).digest() == hashlib.sha256(sent).digest()


def _send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def _read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(65_536):
        chunks.append(chunk)
    return b"".join(chunks)


def _echo_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(WAIT_S)
        connection.sendall(_read_all(connection))


def test_client2_speaks_from_512_addresses_of_each_family(network: State) -> None:
    """Each address can be bound, a datagram from it arrives, and the answer comes back to it."""
    addresses = network.topology.addresses(network.topology.find("client2"))
    for version in (4, 6):
        mine = [address for address in addresses if address.version == version]
        assert len(set(mine)) == 512
        target = own_addresses(network, "b2")[version == 6]
        with opened(network, "b2", family(target), socket.SOCK_DGRAM) as server:
            server.bind((str(target), PORT))
            for address in mine:
                _speak_from(network, address, target, server)


def _speak_from(now: State, address: Address, target: Address, server: socket.socket) -> None:
    with opened(now, "client2", family(address), socket.SOCK_DGRAM) as client:
        client.bind((str(address), 0))
        client.sendto(b"from", (str(target), PORT))
        data, sender = server.recvfrom(100)
        assert (data, sender[0]) == (b"from", str(address))
        server.sendto(b"back", sender)
        assert client.recv(100) == b"back"


def test_ipv6_sources_have_a_64_each(network: State) -> None:
    addresses = network.topology.addresses(network.topology.find("client2"))
    sixty_fours = {
        IPv6Network((address, 64), strict=False)
        for address in addresses
        if isinstance(address, IPv6Address)
    }
    assert len(sixty_fours) == 512


@pytest.fixture
def wire(network: State) -> Iterator[socket.socket]:
    """Hears every frame that arrives at the director."""
    with opened(network, "fra-d1", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard:
        heard.bind((INTERFACE, 3))
        yield heard


def _frame_to(wire: socket.socket, vip: Address) -> bytes:
    offset = 30 if vip.version == 4 else 38
    while True:
        frame = wire.recv(2000)
        if frame[offset : offset + len(vip.packed)] == vip.packed:
            return frame[14:]


@pytest.mark.parametrize("place", [0, 1])
def test_vip_packets_arrive_at_the_director_with_finished_checksums(
    network: State, wire: socket.socket, place: int
) -> None:
    """An XDP program must never see a packet whose checksum was left to the hardware."""
    vip = network.topology.vip[place].address
    with opened(network, "client1", family(vip), socket.SOCK_DGRAM) as client:
        client.sendto(b"datagram", (str(vip), PORT))
        source = client.getsockname()
        packet = _frame_to(wire, vip)
    assert source is not None
    length = len(vip.packed)
    header = 20 if vip.version == 4 else 40
    addresses = packet[header - 2 * length : header]
    pseudo = addresses + struct.pack("!II", len(packet) - header, socket.IPPROTO_UDP)
    assert probe.checksum(pseudo + packet[header:]) == b"\0\0"


def test_an_encapsulated_packet_is_not_answered_without_an_agent(network: State) -> None:
    """The question with which `up` proves that an agent works has no answer before."""
    vip = network.topology.vip[0].address
    client = own_addresses(network, "client1")[0]
    router = netns_of(network.lab, network.topology.router())
    with probe.Listener(netns_of(network.lab, network.topology.find("client1")), client) as heard:
        inner = probe.packet(client, vip, heard.request(vip, 1))
        source = own_addresses(network, "fra-d1")[0]
        probe.send_encapsulated(router, source, own_addresses(network, "b1")[0], inner)
        assert not heard.hears(vip, 1, 0.2)


@pytest.mark.parametrize("name", ["client2", "router"])
def test_a_killed_host_is_silent_until_it_is_started(network: State, name: str) -> None:
    """Killed means no process and no link; started means addresses and routes as before."""
    target = own_addresses(network, "client2")
    asker = own_addresses(network, "client1")
    host = network.topology.find(name)
    changes.kill(network.lab, name, daemon_only=False)
    try:
        assert namespace.processes(netns_of(network.lab, host)) == []
        assert not any(map(answers, [network] * 2, asker, target))
    finally:
        changes.start(network.lab, name)
    last = network.topology.addresses(network.topology.find("client2"))[-1]
    for mine, its in [*zip(asker, target, strict=True), (asker[1], last)]:
        # On a busy machine neighbours may still be asked for when the first question comes.
        assert any(answers(network, mine, its) for _ in range(3)), its


def test_nothing_appears_outside_of_the_namespaces(network: State) -> None:
    """Links are made inside namespaces, so labs cannot collide with each other or the machine."""
    with IPRoute() as outside:
        names = {link.get_attr("IFLA_IFNAME") for link in outside.get_links()}
    assert not names & {host.name for host in network.topology.host}


def test_backends_stay_silent_about_a_vip_on_the_shared_segment(network: State) -> None:
    """A backend has the VIP too; if it answered ARP for it, the router would pass the director."""
    vip = network.topology.vip[0].address
    b1 = network.topology.find("b1")
    with namespace.netlink(netns_of(network.lab, b1)) as socket_:
        loopback = socket_.link_lookup(ifname="lo")[0]
        socket_.addr("add", index=loopback, address=str(vip), prefixlen=32)
        try:
            assert not _answers_arp(network, "b2", vip)
            assert _answers_arp(network, "b2", own_addresses(network, "b1")[0])
        finally:
            socket_.addr("delete", index=loopback, address=str(vip), prefixlen=32)


def _answers_arp(now: State, asker: str, target: Address) -> bool:
    """Ask "who has target" on the segment of the asker."""
    with opened(now, asker, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
        wire.bind((INTERFACE, 0x0806))
        wire.settimeout(0.3)
        mac = wire.getsockname()[4]
        source = own_addresses(now, asker)[0].packed
        request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + source + bytes(6)
        wire.send(b"\xff" * 6 + mac + b"\x08\x06" + request + target.packed)
        try:
            while True:
                frame = wire.recv(100)
                if frame[20:22] == b"\0\2" and frame[28:32] == target.packed:
                    return True
        except TimeoutError:
            return False
