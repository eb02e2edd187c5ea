# SPDX-License-Identifier: Apache-2.0
"""Hooks with a real command, a real HTTP server on loopback, and a real state file."""

import asyncio
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.servers import is_alive
from limpet.api.interface import Json
from limpet.core import model
from limpet.core.errors import LimpetError
from limpet.core.intent import Intents
from limpet.daemon import hooks, webhook
from limpet.daemon.hooks import Hooks
from limpet.store.state import State

WAIT_S = 30.0
T = TypeVar("T")


class Server:
    """Takes what is posted to it, and answers with the next of the given statuses, then 204."""

    def __init__(self, statuses: tuple[int, ...] = ()) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.statuses = list(statuses)
        self.gate = threading.Event()  # until it is set, nobody is answered
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append(json.loads(body))
                outer.headers.append(dict(self.headers))
                outer.gate.wait()
                self.send_response(outer.statuses.pop(0) if outer.statuses else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/told?by=limpet"

    @contextmanager
    def serving(self) -> Iterator["Server"]:
        thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self.http.shutdown()
            thread.join()
            self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().serving() as serving:
        yield serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "RETRY_S", 0.02)
    monkeypatch.setattr(hooks, "RETRY_MAX_S", 0.1)


class Running:
    """Hooks that run, and their state, which lives in a thread of its own."""

    def __init__(self, thread: ThreadPoolExecutor, state: State, wanted: model.Hooks) -> None:
        self._thread, self.state = thread, state
        self.hooks = Hooks("d1", wanted, state, self.call)

    async def call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def queue(self, *kinds: str) -> None:
        for kind in kinds:
            await self.call(partial(self._put, {"kind": kind}))
        self.hooks.wake()

    def _put(self, event: Json) -> None:
        number, intents = self.state.intents()
        self.state.put_intents(intents, number, "", "", "", 0.0, [event])

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, self.hooks.record
            await asyncio.sleep(0.005)

    async def told(self, name: str, count: int) -> None:
        """Until so many were delivered."""
        await self.until(lambda: self.hooks.record[name].delivered >= count)


@asynccontextmanager
async def running(path: Path, wanted: model.Hooks) -> Any:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        state = await loop.run_in_executor(thread, State, path)
        made = Running(thread, state, wanted)
        task = asyncio.create_task(made.hooks.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.wait([task])
            await loop.run_in_executor(thread, state.close)
            assert task.cancelled(), task.exception()


def script(folder: Path, text: str) -> tuple[str, ...]:
    """A command that runs this shell text, with the name of a file for its output as $1."""
    return ("sh", "-c", text, "hook", str(folder / "out"))


def lines(folder: Path) -> list[dict[str, Any]]:
    out = folder / "out"
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return [each["kind"] for each in told]


def test_command_and_webhook_are_told_of_every_event_in_order(
    path: Path, tmp_path: Path, server: Server
) -> None:
    async def story() -> None:
        wanted = model.Hooks(command=script(tmp_path, 'cat >> "$1"'), webhook=server.url)
        async with running(path, wanted) as now:
            await now.call(
                lambda: now.state.put_intents(
                    Intents(), 0, "ann", "drain b1", "", 1.0, [{"kind": "drain_began"}]
                )
            )
            await now.queue("drained", "drain_ended")
            await now.told("command", 3)
            await now.told("webhook", 3)
            assert await now.call(lambda: now.state.pending("other")) == []
            assert now.hooks.record["webhook"] == hooks.Record(delivered=3)

    asyncio.run(story())
    expected = [
        {"director": "d1", "delivery": number, "kind": kind}
        for number, kind in enumerate(("drain_began", "drained", "drain_ended"), 1)
    ]
    assert server.got == expected
    assert lines(tmp_path) == expected
    assert server.headers[0]["Content-Type"] == "application/json"
    assert server.headers[0]["Host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("status", [199 + 105, 404, 503])
def test_webhook_that_refuses_is_asked_again_and_none_overtakes(path: Path, status: int) -> None:
    async def story(server: Server) -> None:
        async with running(path, model.Hooks(webhook=server.url)) as now:
            await now.queue("a", "b")
            await now.until(lambda: now.hooks.record["webhook"].failed >= 3)
            assert f"answered with status {status}" in now.hooks.record["webhook"].error
            assert now.hooks.record["webhook"].pending == 2
            server.statuses.clear()
            await now.told("webhook", 2)
            assert now.hooks.record["webhook"].error == ""

    with Server((status,) * 100).serving() as server:
        asyncio.run(story(server))
    told = kinds(server.got)
    assert told == ["a"] * (len(told) - 1) + ["b"]
    assert len(told) >= 5


def test_command_that_fails_holds_up_nobody_else(
    path: Path, tmp_path: Path, server: Server
) -> None:
    async def story() -> None:
        wanted = model.Hooks(command=script(tmp_path, "cat >&2; exit 3"), webhook=server.url)
        async with running(path, wanted) as now:
            await now.queue("a", "b")
            await now.told("webhook", 2)
            await now.until(lambda: now.hooks.record["command"].failed >= 2)
            assert now.hooks.record["command"].error == "sh: ended with status 3"
            assert now.hooks.record["command"].pending == 2
            assert now.hooks.record["webhook"].pending == 0
            now.hooks.update(model.Hooks(script(tmp_path, 'cat >> "$1"'), server.url))
            await now.told("command", 2)

    asyncio.run(story())
    assert kinds(lines(tmp_path)) == kinds(server.got) == ["a", "b"]


def test_what_was_not_delivered_is_delivered_after_a_restart(
    path: Path, tmp_path: Path, server: Server
) -> None:
    """And what was delivered to one is not repeated to him because the other has not got it."""

    async def before() -> None:
        async with running(path, model.Hooks(script(tmp_path, "exit 1"), server.url)) as now:
            await now.queue("a", "b")
            await now.told("webhook", 2)
            await now.until(lambda: now.hooks.record["command"].failed > 0)

    async def after() -> None:
        wanted = model.Hooks(script(tmp_path, 'cat >> "$1"'), server.url)
        async with running(path, wanted) as now:
            await now.queue("c")
            await now.told("command", 3)
            await now.told("webhook", 1)

    asyncio.run(before())
    asyncio.run(after())
    assert kinds(lines(tmp_path)) == ["a", "b", "c"]
    assert kinds(server.got) == ["a", "b", "c"]


def test_event_whose_answer_was_lost_with_the_daemon_is_told_again(
    path: Path, server: Server
) -> None:
    """At least once: it ends between what the receiver did and what we heard of it."""

    async def before() -> None:
        server.gate.clear()
        async with running(path, model.Hooks(webhook=server.url)) as now:
            await now.queue("a")
            await now.until(lambda: len(server.got) == 1)

    async def after() -> None:
        server.gate.set()
        async with running(path, model.Hooks(webhook=server.url)) as now:
            await now.told("webhook", 1)

    asyncio.run(before())
    asyncio.run(after())
    assert [each["delivery"] for each in server.got] == [1, 1]


def test_command_that_does_not_end_is_killed_with_its_children(path: Path, tmp_path: Path) -> None:
    children = tmp_path / "out"

    def all_have_ended() -> bool:
        """Of the tries that have written a child's number before they were killed."""
        numbers = children.read_text().split() if children.exists() else []
        return bool(numbers) and not any(is_alive(int(number)) for number in numbers)

    async def story() -> None:
        slow = script(tmp_path, f'sleep {10 * WAIT_S} & echo $! >> "$1"; wait')
        async with running(path, model.Hooks(command=slow, timeout_s=0.2)) as now:
            await now.queue("a")
            await now.until(lambda: now.hooks.record["command"].failed >= 1)
            assert now.hooks.record["command"].error == "no answer within 0.2 s"
            await now.until(all_have_ended)  # between two tries

    asyncio.run(story())


def test_webhook_that_does_not_answer_is_given_up_in_time(path: Path, server: Server) -> None:
    async def story() -> None:
        server.gate.clear()
        async with running(path, model.Hooks(webhook=server.url, timeout_s=0.1)) as now:
            await now.queue("a")
            await now.until(lambda: now.hooks.record["webhook"].failed >= 1)
            assert now.hooks.record["webhook"].error == "no answer within 0.1 s"
            server.gate.set()
            await now.told("webhook", 1)

    asyncio.run(story())


def test_without_hooks_nothing_is_kept(path: Path, server: Server) -> None:
    """A hook that is configured later does not hear of long ago."""

    async def story() -> None:
        async with running(path, model.Hooks()) as now:
            await now.queue("old")
            gone = "SELECT count(*) FROM events"
            deadline = time.monotonic() + WAIT_S
            while await now.call(lambda: now.state._number(gone)):
                assert time.monotonic() < deadline
            now.hooks.update(model.Hooks(webhook=server.url))
            await now.queue("new")
            await now.told("webhook", 1)

    asyncio.run(story())
    assert kinds(server.got) == ["new"]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("/nowhere/hook",), "cannot run /nowhere/hook: No such file or directory"),
        (("sh", "-c", "kill -9 $$"), "sh: ended by signal 9"),
        (("true",), ""),  # it need not read what it is told
    ],
)
def test_end_of_a_command_is_told_in_words(command: tuple[str, ...], error: str) -> None:
    async def story() -> str:
        try:
            await hooks.run(command, b"x" * 1_000_000)
        except LimpetError as failure:
            return str(failure)
        return ""

    assert asyncio.run(story()) == error


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and key for 127.0.0.1 that nobody knows."""
    pem = tmp_path_factory.mktemp("tls") / "pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=hook "
        f"-days 2 -addext subjectAltName=IP:127.0.0.1 -keyout {pem}.key -out {pem}".split(),
        check=True,
        capture_output=True,
    )
    return pem


def test_certificate_of_a_webhook_is_verified(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    made.http.socket = context.wrap_socket(made.http.socket, server_side=True)
    url = made.url.replace("http:", "https:")
    with made.serving():
        with pytest.raises(LimpetError, match="certificate verify failed"):
            asyncio.run(webhook.post(url, b"{}"))
        assert made.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        asyncio.run(webhook.post(url, b'{"kind": "a"}'))
        with pytest.raises(LimpetError, match="certificate verify failed: Hostname mismatch"):
            asyncio.run(webhook.post(url.replace("127.0.0.1", "localhost"), b"{}"))
    assert kinds(made.got) == ["a"]


def test_password_in_a_url_is_sent_and_never_shown(server: Server) -> None:
    server.statuses.append(500)
    url = server.url.replace("//", "//ann:se%20cret@")
    with pytest.raises(LimpetError) as failure:
        asyncio.run(webhook.post(url, b"{}"))
    assert server.headers[0]["Authorization"] == "Basic YW5uOnNlIGNyZXQ="
    assert str(failure.value) == f"http://127.0.0.1:{server.port}/told: answered with status 500"


@pytest.mark.parametrize(
    "url", ["ftp://host/", "host/path", "http:///x", "http://[::1/", "http://h:x/"]
)
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(LimpetError, match="URL is wrong"):
        webhook.parse(url)


def test_answer_that_is_no_http_is_a_failure(path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as made:
            port = made.sockets[0].getsockname()[1]
            with pytest.raises(LimpetError, match="illegal status line"):
                await webhook.post(f"http://127.0.0.1:{port}/", b"{}")
        with pytest.raises(LimpetError, match="Connect call failed"):
            await webhook.post(f"http://127.0.0.1:{port}/", b"{}")

    asyncio.run(story())
