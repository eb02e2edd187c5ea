# SPDX-License-Identifier: Apache-2.0
"""An orphan is a guess, and stays one for directors that ask: whoever knows better counts more."""

import asyncio

import numpy as np
import pytest
from scapy.all import IP, IPv6

from limpet.core.ownership import QUESTION, Known
from ownership.directors import Director, introduce, running, until
from packets.case import tcp
from packets.world import ALONE4, IPIP4, L2, REDIRECTED, VIP4, VIP6, vip_id, words_of

pytestmark = pytest.mark.kernel
SYN, ACK = bytes(tcp(VIP4[IPIP4], "S")), bytes(tcp(VIP4[IPIP4], "A"))


def test_guess_of_another_director_counts_less_than_what_its_owner_knows(
    three: list[Director],
) -> None:
    """The one that guessed has asked nobody: it was cut off. Who asks it waits for the owner."""
    a, b, c = three

    async def scenario() -> None:
        first, second, third = a.ownership(), b.ownership(), c.ownership()
        a.move(IPIP4, L2)
        b.move(IPIP4, REDIRECTED)
        async with running(first, second, third):
            c.run(SYN, ACK)
            a.run(ACK)
            await until(first, injected=1, orphaned=1)
            assert (a.counted("rungs"), a.backends()) == ({"orphan": 1}, [L2])
            introduce((a, first), (b, second), (c, third))
            b.run(ACK)
            record = await until(second, injected=1)
            assert (b.counted("rungs"), b.backends()) == ({"owner": 1}, [IPIP4])
            assert (record["owned"], record["orphaned"], record["given_up"]) == (1, 0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4], ALONE4])
def test_guess_of_another_director_is_followed_as_a_guess_if_nobody_knows_better(
    two: list[Director], vip: str
) -> None:
    a, b = two
    packet = bytes(tcp(vip, "A"))

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        a.move(IPIP4, L2)
        async with running(first, second):
            a.run(packet, packet)
            await until(first, injected=2)
            introduce((a, first), (b, second))
            b.run(packet)
            record = await until(second, injected=1)
            assert (b.counted("rungs"), b.backends()) == ({"orphan": 1}, [L2])
            assert (record["owned"], record["orphaned"]) == (0, 1)
            known = [each.answer(question(vip))["known"] for each in (first, second)]
            assert known == [Known.GUESSED, Known.GUESSED]
            assert b.kernel.sessions().census(b.kernel.tick()).total == 0

    asyncio.run(scenario())


def question(vip: str) -> np.void:
    """About the flow of these packets."""
    asked = np.zeros(1, QUESTION)
    packet = tcp(vip, "A")
    client = packet[IPv6].src if IPv6 in packet else packet[IP].src
    asked["client"], asked["vip"] = words_of(client), vip_id(vip)
    asked["client_port"], asked["vip_port"] = 1234, 80
    found: np.void = asked[0]
    return found
