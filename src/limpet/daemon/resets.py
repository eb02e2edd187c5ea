# SPDX-License-Identifier: Apache-2.0
"""Resets: ends TCP flows of a backend that must be left, by a RST to both ends.

A client that says something is heard by the XDP program, which reports its numbers in the ring
`resets`: `answer` sends the RSTs, and sends them a second time a little later, for one may be lost.
A client that is silent is made to say something (daemon/segment.py), again and again until its flow
is no longer wanted, or `TRIES` are over: then it is switched off or cut off, and its flow ends by
its idle timeout, or with the first packet that it sends.

What goes to a backend bears the mark that takes it there as packets of clients are taken. Asking is
bounded in rate; RSTs follow what clients say. Not here: which flows are to end, reading the ring.
"""

import asyncio
import errno
import random
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from limpet.core.errors import DatapathError
from limpet.core.hashing import address
from limpet.core.model import Address
from limpet.daemon.segment import NUMBERS, Flow, Numbers, elicit, reset_backend, reset_client

ELICITED_PER_S = 5_000  # flows whose clients are asked, two packets each
SLICE_S = 0.02  # so many of them at a time
TRIES = 8
# Linux answers one segment outside the window in 0.5 s: asking sooner is in vain.
REPEAT_S = 0.55
AGAIN_S = 0.3  # from the first RSTs to the second
WANTED_MAX = 100_000  # flows at a time; who wants more asks again when some have ended
AGAIN_MAX = 100_000  # second RSTs that wait; beyond it the oldest are left out
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
GIVEN_UP = TRIES + 1


@dataclass
class Record:
    """What was done; for status and metrics."""

    elicited: int = 0  # times that a client was asked
    answered: int = 0  # segments of clients that RSTs were sent for
    given_up: int = 0  # flows whose clients did not answer
    failed: int = 0  # packets that could not be sent
    error: str = ""  # of the last of them


class Resets:
    """The engine of one director. It lives in the thread of the event loop, and never waits."""

    def __init__(self, mark: int) -> None:
        """Opens sockets in the network namespace of the caller. Raises DatapathError."""
        self.record = Record()
        self._mark = mark
        self._to_clients, self._to_backends = _open_sockets(), _open_sockets()
        self._tries: dict[Flow, int] = {}
        self._fresh: deque[Flow] = deque()
        self._asked: deque[tuple[float, Flow]] = deque()  # by when to ask again
        self._again: deque[tuple[float, Flow, Numbers]] = deque(maxlen=AGAIN_MAX)
        self._woken = asyncio.Event()

    def close(self) -> None:
        for each in (*self._to_clients.values(), *self._to_backends.values()):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, mark: int) -> None:
        """The mark of a new configuration file."""
        self._mark = mark

    def want(self, flows: Iterable[Flow]) -> None:
        """These flows are to be ended, and no others: all that a scan has found.

        Those that were wanted before are asked on as they were, new ones at once.
        """
        tries: dict[Flow, int] = {}
        for flow in flows:
            if len(tries) == WANTED_MAX:
                break
            if flow not in self._tries:
                self._fresh.append(flow)
            tries[flow] = self._tries.get(flow, 0)
        self._tries = tries
        self._woken.set()

    @property
    def given_up(self) -> int:
        """Wanted flows whose clients have not answered, and are asked no more."""
        return sum(1 for tries in self._tries.values() if tries == GIVEN_UP)

    def answer(self, records: NDArray[np.void]) -> None:
        """Send RSTs for these records of the ring (datapath.abi.RESET), the newest of each flow.

        What has said something is not asked any more, until it is wanted again.
        """
        due = time.monotonic() + AGAIN_S
        for flow, numbers in dict(decode(records)).items():
            self.record.answered += 1
            self._reset(flow, numbers)
            self._again.append((due, flow, numbers))
            self._tries.pop(flow, None)
        self._woken.set()

    async def run(self) -> None:
        """Ask clients, and send second RSTs, until cancelled."""
        while True:
            self._woken.clear()
            self._send_due(time.monotonic())
            await asyncio.sleep(SLICE_S)
            wait_s = max(self._next_at() - time.monotonic(), 0.0)
            with suppress(TimeoutError):  # not wait_for, which may lose a cancellation
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    def _next_at(self) -> float:
        """When there is something to do; infinity: when something is wanted."""
        if self._fresh:
            return 0.0
        return min(
            self._asked[0][0] if self._asked else float("inf"),
            self._again[0][0] if self._again else float("inf"),
        )

    def _send_due(self, now: float) -> None:
        while self._again and self._again[0][0] <= now:
            _, answered, numbers = self._again.popleft()
            self._reset(answered, numbers)
        for _ in range(int(ELICITED_PER_S * SLICE_S)):
            flow = self._next_due(now)
            if flow is None:
                break
            self._ask(flow, now)

    def _next_due(self, now: float) -> Flow | None:
        """The next flow to be asked; those that nobody has asked yet come first."""
        while self._fresh:
            flow = self._fresh.popleft()
            if self._tries.get(flow) == 0:
                return flow
        while self._asked and self._asked[0][0] <= now:
            _, flow = self._asked.popleft()
            tries = self._tries.get(flow, GIVEN_UP)
            if tries < TRIES:
                return flow
            if tries == TRIES:
                self._tries[flow] = GIVEN_UP
                self.record.given_up += 1
        return None

    def _ask(self, flow: Flow, now: float) -> None:
        self._tries[flow] += 1
        self._asked.append((now + REPEAT_S, flow))
        self.record.elicited += 1
        for packet in elicit(flow, random.randrange(NUMBERS), random.randrange(NUMBERS)):
            self._send(self._to_clients, packet, flow.client)

    def _reset(self, flow: Flow, said: Numbers) -> None:
        self._send(self._to_clients, reset_client(flow, said), flow.client)
        for packet in reset_backend(flow, said):
            self._send(self._to_backends, packet, flow.vip, self._mark | flow.backend)

    def _send(
        self, sockets: "Sockets", packet: bytes, target: Address, mark: int | None = None
    ) -> None:
        try:
            if mark is not None:
                sockets[target.version].setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            sockets[target.version].sendto(packet, (str(target), 0))
        except (OSError, KeyError) as error:
            self.record.failed += 1
            self.record.error = f"cannot send to {target}: {error}"


Sockets = Mapping[int, socket.socket]  # by version of IP


def _open_sockets() -> Sockets:
    """Raw sockets for whole packets; without one for IPv6 where the machine has none."""
    opened = {}
    for version, family in FAMILIES.items():
        try:
            opened[version] = socket.socket(
                family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
            )
        except OSError as error:
            if version == 6 and error.errno == errno.EAFNOSUPPORT:
                continue
            raise DatapathError(
                "open a raw socket", error.errno or 0, error.strerror or ""
            ) from error
    return opened


def decode(records: NDArray[np.void]) -> Iterator[tuple[Flow, Numbers]]:
    """Records of the ring `resets` (datapath.abi.RESET), in their order."""
    for each in records:
        client, vip = (_address(each[name].tobytes()) for name in ("client", "vip_address"))
        ports = int(each["client_port"]), int(each["vip_port"])
        numbers = Numbers(int(each["sequence"]), int(each["acknowledged"]))
        yield Flow(client, ports[0], vip, ports[1], int(each["backend"])), numbers


def _address(data: bytes) -> Address:
    return address(int.from_bytes(data[:8]), int.from_bytes(data[8:]))
