# SPDX-License-Identifier: Apache-2.0
"""Replies that leave by an exit: a backend's agent on one side, an exit's on the other."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from agent.namespaces import (
    BACKEND4,
    BACKEND6,
    CLIENT4,
    CLIENT6,
    VETH,
    VIP4,
    VIP6,
    Director,
    Pair,
    ask,
    ask_once,
    calling,
    listening,
)
from limpet.agent import installation, programs, report, way
from limpet.agent.config import AgentConfig, ExitConfig
from limpet.core.errors import NotFound, Unsupported
from limpet.lab import namespace

pytestmark = pytest.mark.kernel

OWN = ["100.64.0.0/16", "fd00:11be:7::/96"]
OTHER = ["100.65.0.0/16", "fd00:11be:8::/96"]
BY_OTHER = {4: "100.65.9.9", 6: "fd00:11be:8::9:9"}
EXITS = {4: CLIENT4, 6: CLIENT6}
SECOND, CHECKING = "10.0.0.3", "10.0.0.4"
SILENCE_S = 0.3
TRIES_MAX = 20
BULK = 300_000
FORWARDING = {"ipv4.ip_forward": "1", "ipv6.conf.all.forwarding": "1"}


def backend(pair: Pair, address: str, own: list[str] = OWN) -> AgentConfig:
    exits = [{"directors": OTHER, "address": address}]
    return AgentConfig.model_validate(
        {
            "name": pair.name,
            "interface": VETH,
            "directors": own,
            "vips": [VIP4, VIP6],
            "exits": exits,
        }
    )


def exit_of(pair: Pair) -> ExitConfig:
    backends = [f"{BACKEND4}/32", f"{BACKEND6}/128"]
    return ExitConfig.model_validate(
        {
            "name": f"{pair.name}x",
            "interface": VETH,
            "backends": backends,
            "vips": [VIP4, VIP6],
        }
    )


@pytest.fixture
def ends(pair: Pair) -> Iterator[Pair]:
    """The client's machine is the exit as well."""
    namespace.sysctl(pair.client, FORWARDING)
    try:
        with pair.inside(pair.client):
            installation.apply(exit_of(pair))
        yield pair
    finally:
        for place, name in ((pair.client, f"{pair.name}x"), (pair.backend, pair.name)):
            with pair.inside(place), contextlib.suppress(NotFound):
                installation.remove(name)


def apply(pair: Pair, address: str) -> None:
    with pair.inside(pair.backend):
        installation.apply(backend(pair, address))


def counted(pair: Pair) -> dict[str, int]:
    """What the backend's agent did with replies, without zeros."""
    with pair.inside(pair.backend):
        found = report.read(pair.name).counters
    return {name: count for name, count in found.items() if "reply" in name and count}


def at_exit(pair: Pair) -> int:
    with pair.inside(pair.client):
        found = report.read(f"{pair.name}x")
    assert found.problems() == []
    return found.counters["decapsulated"]


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_reply_leaves_as_its_clients_packets_come_in(ends: Pair, outer: int, vip: str) -> None:
    apply(ends, EXITS[outer])
    with listening(ends, vip, socket.SOCK_DGRAM) as server:
        with Director(ends, outer):
            assert ask_once(ends, server, vip)
        assert (counted(ends), at_exit(ends)) == ({"reply_direct": 1}, 0)
        with Director(ends, outer, BY_OTHER[outer]):
            assert ask_once(ends, server, vip)
        assert (counted(ends), at_exit(ends)) == ({"reply_direct": 1, "reply_exit": 1}, 1)
        with Director(ends, outer):  # and back
            assert ask_once(ends, server, vip)
    assert (counted(ends), at_exit(ends)) == ({"reply_direct": 2, "reply_exit": 1}, 1)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_bulk_fits_through_the_exit(ends: Pair, outer: int, vip: str) -> None:
    apply(ends, EXITS[outer])
    with (
        listening(ends, vip, socket.SOCK_STREAM) as server,
        Director(ends, outer, BY_OTHER[outer]),
        calling(ends, vip, socket.SOCK_STREAM) as client,
    ):
        client.connect((vip, 7))
        served, _ = server.accept()
        with served:
            served.sendall(bytes(BULK // 10))
            left = BULK // 10
            while left:
                left -= len(client.recv(left))
    assert counted(ends).keys() == {"reply_exit"}


def late(server: socket.socket, client: socket.socket) -> bool:
    """Whether the client gets what the server sends of its own accord."""
    server.sendto(b"late", client.getsockname()[:2])
    return client.recv(100) == b"late"


def test_a_silent_client_is_sent_to_by_the_pop_that_others_use(
    ends: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks of directors prove nothing: they come in by a PoP that has withdrawn as well."""
    monkeypatch.setattr(programs, "SILENCE_S", SILENCE_S)
    apply(ends, CLIENT4)
    with namespace.netlink(ends.client) as link:
        for address in (SECOND, CHECKING):
            index = link.link_lookup(ifname=VETH)[0]
            link.addr("add", index=index, address=address, prefixlen=24)
    with (
        listening(ends, VIP4, socket.SOCK_DGRAM) as server,
        calling(ends, VIP4, socket.SOCK_DGRAM) as silent,
        calling(ends, VIP4, socket.SOCK_DGRAM) as second,
        calling(ends, VIP4, socket.SOCK_DGRAM) as checking,
    ):
        second.bind((SECOND, 0))
        checking.bind((CHECKING, 0))
        checking.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        with Director(ends, 4):
            for each in (silent, second, checking):
                each.connect((VIP4, 7))
            assert ask(silent, server)
        time.sleep(2 * SILENCE_S)
        with Director(ends, 4, BY_OTHER[4]):
            assert ask(checking, server)
            assert late(server, silent)
            assert counted(ends) == {"reply_direct": 2, "reply_exit": 1}
            tries = 0
            while "reply_moved" not in counted(ends):
                tries += 1
                assert tries <= TRIES_MAX
                assert ask(second, server)
                assert late(server, silent)
    # A try in which this machine stood still for SILENCE_S proves nothing of the other PoP.
    assert counted(ends) == {
        "reply_direct": 2 + (tries - 1),
        "reply_exit": 2 + tries,
        "reply_moved": 1,
    }


def test_a_reply_without_a_route_to_its_exit_is_counted(ends: Pair) -> None:
    apply(ends, "10.9.9.9")
    with (
        listening(ends, VIP4, socket.SOCK_DGRAM) as server,
        Director(ends, 4, BY_OTHER[4]),
        calling(ends, VIP4, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(SILENCE_S)
        client.connect((VIP4, 7))
        with pytest.raises(TimeoutError):
            ask(client, server)
    assert counted(ends) == {"drop_reply_route": 1}


def ways(pair: Pair) -> tuple[int, int]:
    """Devices and rules of the way to exits."""
    with namespace.netlink(pair.backend) as link:
        table = way.table(pair.name)
        rules = [each for each in link.get_rules() if each.get_attr("FRA_TABLE") == table]
        return len(link.link_lookup(ifname=way.device(pair.name))), len(rules)


def test_exits_come_and_go_with_the_configuration(ends: Pair) -> None:
    apply(ends, CLIENT4)
    assert ways(ends) == (1, 2)
    with ends.inside(ends.backend):
        assert report.read(ends.name).problems() == []
        plain = backend(ends, CLIENT4).model_copy(update={"exits": []})
        installation.apply(plain)
    assert ways(ends) == (0, 0)
    apply(ends, CLIENT4)
    with ends.inside(ends.backend):
        installation.remove(ends.name)
    assert ways(ends) == (0, 0)


def test_an_exit_that_does_not_forward_is_refused(pair: Pair) -> None:
    namespace.sysctl(pair.client, dict.fromkeys(FORWARDING, "0"))
    with pair.inside(pair.client), pytest.raises(Unsupported, match="IPv4 is not forwarded here"):
        installation.apply(exit_of(pair))
