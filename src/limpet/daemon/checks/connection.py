# SPDX-License-Identifier: Apache-2.0
"""Connection: a TCP connection to a target, with TLS or without, on the running event loop.

Sockets and TLS objects are driven directly, because a check needs nothing of what streams and
transports of asyncio offer, and there are thousands a second. A connection ends with a reset
(SO_LINGER 0): to one VIP and port there are only 28,000 ports, and one that is closed in order
stays taken for a minute.

A marked socket is bound to the address from which the backend itself would be reached, since the
route that the mark leads to knows no source of its own, and the reply comes straight back.
"""

import asyncio
import errno
import socket
import ssl
import struct
from contextlib import suppress
from functools import cache

from limpet.core.model import Address
from limpet.daemon.checks.outcome import CheckError, NoResultError, of_socket, of_tls
from limpet.daemon.checks.target import Target
from limpet.datapath import outbound

READ = 16_384  # bytes at a time
RESET_AT_CLOSE = struct.pack("=ii", 1, 0)
IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen when connecting, so one serves many VIPs
HOP_LIMIT = 255
SOURCES_MAX = 10_000  # remembered; then all are looked up anew


@cache
def _context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Sources:
    """Own addresses by backend address, as the routes have them."""

    def __init__(self) -> None:
        self._known: dict[Address, str] = {}

    def forget(self, backend: Address) -> None:
        """A check failed: the route may have changed."""
        self._known.pop(backend, None)

    def of(self, backend: Address) -> str:
        found = self._known.get(backend)
        if found is None:
            if len(self._known) >= SOURCES_MAX:
                self._known.clear()
            found = self._known[backend] = _look_up(backend)
        return found


def _look_up(backend: Address) -> str:
    """A datagram socket that is connected sends nothing, but has a source."""
    with socket.socket(_family(backend), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(backend), 9))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise CheckError("no route to the backend") from error
            raise of_socket(error) from error
        return str(sock.getsockname()[0])


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Connection:
    """An open connection. Use as a context manager of `connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def connect(cls, target: Target, sources: Sources) -> "Connection":
        """Raises CheckError or NoResultError."""
        try:
            sock = _prepared(target, sources)
        except OSError as error:
            raise of_socket(error) from error
        try:
            await asyncio.get_running_loop().sock_connect(sock, (str(target.address), target.port))
        except OSError as error:
            sock.close()
            if target.mark and error.errno == errno.ENETUNREACH:  # packets never left
                raise NoResultError("no route for marked packets") from error
            raise of_socket(error) from error
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def start_tls(self, host: str, verify: bool) -> None:
        """Handshake. Raises CheckError."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context(verify).wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
            await self._flush()
        except ssl.SSLError as error:
            with suppress(OSError):  # the other end learns why
                await self._flush()
            raise of_tls(error) from error
        except OSError as error:
            raise of_socket(error) from error

    async def send(self, data: bytes) -> None:
        try:
            if self._tls is None:
                await self._loop.sock_sendall(self._socket, data)
            else:
                self._tls.write(data)
                await self._flush()
        except OSError as error:
            raise of_socket(error) from error

    async def receive(self) -> bytes:
        """Some bytes; none at the end."""
        try:
            if self._tls is None:
                return await self._loop.sock_recv(self._socket, READ)
            return await self._receive_tls(self._tls)
        except ssl.SSLError as error:
            raise of_tls(error) from error
        except OSError as error:
            raise of_socket(error) from error

    async def _receive_tls(self, tls: ssl.SSLObject) -> bytes:
        while True:
            try:
                return tls.read(READ)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._socket, self._outgoing.read())

    async def _fill(self) -> None:
        data = await self._loop.sock_recv(self._socket, READ)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def close(self) -> None:
        self._socket.close()


def _prepared(target: Target, sources: Sources) -> socket.socket:
    sock = socket.socket(_family(target.address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        if target.mark:
            _require_way(target.mark)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, target.mark)
            _leave_hop_limit(sock)
            if target.address.version == target.backend_address.version:
                with suppress(OSError):  # then the port is chosen here
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((sources.of(target.backend_address), 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _leave_hop_limit(sock: socket.socket) -> None:
    """The largest: no client's packet has it, so a backend tells checks from those."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)


def _require_way(mark: int) -> None:
    """Without its device, a default route would take the packet to any backend, or to nobody."""
    try:
        socket.if_nametoindex(outbound.device(mark))
    except OSError as error:
        raise NoResultError("the director's own way to its backends is missing") from error
