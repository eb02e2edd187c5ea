# SPDX-License-Identifier: Apache-2.0
"""Three NATS servers that fail: what was acknowledged stays, what waits is told, no call hangs."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import nats
import pytest

from limpet.core.errors import ConfigError, LimpetError, Unavailable, Unsupported
from limpet.core.model import Cluster
from limpet.lab.nats import Servers, Tls, free_ports
from limpet.store.interface import Batch, Connection, Entry, Limits, Store
from limpet.store.opening import open_store
from store.stores import USUAL, WAIT_S, Place, reached, run

TURN_S = 0.01
DEADLINE_S = 2.0  # of a call
IN_TIME = 2.7 / TURN_S  # turns: by then a call has ended, and one that was made twice has not
BATCHES = 60


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path / "nats", 3) as servers:
        yield servers


@contextlib.asynccontextmanager
async def opened(servers: Servers, folder: Path) -> AsyncIterator[Store]:
    place = Place(folder, servers.urls, Limits(deadline_s=DEADLINE_S))
    store = await reached(place.open(place.fresh()))
    try:
        yield store
    finally:
        await store.close()


async def leader_of_keys(servers: Servers) -> str:
    urls = [s.node.url for s in servers.servers if s.is_running()]
    async with asyncio.timeout(WAIT_S):
        while True:  # one is elected anew when all of them stood still
            client = await nats.connect(urls)
            infos = await client.jetstream(timeout=WAIT_S).streams_info()
            await client.close()
            keys = [i for i in infos if (i.config.name or "").startswith("KV_") and i.cluster]
            if keys and keys[0].cluster and keys[0].cluster.leader:
                return str(keys[0].cluster.leader)
            await asyncio.sleep(0.05)


async def work_on(store: Store, told: list[bytes]) -> None:
    """Append, and remember what was acknowledged; what was not may be there or not."""
    number = 0
    while True:
        number += 1
        data = b"%d" % number
        with contextlib.suppress(Unavailable):
            await store.append("directory-x", data)
            told.append(data)
        await asyncio.sleep(0.02)


async def follow(store: Store, got: list[Batch]) -> None:
    async for batch in store.read("directory-x", 0):
        got.append(batch)


async def last_state(store: Store, keys: dict[str, bytes]) -> None:
    async for each in store.watch(""):
        if isinstance(each, Entry):
            keys[each.key] = each.value


class Turns:
    """Time as the event loop has it: turns of 10 ms. While the machine stands still it stands still
    too, so what it says of a call is no matter of how busy the machine is."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            self.count += 1


@contextlib.asynccontextmanager
async def turns() -> AsyncIterator[Turns]:
    found = Turns()
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()


async def until(is_done: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_done():
            await asyncio.sleep(0.02)


async def put(store: Store, value: bytes) -> None:
    """However long it takes."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(LimpetError):
                entry = await store.get("head")
                if entry and entry.value == value:
                    return
                await store.put_if("head", value, entry.revision if entry else 0)
            await asyncio.sleep(0.05)


def check_log(told: list[bytes], got: list[Batch]) -> None:
    assert [batch.sequence for batch in got] == list(range(1, len(got) + 1))
    found = [batch.data for batch in got]
    assert len(set(found)) == len(found), "sent again, but there once"
    assert set(told) <= set(found), "acknowledged, but gone"


@pytest.mark.parametrize("victim", ["leader", "connected", "paused leader"])
def test_loss_of_a_server_leaves_no_gap(servers: Servers, tmp_path: Path, victim: str) -> None:
    async def scenario() -> None:
        async with opened(servers, tmp_path) as store:
            told: list[bytes] = []
            got: list[Batch] = []
            keys: dict[str, bytes] = {}
            work = (work_on(store, told), follow(store, got), last_state(store, keys))
            tasks = [asyncio.create_task(each) for each in work]
            await until(lambda: len(told) > BATCHES)
            await put(store, b"before")
            name = await leader_of_keys(servers)
            if victim == "connected":
                name = next(
                    s.node.name for s in servers.servers if s.node.url == store.state.server
                )
            server = next(each for each in servers.servers if each.node.name == name)
            (server.pause if "paused" in victim else server.kill)()
            count = len(told)
            await put(store, b"after")
            await until(lambda: len(told) > count + BATCHES)
            await until(lambda: keys.get("head") == b"after")
            server.pause(False)
            tasks[0].cancel()
            last = await _eventually_last(store)
            # What was under way may follow.
            await until(lambda: len(got) >= last or tasks[1].done())
            check_log(told, got)
            for task in tasks[1:]:
                task.cancel()

    run(scenario())


async def _eventually_last(store: Store) -> int:
    await asyncio.sleep(0.3)
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.last("directory-x")


def test_without_servers_calls_end_in_time_and_state_says_so(
    servers: Servers, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(servers, tmp_path) as store, turns() as taken:
            await put(store, b"before")
            states: list[Connection] = []
            store.on_change(states.append)
            keys: dict[str, bytes] = {}
            task = asyncio.create_task(last_state(store, keys))
            await until(lambda: keys.get("head") == b"before")
            servers.stop()
            for wait in (0.0, DEADLINE_S + 0.5):
                await asyncio.sleep(wait)
                for call in (store.get("head"), store.put_if("a", b"", 0), store.append("l", b"")):
                    begun = taken.count
                    with pytest.raises(Unavailable, match=r"store: .*127\.0\.0\.1"):
                        await call
                    assert taken.count - begun < IN_TIME
            begun = taken.count
            with pytest.raises(Unavailable):
                await store.get("head")
            assert taken.count == begun, "known to be away: no wait at all"
            assert not store.state.is_connected
            assert states[-1] == store.state
            servers.start()
            await put(store, b"after")
            await until(lambda: keys.get("head") == b"after")
            assert store.state.is_connected
            assert store.state.reconnects >= 1
            task.cancel()

    run(scenario())


def test_minority_refuses_changes_in_time(servers: Servers, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(servers, tmp_path) as store, turns() as taken:
            await put(store, b"1")
            entry = await store.get("head")
            assert entry
            for server in servers.servers:
                if server.node.url != store.state.server:
                    server.kill()
            begun = taken.count
            with pytest.raises(Unavailable, match="Are most of the NATS servers up"):
                await store.put_if("head", b"2", entry.revision)
            assert taken.count - begun < IN_TIME

    run(scenario())


def test_store_that_was_never_reached_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        (port,) = free_ports(1)  # nobody listens there
        urls = (f"nats://user:secret@127.0.0.1:{port}",)
        store = Place(tmp_path, urls, Limits(deadline_s=DEADLINE_S)).open("x")
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}") as raised:
            await store.get("head")
        assert "secret" not in str(raised.value)
        assert not store.state.is_connected
        await store.close()

    run(scenario())


def test_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """One of today, of which a relay says that it is older."""

    async def scenario(servers: Servers) -> None:
        relay = await asyncio.start_server(
            lambda r, w: _relay(r, w, servers.nodes[0].client_port), "127.0.0.1", 0
        )
        port = relay.sockets[0].getsockname()[1]
        store = Place(tmp_path, (f"nats://127.0.0.1:{port}",), USUAL).open("x")
        with pytest.raises(Unsupported, match=r"is 2\.9\.10: upgrade it to 2\.11 or newer"):
            await store.get("head")
        assert "2.9.10" in store.state.error
        await store.close()
        relay.close()

    with Servers(tmp_path / "nats", 1) as servers:
        run(scenario(servers))


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    back, forth = await asyncio.open_connection("127.0.0.1", port)
    info = await back.readline()
    begin = info.index(b'"version":"') + len(b'"version":"')
    writer.write(info[:begin] + b"2.9.10" + info[info.index(b'"', begin) :])

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
        sink.close()

    await asyncio.gather(pump(reader, forth), pump(back, writer), return_exceptions=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A CA, and one certificate for servers and clients."""
    folder = tmp_path_factory.mktemp("tls")
    names = folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    for command in (
        f"{new} -x509 -subj /CN=ca -days 2 -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=store -keyout key.pem -out request.pem",
        "openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
        " -extfile names -out certificate.pem",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return Tls(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")


def test_with_tls_a_client_needs_a_certificate(tmp_path: Path, tls: Tls) -> None:
    async def scenario(servers: Servers) -> None:
        whole = Cluster(
            name="x",
            servers=servers.urls,
            tls_ca=str(tls.ca),
            tls_certificate=str(tls.certificate),
            tls_key=str(tls.key),
        )
        store = await reached(open_store(whole, tmp_path, USUAL))
        assert await store.put_if("head", b"1", 0) == 1
        await store.close()
        nameless = open_store(Cluster(name="x", servers=servers.urls, tls_ca=str(tls.ca)), tmp_path)
        with pytest.raises(Unavailable):
            await nameless.get("head")
        await nameless.close()
        with pytest.raises(ConfigError, match="cannot use them"):
            open_store(Cluster(name="x", servers=servers.urls, tls_ca="missing.pem"), tmp_path)

    with Servers(tmp_path / "nats", 1, tls) as servers:
        run(scenario(servers))
