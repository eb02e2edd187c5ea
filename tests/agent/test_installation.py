# SPDX-License-Identifier: Apache-2.0
"""The agent on a machine: ordinary sockets get what directors send, and nothing is left behind."""

import socket
from collections.abc import Iterator

import pytest

from agent.namespaces import VIP4, VIP6, Director, Pair, family_of, listening
from limpet.agent import installation
from limpet.agent.config import AgentConfig

pytestmark = pytest.mark.kernel


def configuration(pair: Pair, **more: object) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "name": pair.name,
            "interface": "eth0",
            "directors": ["100.64.0.0/16", "fd00:11be:7::/96"],
            "vips": [VIP4, VIP6],
            **more,
        }
    )


@pytest.fixture(params=["native", "generic"])
def installed(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with pair.inside(pair.backend):
        installation.apply(configuration(pair, xdp=request.param))
        try:
            yield pair
        finally:
            installation.remove(pair.name)


@pytest.mark.parametrize("vip", [VIP4, VIP6])
@pytest.mark.parametrize("outer", [4, 6])
def test_datagrams_reach_a_socket_on_the_vip(installed: Pair, vip: str, outer: int) -> None:
    with listening(installed, vip, socket.SOCK_DGRAM) as server, Director(installed, outer):
        with installed.inside(installed.client):
            client = socket.socket(family_of(vip), socket.SOCK_DGRAM)
        with client:
            client.settimeout(3)
            client.connect((vip, 7))
            client.send(b"question")
            data, sender = server.recvfrom(100)
            server.sendto(data + b" answered", sender)
            assert client.recv(100) == b"question answered"
