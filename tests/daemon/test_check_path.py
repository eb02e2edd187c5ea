# SPDX-License-Identifier: Apache-2.0
"""Health checks through the VIP, end to end: the own way, the agent, the server's reply."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import count

import pytest

from agent.namespaces import BACKEND4, CLIENT4, CLIENT6, VIP4, VIP6
from datapath.way import BACKEND, Way, built
from limpet.core.model import (
    Backend,
    BackendId,
    CheckKind,
    Desired,
    HealthCheck,
    Pool,
    Protocol,
    Vip,
)
from limpet.daemon.checks.checker import Checker
from limpet.datapath import outbound
from limpet.lab import namespace

pytestmark = pytest.mark.kernel

NUMBERS = count(1)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"
SPARE = BackendId(BACKEND + 1)  # has no row in the kernel
CHECK = {"interval_s": 0.1, "timeout_s": 0.3}
PATIENCE_S = 30.0
Said = dict[str, tuple[bool, str]]  # by backend: whether it is up, and why


@pytest.fixture
def way() -> Iterator[Way]:
    with built(f"tc{os.getpid()}-{next(NUMBERS)}") as made:
        made.install_agent()
        made.put()
        made.put_backend(4, made.hop())
        yield made


@contextmanager
def answering(way: Way, vip: str) -> Iterator[set[str]]:
    """A server on the backend, port 7 of the VIP; yields the addresses that connected."""
    seen: set[str] = set()
    with way.pair.inside(way.pair.backend):
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET
        listener = socket.create_server((vip, 7), family=family)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, address = listener.accept()
                seen.add(str(address[0]))
                with client, suppress(OSError):
                    client.settimeout(1)
                    if client.recv(1_000):
                        client.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def desired(way: Way, check: HealthCheck, vip: str) -> Desired:
    """Two backends behind one VIP; both are known, one has nothing behind it."""
    backends = tuple(Backend(name, ip_address(BACKEND4)) for name in ("b1", "spare"))
    pool = Pool("web", {"b1": 1, "spare": 1}, health=check)
    vips = (Vip("web", ip_address(vip), Protocol.TCP, 7, "web"),)
    return Desired(way.director, backends, (pool,), vips)


def said(checker: Checker) -> Said:
    return {key[1]: (each.is_up, each.reason) for key, each in checker.health().items()}


def checked(way: Way, check: HealthCheck, vip: str, until: Callable[[Checker], bool]) -> Said:
    """What a checker on the director's machine says of both when it is so, or never gets so."""

    async def run() -> Said:
        ids = {"b1": BACKEND, "spare": SPARE}
        checker = Checker(desired(way, check, vip), ids, lambda: None)
        task = asyncio.create_task(checker.run())
        deadline = time.monotonic() + PATIENCE_S
        while not until(checker) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        task.cancel()
        return said(checker)

    with way.pair.inside(way.pair.client):
        return asyncio.run(run())


@pytest.mark.parametrize(("vip", "source"), [(VIP4, CLIENT4), (VIP6, CLIENT6)], ids=["4", "6"])
def test_each_backend_behind_a_vip_is_asked_for_itself(way: Way, vip: str, source: str) -> None:
    """Both checks go to one address and port; the mark decides who answers. The server sees the
    VIP as its own address, and the director as the client."""
    check = HealthCheck(kind=CheckKind.HTTP, http_body="ready", **CHECK)  # type: ignore[arg-type]
    wanted = {"b1": (True, "answers as wanted"), "spare": (False, "timed out after 0.3 s")}
    with answering(way, vip) as seen:
        assert checked(way, check, vip, lambda checker: said(checker) == wanted) == wanted
    assert seen == {source}
    counters = way.counters()
    assert counters.keys() == {"sent", "drop_unknown_backend"}


def test_service_that_does_not_listen_on_the_vip_is_down(way: Way) -> None:
    """Though the machine is well, and listens on its own address: what clients use counts."""
    with way.pair.inside(way.pair.backend):
        own = socket.create_server((BACKEND4, 7))
    with own:
        check = HealthCheck(**CHECK)  # type: ignore[arg-type]
        found = checked(way, check, VIP4, lambda checker: not said(checker)["b1"][0])
    assert found["b1"] == (False, "connection refused")


@pytest.mark.parametrize("has_route", [False, True], ids=["no route", "default route"])
def test_checks_without_the_way_say_nothing(way: Way, has_route: bool) -> None:
    """A director whose own way is missing must not declare its backends down."""
    with way.pair.inside(way.pair.client):
        outbound.remove(way.pins)
    if has_route:
        with namespace.netlink(way.pair.client) as link:
            link.route("add", dst="default", gateway=BACKEND4)
    check = HealthCheck(**CHECK)  # type: ignore[arg-type]
    found = checked(way, check, VIP4, lambda checker: checker.counts.not_checked >= 10)
    assert found["b1"] == (True, "not checked yet")
