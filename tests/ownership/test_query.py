# SPDX-License-Identifier: Apache-2.0
"""Directors that ask each other, with real tables and sockets: who knows a flow, who decides."""

import asyncio
import socket
from dataclasses import replace
from time import monotonic, time_ns

import numpy as np
import pytest

from limpet.core.ownership import ANSWER, QUESTION, Known
from limpet.core.sealing import TIME_WINDOW_MS, Datagram, Kind, Seal
from limpet.daemon.ownership.holding import WAITING_OF_FLOW_MAX
from limpet.daemon.ownership.ownership import STALE_TICKS
from ownership.directors import (
    CLUSTER,
    KEY,
    Director,
    introduce,
    running,
    unsure,
    until,
)
from packets.case import tcp
from packets.world import FLOW4, IMAGE, IPIP4, L2, REDIRECTED, SHIFTED, VIP4, VIP6

pytestmark = pytest.mark.kernel
SYN, ACK = bytes(tcp(VIP4[IPIP4], "S")), bytes(tcp(VIP4[IPIP4], "A"))
NOWHERE = ("127.0.0.1", 9)


@pytest.mark.parametrize("vip", [VIP4[IPIP4], VIP6[IPIP4], FLOW4])
def test_packet_of_a_flow_that_another_director_knows_goes_to_its_backend(
    two: list[Director], vip: str
) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        async with running(first, second):
            b.run(bytes(tcp(vip, "S")), bytes(tcp(vip, "A")))
            found = b.backends()
            assert len(found) == 1
            a.move(SHIFTED if vip == FLOW4 else IPIP4, L2)
            a.run(bytes(tcp(vip, "A")))
            assert a.counted("verdicts") == {"held": 1}
            record = await until(first, injected=1)
            assert a.counted("rungs") == {"owner": 1}
            assert a.backends() == found
            assert (record["asked"], record["owned"], record["waiting"]) == (1, 1, 0)
            assert second.record()["answered_known"] == 1

    asyncio.run(scenario())


def test_flow_that_nobody_knows_is_an_orphan_and_not_asked_for_again_at_once(
    two: list[Director],
) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        async with running(first, second):
            a.run(ACK)
            await until(first, injected=1)
            assert a.counted("rungs") == {"orphan": 1}
            assert a.counted("events")["orphan_unknown"] == 1
            record = first.record()
            assert (record["asked"], record["orphaned"], record["given_up"]) == (1, 1, 0)
            a.kernel.forget_flows()
            a.run(ACK)
            assert a.counted("rungs") == {"orphan": 2}
            assert first.record()["held"] == 1

    asyncio.run(scenario())


def test_packets_of_one_flow_wait_for_one_question_and_only_some_of_them(
    two: list[Director],
) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        b.run(SYN, ACK)
        a.run(*[ACK] * (WAITING_OF_FLOW_MAX + 3))
        async with running(first, second):
            record = await until(first, injected=WAITING_OF_FLOW_MAX)
            assert record["asked"] == 1
            assert record["joined"] == WAITING_OF_FLOW_MAX - 1
            assert record["flow_full"] == 3
            assert second.record()["answered"] == 1

    asyncio.run(scenario())


def test_questions_about_many_flows_travel_together(two: list[Director]) -> None:
    a, b = two
    ports = range(2_000, 2_050)

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        for port in ports:
            b.run(bytes(tcp(VIP4[IPIP4], "S", port)), bytes(tcp(VIP4[IPIP4], "A", port)))
            a.run(bytes(tcp(VIP4[IPIP4], "A", port)))
        async with running(first, second):
            record = await until(first, injected=len(ports))
            assert record["owned"] == len(ports)
            assert record["sent"] == 2  # 47 fit into a datagram

    asyncio.run(scenario())


def test_owner_that_was_asked_again_answers_as_well(two: list[Director]) -> None:
    """The first datagram gets lost: it goes to nobody."""
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        first.peers({"b": NOWHERE})
        async with running(first, second):
            b.run(SYN, ACK)
            a.run(ACK)
            await until(first, asked=1)
            introduce((a, first), (b, second))
            record = await until(first, injected=1)
            assert a.counted("rungs") == {"owner": 1}
            assert record["repeated"] >= 1

    asyncio.run(scenario())


def test_director_whose_machine_stalls_is_waited_for(two: list[Director]) -> None:
    """It alone knows the flow, and answers after half a second: no guess meanwhile."""
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        b.run(SYN, ACK)
        a.run(ACK)
        async with running(first):
            await until(first, asked=1)
            await asyncio.sleep(0.5)
            assert first.record()["waiting"] == 1
            async with running(second):
                record = await until(first, injected=1)
        assert (record["owned"], record["given_up"], record["orphaned"]) == (1, 0, 0)
        assert a.backends() == b.backends()

    asyncio.run(scenario())


def test_packets_wait_until_it_is_known_whom_to_ask(two: list[Director]) -> None:
    """A daemon has just started, and has not read yet who is there."""
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        second.peers({"a": first.address})
        b.run(SYN, ACK)
        a.run(ACK)
        async with running(first, second):
            await asyncio.sleep(0.2)
            assert first.record()["held"] == 0
            first.peers({"b": second.address})
            record = await until(first, injected=1)
        assert (record["owned"], record["orphaned"], record["alone"]) == (1, 0, 0)

    asyncio.run(scenario())


def test_who_does_not_learn_whom_to_ask_decides_alone(two: list[Director]) -> None:
    a, _ = two

    async def scenario() -> None:
        first = a.ownership()
        a.run(ACK)
        async with running(first):
            record = await until(first, injected=1)
        assert (record["orphaned"], record["alone"]) == (1, 1)

    asyncio.run(scenario())


def test_director_that_is_gone_costs_a_second_and_later_nothing(two: list[Director]) -> None:
    """Flows that nobody knows are decided without it, once it has been silent for a second."""
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        first.peers({"b": second.address, "gone": NOWHERE})
        async with running(first, second):
            began = monotonic()
            for i in range(3):
                a.run(bytes(tcp(FLOW4, "A", 3_000 + i)))
                await until(first, injected=i + 1)
                if i == 0:
                    assert monotonic() - began > 0.9
                    await asyncio.sleep(0.2)
            record = first.record()
            assert (record["given_up"], record["without_silent"]) == (1, 2)
            assert record["silent_peers"] == 1

    asyncio.run(scenario())


def test_open_flow_is_decided_without_waiting_for_a_director_that_is_gone(
    two: list[Director],
) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        first.peers({"b": second.address, "gone": NOWHERE})
        b.run(SYN, ACK)
        a.run(ACK)
        async with running(first, second):
            record = await until(first, injected=1)
            assert (record["owned"], record["given_up"], record["repeated"]) == (1, 0, 0)

    asyncio.run(scenario())


def test_of_two_directors_the_one_that_has_the_flow_open_is_believed(
    three: list[Director],
) -> None:
    """The other only knows the client, by a session at another backend."""
    a, b, c = three

    async def scenario() -> None:
        each = [(one, one.ownership()) for one in three]
        introduce(*each)
        b.run(SYN, ACK)
        c.move(IPIP4, REDIRECTED)
        c.run(bytes(tcp(VIP4[IPIP4], "S", 7_777)), bytes(tcp(VIP4[IPIP4], "A", 7_777)))
        a.move(IPIP4, L2)
        a.run(ACK)
        async with running(*(ownership for _, ownership in each)):
            await until(each[0][1], injected=1)
        assert a.backends() == [IPIP4]

    asyncio.run(scenario())


def test_session_of_the_client_answers_for_a_flow_that_nobody_has(two: list[Director]) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        b.move(IPIP4, REDIRECTED)
        b.run(bytes(tcp(VIP4[IPIP4], "S", 7_777)), bytes(tcp(VIP4[IPIP4], "A", 7_777)))
        a.run(ACK)
        async with running(first, second):
            await until(first, injected=1)
        assert a.backends() == [REDIRECTED]

    asyncio.run(scenario())


def test_director_alone_decides_at_once(two: list[Director]) -> None:
    a, _ = two

    async def scenario() -> None:
        alone = a.ownership()
        a.run(ACK)
        async with running(alone):
            record = await until(alone, injected=1)
            assert (record["orphaned"], record["sent"]) == (1, 0)

    asyncio.run(scenario())


def test_datagrams_of_others_are_refused_and_counted(three: list[Director]) -> None:
    """Signed with another key, or for a cluster of another name."""
    a, b, c = three

    async def scenario() -> None:
        first = a.ownership()
        strangers = [b.ownership(key=b"another secret of 32 bytes or so"), c.ownership("other")]
        for stranger in strangers:
            stranger.peers({"a": first.address})
        b.run(ACK)
        c.run(ACK)
        async with running(first, *strangers):
            await until(first, refused_forged=6)
            for stranger in strangers:
                await until(stranger, given_up=1, orphaned=1)
            assert first.record()["answered"] == 0

    asyncio.run(scenario())


def test_recorded_datagram_is_taken_once_and_not_after_its_time(two: list[Director]) -> None:
    a, _ = two
    seal, now_ms = Seal(CLUSTER, KEY), time_ns() // 1_000_000
    questions = np.zeros(1, QUESTION)

    async def scenario() -> None:
        first = a.ownership()
        async with running(first):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.connect(first.address)
                said = seal.close(Datagram(Kind.QUESTIONS, "b", now_ms, 1, 0, questions))
                old = Datagram(Kind.QUESTIONS, "b", now_ms - TIME_WINDOW_MS - 1, 2, 0, questions)
                own = Datagram(Kind.QUESTIONS, "a", now_ms, 3, 0, questions)
                for data in (said, said, seal.close(old), seal.close(own), b"x", said[:-1]):
                    peer.send(data)
            record = await until(first, refused_malformed=2)
            assert record["answered"] == 1
            names = ("refused_replayed", "refused_outdated", "refused_own", "refused_forged")
            assert [record[name] for name in names] == [1, 1, 1, 0]

    asyncio.run(scenario())


def test_answers_that_nobody_waits_for_change_nothing(two: list[Director]) -> None:
    """An answer to another datagram, or from a director that was not asked."""
    a, b = two
    seal, now_ms = Seal(CLUSTER, KEY), time_ns() // 1_000_000
    answers = np.zeros(1, ANSWER)
    answers["known"], answers["backend"] = Known.OPEN, REDIRECTED

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        a.run(bytes(tcp(FLOW4, "A")))
        async with running(first):
            await until(first, sent=1)
            number = first._endpoint._number
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.connect(first.address)
                for sender, about in (("b", number + 1_000), ("c", number)):
                    said = Datagram(Kind.ANSWERS, sender, now_ms, 1, about, answers)
                    peer.send(seal.close(said))
            record = await until(first, answers_late=2, injected=1)
            assert (record["orphaned"], record["owned"]) == (1, 0)

    asyncio.run(scenario())


def test_backend_that_is_not_known_here_is_no_answer(two: list[Director]) -> None:
    a, b = two

    async def scenario() -> None:
        first, second = a.ownership(), b.ownership()
        introduce((a, first), (b, second))
        b.run(SYN, ACK)
        a.apply(replace(unsure(), backends=tuple(r for r in IMAGE.backends if r.id != IPIP4)))
        a.run(ACK)
        async with running(first, second):
            record = await until(first, injected=1)
            assert (record["backend_unknown"], record["orphaned"]) == (1, 1)

    asyncio.run(scenario())


def test_bug_in_a_step_ends_the_task(two: list[Director]) -> None:
    """It is not left to the log of the event loop."""
    a, _ = two

    async def scenario() -> None:
        first = a.ownership()
        first.peers({"b": ("127.0.0.1", "no port")})  # type: ignore[dict-item]
        a.run(ACK)
        with pytest.raises(TypeError):
            await asyncio.wait_for(first.run(), 2)

    asyncio.run(scenario())


def test_packets_that_have_waited_for_a_daemon_are_dropped(two: list[Director]) -> None:
    """The ring may hold them since yesterday; a tick that is ahead is no age."""
    a, _ = two
    a.run(*(bytes(tcp(FLOW4, "A", 4_000 + i)) for i in range(3)))
    ring = a.kernel.held()
    records = ring.read().copy()
    ring.close()
    ages = np.array([STALE_TICKS + 1, STALE_TICKS, -1])
    records["tick"] = (a.kernel.tick() - ages) % (1 << 32)

    async def scenario() -> None:
        first = a.ownership()
        first.take(records, monotonic())
        record = first.record()
        assert (record["held"], record["stale"], record["asked"]) == (3, 1, 2)

    asyncio.run(scenario())
