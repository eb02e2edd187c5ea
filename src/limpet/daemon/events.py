# SPDX-License-Identifier: Apache-2.0
"""Events: wakes the reconcile task when links, addresses, routes or our neighbours change.

An event is only a hint: nothing is taken from it but what kind of thing changed, and the facts are
read anew. So a lost event (ENOBUFS when the kernel outruns us) costs nothing but a wider re-read.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from errno import ENOBUFS
from ipaddress import ip_address

from limpet.daemon.nexthop import Neighbour

# RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400
NEW_NEIGHBOUR, DELETED_NEIGHBOUR = 28, 29
NDA_DST = 1
BUFFER = 1 << 20
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
NDMSG = struct.Struct("=BxxxiHBB")
ATTRIBUTE = struct.Struct("=HH")


class Events:
    """A netlink socket that calls `wake(routes)`: True if routes, links or addresses changed."""

    def __init__(
        self, wake: Callable[[bool], None], neighbours: Callable[[], frozenset[Neighbour]]
    ) -> None:
        self._wake, self._neighbours = wake, neighbours
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._socket.bind((0, GROUPS))

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(BUFFER)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
            self._wake(True)
            return
        kinds = set(_kinds(data, self._neighbours()))
        if kinds:
            self._wake(True in kinds)


def _kinds(data: bytes, ours: frozenset[Neighbour]) -> Iterator[bool]:
    """For every message that matters, whether it may have changed a route."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        if kind not in (NEW_NEIGHBOUR, DELETED_NEIGHBOUR):
            yield True
        elif _neighbour(data[at + HEADER.size : at + length]) in ours:
            yield False
        at += (length + 3) & ~3


def _neighbour(body: bytes) -> Neighbour | None:
    _, ifindex, *_ = NDMSG.unpack_from(body)
    at = NDMSG.size
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size:
            return None
        if kind == NDA_DST:
            return ifindex, ip_address(body[at + ATTRIBUTE.size : at + length])
        at += (length + 3) & ~3
    return None
