# SPDX-License-Identifier: Apache-2.0
"""Endpoint: the UDP socket among directors; what comes out of it is signed, fresh, and new.

Sending never waits: what the machine does not take is counted, and asked again by whoever waits for
an answer. Each datagram has a number of its own, from the clock's microseconds on.
"""

import socket
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from limpet.core.errors import DatapathError
from limpet.core.ownership import Records
from limpet.core.sealing import DATAGRAM_BYTES_MAX, Datagram, Guard, Kind, Refusal, Seal
from limpet.daemon.ownership.peers import Endpoint as Address
from limpet.daemon.ownership.record import Record
from limpet.daemon.unixtime import now_ms

BUFFER_BYTES = 4 << 20  # of the socket, as far as the machine allows


class Endpoint:
    """One director's end."""

    def __init__(self, name: str, listen: Address, seal: Seal, record: Record) -> None:
        """Opens the socket, in the network namespace of the caller. Raises DatapathError."""
        self._name, self._seal, self._record = name, seal, record
        self._guard = Guard(name)
        self._number = time.time_ns() // 1_000
        family = socket.AF_INET6 if ip_address(listen[0]).version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._socket.bind(listen)
        except OSError as error:
            self._socket.close()
            step = f"listen for other directors at {listen[0]} port {listen[1]} (cluster.listen)"
            raise DatapathError(step, error.errno or 0, error.strerror or "") from error

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def address(self) -> Address:
        """Where it listens."""
        found = self._socket.getsockname()
        return str(found[0]), int(found[1])

    def close(self) -> None:
        self._socket.close()

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def send(
        self, kind: Kind, number: int, records: Records, to: Iterable[Address], about: int = 0
    ) -> None:
        """The same datagram to each of these."""
        data = self._seal.close(Datagram(kind, self._name, now_ms(), number, about, records))
        for address in to:
            try:
                self._socket.sendto(data, address)
            except OSError:
                self._record.send_failed += 1

    def receive(self, most: int) -> Iterator[tuple[Datagram, Address]]:
        """What has come and may be listened to, of at most so many datagrams."""
        now = now_ms()
        for _ in range(most):
            try:
                data, sender = self._socket.recvfrom(DATAGRAM_BYTES_MAX + 1)
            except OSError:  # nothing more; or an ICMP error about what was sent before
                return
            said = self._seal.open(data)
            why = said if isinstance(said, Refusal) else self._guard.judge(said, now)
            if why is None and isinstance(said, Datagram):
                yield said, (str(sender[0]), int(sender[1]))
            elif why is not None:
                self._record.refuse(why)
