# SPDX-License-Identifier: Apache-2.0
"""Sockets and small servers on a lab's hosts, inside the test's own process.

A socket stays in the namespace where it was made, so the process needs to be there only for that
moment. Servers answer with the name of their backend, so that a test sees who got what it sent.
"""

import hashlib
import selectors
import socket
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from limpet.core.model import Address
from limpet.lab import namespace

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
WAIT_S = 3.0
TRANSFER_WAIT_S = 30.0
CHUNK = 1 << 20
NAME_BYTES = 8  # of a backend's name before what a UdpEcho sends back


def opened(lab: str, host: str, version: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    with namespace.inside(f"{lab}-{host}"):
        made = socket.socket(FAMILY[version], kind)
    made.settimeout(WAIT_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def connected(
    lab: str,
    source: Address,
    vip: Address,
    port: int,
    kind: int = socket.SOCK_STREAM,
    *,
    source_port: int = 0,
) -> socket.socket:
    """From an address of client2 to a VIP."""
    made = opened(lab, "client2", vip.version, kind)
    made.bind((str(source), source_port))
    made.connect((str(vip), port))
    return made


class UdpEcho:
    """On each backend, sends every datagram for a VIP back, the backend's name before it."""

    def __init__(self, lab: str, backends: Iterable[str], vips: Iterable[Address], port: int):
        self._selector = selectors.DefaultSelector()
        self._stack = ExitStack()
        self._over, wake = socket.socketpair()
        self._stack.enter_context(self._over)
        self._stack.enter_context(wake)
        self._selector.register(wake, selectors.EVENT_READ, b"")
        targets = list(vips)
        for backend in backends:
            for vip in targets:
                made = self._stack.enter_context(
                    opened(lab, backend, vip.version, socket.SOCK_DGRAM)
                )
                made.bind((str(vip), port))
                self._selector.register(made, selectors.EVENT_READ, name_of(backend))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if not key.data:
                    return
                assert isinstance(key.fileobj, socket.socket)
                data, sender = key.fileobj.recvfrom(65_535)
                key.fileobj.sendto(key.data + data, sender)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.send(b"!")
        self._thread.join()
        self._stack.close()


def name_of(backend: str) -> bytes:
    return backend.encode().ljust(NAME_BYTES)


def ask(client: socket.socket, data: bytes) -> tuple[str, bytes]:
    """(backend, data) of the answer to a datagram of a connected socket. OSError if lost."""
    client.send(data)
    answer = client.recv(65_535)
    return answer[:NAME_BYTES].decode().strip(), answer[NAME_BYTES:]


class Bulk:
    """On one backend, takes uploads and answers with their digest, or sends a download."""

    def __init__(self, lab: str, backend: str, port: int, data: bytes) -> None:
        self._data = data
        self._listener = opened(lab, backend, 6)
        self._listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._listener.bind(("::", port))
        self._listener.listen()
        self._listener.settimeout(None)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                session, _ = self._listener.accept()
            except OSError:  # closed
                return
            with session:
                session.settimeout(TRANSFER_WAIT_S)
                try:
                    self._answer(session)
                except OSError:  # the client gave up, and says so
                    continue

    def _answer(self, session: socket.socket) -> None:
        if session.recv(1) == b"U":
            session.sendall(digest_of(session))
        else:
            session.sendall(self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def digest_of(session: socket.socket) -> bytes:
    """Read to the end."""
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    while count := session.recv_into(buffer):
        digest.update(memoryview(buffer)[:count])
    return digest.digest()


def transfer(session: socket.socket, direction: str, data: bytes) -> bytes:
    """Digest of what arrived at the other end of a connection to a Bulk."""
    session.settimeout(TRANSFER_WAIT_S)
    if direction == "download":
        session.sendall(b"D")
        return digest_of(session)
    session.sendall(b"U")
    session.sendall(data)
    session.shutdown(socket.SHUT_WR)
    return session.recv(64)
