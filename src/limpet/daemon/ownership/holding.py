# SPDX-License-Identifier: Apache-2.0
"""Holding: packets that wait for an answer, by flow, and those that may go on now.

Bounded twice: of a flow only the first few wait (its sender sends the others again), and of all
flows together so many that whoever fills it stops reading the ring.
"""

from collections import deque
from dataclasses import dataclass

WAITING_OF_FLOW_MAX = 8
WAITING_MAX = 4_096
CROWD = WAITING_MAX // 4  # packets; with more, nobody is waited for that is slow to answer


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame, and the interface that it came by."""

    frame: bytes
    ifindex: int


class Holding:
    """Packets by the key of their flow."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Packet]] = {}
        self.ready: deque[Packet] = deque()
        self.count = 0  # packets that wait

    def __contains__(self, flow: bytes) -> bool:
        return flow in self._waiting

    @property
    def room(self) -> int:
        """How many more may come."""
        return max(0, WAITING_MAX - self.count - len(self.ready))

    @property
    def is_crowded(self) -> bool:
        """Whether those that wait are so many that others may soon find no room."""
        return self.count > CROWD

    def add(self, flow: bytes, packet: Packet) -> bool:
        """Have it wait; False: it cannot, and is gone."""
        packets = self._waiting.setdefault(flow, [])
        if len(packets) >= WAITING_OF_FLOW_MAX:
            return False
        packets.append(packet)
        self.count += 1
        return True

    def release(self, flow: bytes) -> int:
        """All of a flow may go on; how many."""
        packets = self._waiting.pop(flow, [])
        self.count -= len(packets)
        self.ready.extend(packets)
        return len(packets)

    def drop(self, flow: bytes) -> int:
        """All of a flow are given up; how many."""
        packets = self._waiting.pop(flow, [])
        self.count -= len(packets)
        return len(packets)
