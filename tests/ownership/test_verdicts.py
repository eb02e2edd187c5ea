# SPDX-License-Identifier: Apache-2.0
"""What was decided about flows: how long it stays in the kernel, and what of it is removed."""

import asyncio

import numpy as np
import pytest

from limpet.core.ownership import ANSWER, QUESTION, Known
from limpet.daemon.ownership.record import Record
from limpet.daemon.ownership.verdicts import ORPHAN_S, OWNER_S, RETURNS_MAX, Verdicts
from limpet.datapath.abi import EXCEPTION, EXCEPTION_KEY, ExceptionFlag, ExceptionKind
from ownership.directors import Director, running
from packets.world import IPIP4

pytestmark = pytest.mark.kernel


def test_what_a_daemon_before_left_is_removed_and_what_was_told_stays(two: list[Director]) -> None:
    a, _ = two
    keys, values = np.zeros(3, EXCEPTION_KEY), np.zeros(3, EXCEPTION)
    keys["vip"], keys["kind"], keys["range"] = 1, ExceptionKind.FLOW, [1, 2, 3]
    values["flags"] = [0, ExceptionFlag.ANSWER, ExceptionFlag.ORPHAN]
    a.kernel.directory().put(keys, values)

    async def scenario() -> None:
        async with running(a.ownership()):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert a.kernel.directory().items()[0]["range"].tolist() == [1]


def test_verdict_is_removed_from_the_kernel_when_its_time_is_over(two: list[Director]) -> None:
    """But not an exception that the session directory has put there meanwhile."""
    a, _ = two
    verdicts, now = Verdicts(a.kernel, Record()), 100.0
    questions = np.zeros(3, QUESTION)
    questions["vip"], questions["client_port"] = 1, [1, 2, 3]
    answers = np.zeros(3, ANSWER)
    answers["known"], answers["backend"] = [Known.OPEN, 0, 0], [IPIP4, 0, 0]
    flows = [each.tobytes() for each in questions]
    assert verdicts.settle(flows, questions, answers, now) == 3
    keys, values = a.kernel.directory().items()
    told = keys["range"] == 3 << 16
    a.kernel.directory().put(keys[told], np.zeros(1, EXCEPTION))
    assert sorted(values["flags"].tolist()) == [4, 4, 8]
    for later, left in ((0.9, 3), (ORPHAN_S, 2), (OWNER_S - 0.1, 2), (OWNER_S, 1)):
        while verdicts.forget(now + later):
            pass
        assert len(a.kernel.directory().items()[0]) == left
    assert a.kernel.directory().items()[0]["range"].tolist() == [3 << 16]


def test_what_another_director_guessed_is_followed_and_asked_for_again_soon(
    two: list[Director],
) -> None:
    a, _ = two
    verdicts = Verdicts(a.kernel, record := Record())
    answers = np.zeros(1, ANSWER)
    answers["known"], answers["backend"] = Known.GUESSED, IPIP4
    assert verdicts.settle([b"flow"], np.zeros(1, QUESTION), answers, 0.0) == 1
    (found,) = a.kernel.directory().items()[1]
    assert (found["backend"], found["flags"]) == (
        IPIP4,
        ExceptionFlag.ANSWER | ExceptionFlag.ORPHAN,
    )
    assert (record.owned, record.orphaned) == (0, 1)
    assert not verdicts.is_settled(b"flow", ORPHAN_S)


def test_flow_whose_packets_come_back_again_and_again_is_asked_for_anew(
    two: list[Director],
) -> None:
    a, _ = two
    verdicts = Verdicts(a.kernel, record := Record())
    questions = np.zeros(1, QUESTION)
    verdicts.settle([b"flow"], questions, np.zeros(1, ANSWER), 0.0)
    settled = [verdicts.is_settled(b"flow", 0.5) for _ in range(RETURNS_MAX + 1)]
    assert settled == [True] * RETURNS_MAX + [False]
    assert record.looped == 1
