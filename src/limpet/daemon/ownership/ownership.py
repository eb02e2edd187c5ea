# SPDX-License-Identifier: Apache-2.0
"""Ownership: packets of unknown flows wait here while the other directors are asked.

The kernel holds a packet (ring `held`); one question per flow goes out; the answer, or that nobody
knows, is written into the kernel's directory as an exception of this flow; then its packets take
the ladder again. What was decided is remembered as long as that exception lives.

Everything runs in the event loop, beside health checks, so it is bounded by shares of its time,
`ASKING_SHARE` and `ANSWERING_SHARE`. Above them the ring stays full, and the program sends unknown
flows home, as orphans; other directors' questions stay without an answer. Nothing here ever waits.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Protocol

import numpy as np

from limpet.core.errors import DatapathError
from limpet.core.ownership import QUESTION, Known, Records
from limpet.core.sealing import Datagram, Kind, Seal, questions_max
from limpet.daemon.ownership.answering import Answering, Tables
from limpet.daemon.ownership.asking import Asking, Decided, Steps
from limpet.daemon.ownership.budget import Budget
from limpet.daemon.ownership.endpoint import Endpoint
from limpet.daemon.ownership.holding import Holding, Packet
from limpet.daemon.ownership.peers import Endpoint as Address
from limpet.daemon.ownership.peers import Peers
from limpet.daemon.ownership.record import Record
from limpet.daemon.ownership.verdicts import Verdicts
from limpet.datapath.clock import hz
from limpet.datapath.held import frames
from limpet.datapath.inject import inject
from limpet.datapath.ring import Ring
from limpet.datapath.settings import tick_s

ASKING_SHARE = 0.3  # of the event loop's time: reading the ring, asking, giving packets back
ANSWERING_SHARE = 0.2  # the same, for questions of other directors
SAVED_S = 0.02  # of either, for bursts
# A slice is what is done before others have their turn: a few milliseconds.
RECORDS_A_SLICE = 64  # of the ring
DATAGRAMS_A_SLICE = 3
GROUPS_A_SLICE = 2
PACKETS_A_SLICE = 64  # given back
FORGET_PERIOD_S = 0.05
FORGET_SLICE_S = 0.004
INTRODUCTION_S = 2.0  # that packets wait at the start for somebody who can be asked
STALE_TICKS = 12  # about 3 s: who sent such a packet has sent it again since
PAUSE_S = 0.005


class Kernel(Tables, Protocol):
    """What is asked of a director's kernel."""

    @property
    def program(self) -> int: ...
    def held(self) -> Ring: ...


class Ownership:
    """The queries of one director. It lives in the thread of the event loop."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        name: str,
        cluster: str,
        key: bytes,
        listen: Address,
        generation: Callable[[], int] = lambda: 0,
    ) -> None:
        """`key`: the cluster's secret; `generation`: of the registry in effect. Opens the socket,
        in the network namespace of the caller. Raises DatapathError."""
        now = time.monotonic()
        self.counts = Record()
        self._kernel, self._name = kernel, name
        self._endpoint = Endpoint(name, listen, Seal(cluster, key), self.counts)
        self._peers, self._holding = Peers(), Holding()
        self._asking = Asking(self._peers, self._endpoint.next_number)
        self._answering = Answering(kernel, generation, tick_s(hz()) * 1_000)
        self._verdicts = Verdicts(kernel, self.counts)
        self._ask_budget = Budget(ASKING_SHARE, SAVED_S, now)
        self._answer_budget = Budget(ANSWERING_SHARE, SAVED_S, now)
        self._most = questions_max(name)
        self._ring: Ring | None = None
        self._is_reading = False
        self._is_introduced = False  # peers are known, be it that there are none
        self._timer: asyncio.TimerHandle | None = None
        self._failed: asyncio.Future[None]

    # --- For others -------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where this director listens."""
        return self._endpoint.address

    def peers(self, addresses: Mapping[str, Address]) -> None:
        """The other directors, from now on, by name; our own name among them is left out."""
        self._peers.update({who: at for who, at in addresses.items() if who != self._name})
        if not self._is_introduced:
            self._is_introduced = True
            self._resume()

    def answer(self, question: np.void) -> np.void:
        """What this director knows: ANSWER to one QUESTION."""
        found: np.void = self._answering.answer(np.array([question], QUESTION))[0]
        return found

    def record(self) -> dict[str, int]:
        """Counters, and how many packets wait and which directors are silent now."""
        now = time.monotonic()
        return asdict(self.counts) | {
            "waiting": self._holding.count,
            "ready": len(self._holding.ready),
            "peers": len(self._peers.addresses),
            "silent_peers": len(self._peers.silent(now)),
            "remembered": len(self._verdicts),
        }

    async def run(self) -> None:
        """Ask and answer until cancelled."""
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        self._verdicts.forget_all()
        self._ring = self._kernel.held()
        loop.add_reader(self._endpoint.fd, self._call, self._hear)
        if self._is_introduced:
            self._resume()
        else:
            loop.call_later(INTRODUCTION_S, self._resume)
        try:
            while not (await asyncio.wait([self._failed], timeout=FORGET_PERIOD_S))[0]:
                self._forget()
            self._failed.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            loop.remove_reader(self._endpoint.fd)
            loop.remove_reader(self._ring.fd)
            self._ring.close()
            self._ring = None
            self._endpoint.close()

    def _call(self, step: Callable[[], None]) -> None:
        """What the event loop calls: a bug in it ends `run`."""
        try:
            step()
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    def _forget(self) -> None:
        """Verdicts whose time is over, for a slice at most; the others have to wait."""
        began = now = time.monotonic()
        while now - began < FORGET_SLICE_S and self._verdicts.forget(now):
            now = time.monotonic()
        self._ask_budget.spend(now - began, now)

    # --- Packets that wait ------------------------------------------------------------------------

    def _resume(self) -> None:
        if self._ring is not None and not self._is_reading:
            self._is_reading = True
            asyncio.get_running_loop().add_reader(self._ring.fd, self._call, self._read)

    def _pause(self, seconds: float) -> None:
        """Leave the ring to itself for a while. When it is full, the program helps itself."""
        assert self._ring is not None
        self.counts.paused += 1
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._ring.fd)
        self._is_reading = False
        loop.call_later(max(seconds, PAUSE_S), self._resume)

    def _read(self) -> None:
        if self._ring is None:
            return
        began = time.monotonic()
        wait_s, room = self._ask_budget.wait_s(began), self._holding.room
        if wait_s or not room:
            self._pause(wait_s)
            return
        self.take(self._ring.read(min(room, RECORDS_A_SLICE)), began)
        self._end_slice(began)

    def _end_slice(self, began: float) -> None:
        """Do what became due by it, and account for the time."""
        self._release()
        now = time.monotonic()
        self._ask_budget.spend(now - began, now)
        self._set_timer()

    def take(self, records: Records, now: float) -> None:
        """Have these packets (HELD) wait, and ask for flows that nobody has asked for yet."""
        self.counts.held += len(records)
        records = self._fresh(records)
        questions, fresh = questions_of(records), []
        keys = _keys(questions)
        interfaces = records["ifindex"].tolist()
        for i, frame in enumerate(frames(records)):
            packet = Packet(frame, interfaces[i])
            is_known = keys[i] in self._holding
            if not is_known and self._verdicts.is_settled(keys[i], now):
                self._holding.ready.append(packet)
            elif self._holding.add(keys[i], packet):
                self.counts.joined += is_known
                if not is_known:
                    fresh.append(i)
            else:
                self.counts.flow_full += 1
        self.counts.asked += len(fresh)
        for at in range(0, len(fresh), self._most):
            self._do(self._asking.ask(questions[fresh[at : at + self._most]], now))

    def _fresh(self, records: Records) -> Records:
        """Without those that have waited in the ring since a daemon before this one ended."""
        age = np.uint32(self._kernel.tick() % (1 << 32)) - records["tick"]  # modulo 2^32
        is_fresh = age.astype(np.int32) <= STALE_TICKS
        self.counts.stale += int((~is_fresh).sum())
        return records[is_fresh]

    def _do(self, steps: Steps) -> None:
        for sending in steps.sendings:
            self.counts.sent += 1
            self.counts.repeated += sending.is_again
            where = self._addresses(sending.peers)
            self._endpoint.send(Kind.QUESTIONS, sending.number, sending.questions, where)
        for decided in steps.decided:
            self._settle(decided)

    def _addresses(self, names: Iterable[str]) -> list[Address]:
        """A peer may have left the cluster since it was asked."""
        known = self._peers.addresses
        return [known[name] for name in names if name in known]

    def _settle(self, decided: Decided) -> None:
        """Write the answers, then let the packets go on."""
        self.counts.given_up += len(decided.questions) * decided.is_given_up
        self.counts.alone += len(decided.questions) * (not self._peers.addresses)
        self.counts.hurried += len(decided.questions) * decided.is_hurried
        self.counts.without_silent += len(decided.questions) * decided.is_without_silent
        keys = _keys(decided.questions)
        written = self._verdicts.settle(keys, decided.questions, decided.answers, time.monotonic())
        for key in keys[:written]:
            self._holding.release(key)
        for key in keys[written:]:
            self.counts.directory_full += self._holding.drop(key)

    def _release(self) -> None:
        """Give packets back to the program, some at a time."""
        ready = self._holding.ready
        for _ in range(min(len(ready), PACKETS_A_SLICE)):
            packet = ready.popleft()
            try:
                inject(self._kernel.program, packet.frame, packet.ifindex)
                self.counts.injected += 1
            except DatapathError:  # the interface is gone
                self.counts.inject_failed += 1

    def _set_timer(self) -> None:
        """Wake up when something is due; at once if packets are ready."""
        now = time.monotonic()
        at = now if self._holding.ready else self._asking.next_at()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < float("inf"):
            wait_s = max(at - now, self._ask_budget.wait_s(now))
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._call, self._wake)

    def _wake(self) -> None:
        self._timer = None
        began = time.monotonic()
        is_hurried = self._holding.is_crowded
        self._do(self._asking.due(began, GROUPS_A_SLICE, is_hurried=is_hurried))
        self._end_slice(began)

    # --- Datagrams --------------------------------------------------------------------------------

    def _hear(self) -> None:
        began, answered_s = time.monotonic(), 0.0
        for said, address in self._endpoint.receive(DATAGRAMS_A_SLICE):
            if said.kind is Kind.ANSWERS:
                self._take_answers(said)
                continue
            start = time.monotonic()
            self._reply(said, address, start)
            end = time.monotonic()
            self._answer_budget.spend(end - start, end)
            answered_s += end - start
        self._end_slice(began + answered_s)

    def _take_answers(self, said: Datagram) -> None:
        steps = self._asking.hear(said.sender, said.about, said.records)
        if steps is None:
            self.counts.answers_late += 1
            return
        self.counts.answers += len(said.records)
        self._do(steps)

    def _reply(self, said: Datagram, address: Address, now: float) -> None:
        if self._answer_budget.wait_s(now):
            self.counts.busy += len(said.records)
            return
        answers = self._answering.answer(said.records)
        self.counts.answered += len(answers)
        self.counts.answered_known += int((answers["known"] != Known.NOTHING).sum())
        number = self._endpoint.next_number()
        self._endpoint.send(Kind.ANSWERS, number, answers, [address], said.number)


def questions_of(records: Records) -> Records:
    """QUESTION for each HELD record."""
    questions = np.zeros(len(records), QUESTION)
    for field in ("client", "client_port", "vip_port", "vip"):
        questions[field] = records[field]
    return questions


def _keys(questions: Records) -> list[bytes]:
    data, size = questions.tobytes(), QUESTION.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]
