# SPDX-License-Identifier: Apache-2.0
"""Sealing: datagrams among the directors of a cluster, which nobody else can write or send again.

A datagram carries its sender, the time and a number of its own, under a keyed BLAKE2b of the
cluster's secret. The time bounds how long a recorded one could be of use; within that, `Guard`
takes each number of a sender once. Numbers begin at the clock's microseconds and go up, so they go
on after a restart. What is said is not hidden: it is about flows that anybody on the path sees.

Pure: time comes in as `now_ms`, decisions go out. A datagram that is refused has a reason, and
changes nothing. Source: RFC 7693 (BLAKE2), RFC 4303 section 3.4.3 (the window).
"""

import hmac
import struct
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from hashlib import blake2b

import numpy as np

from limpet.core.ownership import ANSWER, QUESTION, Records

MAGIC = b"LPQ\x01"
HEADER = struct.Struct(">4sBBHQQQ")
SIGNATURE_BYTES = 16
DATAGRAM_BYTES_MAX = 1_200  # fits any path that carries IPv6, encapsulated twice
SENDER_BYTES_MAX = 64
TIME_WINDOW_MS = 10_000  # that clocks may be apart
REPLAY_WINDOW = 1_024  # numbers behind the highest that may still come
SENDERS_MAX = 256
KEY_BYTES_MIN = 32
PURPOSE = b"limpet-ownership"


class Kind(IntEnum):
    """What a datagram holds."""

    QUESTIONS = 1
    ANSWERS = 2


class Refusal(StrEnum):
    """Why a datagram is not listened to."""

    MALFORMED = "malformed"  # not of this format, or cut off
    FORGED = "forged"  # not signed with this cluster's key
    OUTDATED = "outdated"  # written too long ago, or in the future: clocks differ
    REPLAYED = "replayed"  # its number was there before
    OWN = "own"  # of a director with our name


RECORDS = {Kind.QUESTIONS: QUESTION, Kind.ANSWERS: ANSWER}


@dataclass(frozen=True, slots=True, eq=False)
class Datagram:
    """What is said; `about`: number of the datagram that it answers, else 0."""

    kind: Kind
    sender: str
    time_ms: int
    number: int
    about: int
    records: Records


def questions_max(sender: str) -> int:
    """Questions that fit into a datagram of this sender."""
    room = DATAGRAM_BYTES_MAX - HEADER.size - len(sender.encode()) - SIGNATURE_BYTES
    return room // QUESTION.itemsize


class Seal:
    """The cluster's key, and whose it is."""

    def __init__(self, cluster: str, key: bytes) -> None:
        """`key`: at least 32 bytes. Another cluster's name makes it another key."""
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"a key has at least {KEY_BYTES_MIN} bytes, not {len(key)}")
        name = cluster.encode()
        self._key = blake2b(
            len(name).to_bytes(2) + name + key, digest_size=32, person=PURPOSE
        ).digest()

    def _signature(self, data: bytes | memoryview) -> bytes:
        return blake2b(data, digest_size=SIGNATURE_BYTES, key=self._key, person=PURPOSE).digest()

    def close(self, said: Datagram) -> bytes:
        """The datagram as it is sent."""
        sender = said.sender.encode()
        assert 0 < len(sender) <= SENDER_BYTES_MAX, "the name of a director"
        head = HEADER.pack(
            *(MAGIC, said.kind, len(sender), len(said.records)),
            *(said.time_ms, said.number, said.about),
        )
        data = head + sender + said.records.tobytes()
        return data + self._signature(data)

    def open(self, data: bytes) -> Datagram | Refusal:
        """What a datagram says; its time and number are yet to be judged (`Guard`)."""
        if not HEADER.size + SIGNATURE_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
            return Refusal.MALFORMED
        magic, kind, name, count, time_ms, number, about = HEADER.unpack_from(data)
        if magic != MAGIC or kind not in RECORDS or not 0 < name <= SENDER_BYTES_MAX:
            return Refusal.MALFORMED
        record = RECORDS[Kind(kind)]
        start = HEADER.size + name
        end = start + count * record.itemsize
        if not count or end + SIGNATURE_BYTES != len(data):
            return Refusal.MALFORMED
        if not hmac.compare_digest(self._signature(data[:end]), data[end:]):
            return Refusal.FORGED
        try:
            sender = data[HEADER.size : start].decode()
        except UnicodeDecodeError:
            return Refusal.MALFORMED
        records = np.frombuffer(data, record, count, start)
        return Datagram(Kind(kind), sender, time_ms, number, about, records)


class Guard:
    """Takes each datagram of each sender once, and none that is too old."""

    def __init__(self, own_name: str) -> None:
        self._own = own_name
        # Sender -> highest number, and a bit for each of those behind it that was there.
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def judge(self, said: Datagram, now_ms: int) -> Refusal | None:
        """None: it is taken, and will not be again. Of a signed datagram only."""
        if said.sender == self._own:
            return Refusal.OWN
        if abs(said.time_ms - now_ms) > TIME_WINDOW_MS:
            return Refusal.OUTDATED
        highest, bits = self._seen.get(said.sender, (said.number - 1, 0))
        if said.number > highest:
            bits = (bits << min(said.number - highest, REPLAY_WINDOW) | 1) & WINDOW_MASK
            highest = said.number
        else:
            bit = 1 << highest - said.number if highest - said.number < REPLAY_WINDOW else 0
            if not bit or bits & bit:
                return Refusal.REPLAYED
            bits |= bit
        self._seen[said.sender] = highest, bits
        self._seen.move_to_end(said.sender)
        if len(self._seen) > SENDERS_MAX:
            self._seen.popitem(last=False)
        return None


WINDOW_MASK = (1 << REPLAY_WINDOW) - 1
