# SPDX-License-Identifier: Apache-2.0
"""One health check at a time: what each kind asks, what it accepts, and what it says otherwise."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from daemon.servers import (
    PATIENT_S,
    Serve,
    answering,
    certificate,
    desired,
    direct,
    ids,
    is_alive,
    refusing,
    response,
    serving,
    silent,
    tls_server,
    without_descriptors,
)
from limpet.core.model import (
    CheckKind,
    HealthCheck,
)
from limpet.daemon.checks import connection
from limpet.daemon.checks.connection import Sources
from limpet.daemon.checks.outcome import CheckError, NoResultError
from limpet.daemon.checks.probe import probe
from limpet.daemon.checks.target import targets

TCP, TLS, HTTP = CheckKind.TCP, CheckKind.TLS, CheckKind.HTTP
HTTPS, COMMAND = CheckKind.HTTPS, CheckKind.COMMAND
BODY_MAX = 65_536
BUSY = "the daemon was too busy"
WAIT_S = 30.0  # for what has to come


async def outcome(check: HealthCheck) -> str:
    """The reason why the check fails, "" if it passes. One of which nothing was learnt, because
    this machine stood still meanwhile, is repeated."""
    while True:
        try:
            await once(check)
        except CheckError as error:
            return str(error)
        except NoResultError as error:
            if str(error) != BUSY:
                raise
        else:
            return ""


async def once(check: HealthCheck) -> None:
    wanted = desired(check)
    (target,) = targets(wanted, ids(wanted)).values()
    await probe(target, Sources())


def asked(kind: CheckKind, serve: Serve, **more: object) -> str:
    """The outcome of a check of a server."""

    async def run() -> str:
        async with serving(serve) as server:
            return await outcome(direct(kind, server.port, **more))

    return asyncio.run(run())


# --- TCP ---------------------------------------------------------------------------------------


def test_connection_is_enough_for_tcp() -> None:
    assert asked(TCP, silent) == ""


def test_refused_connection_is_said() -> None:
    with refusing() as port:
        assert asyncio.run(outcome(direct(TCP, port))) == "connection refused"


def test_full_backlog_times_out() -> None:
    """The third handshake is not answered any more."""

    async def run() -> str:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(1)]
            found = await outcome(direct(TCP, port, timeout_s=0.25))
            for each in waiting:
                each.close()
            return found

    assert asyncio.run(run()) == "timed out after 0.25 s"


def test_connection_is_ended_by_a_reset_so_that_its_port_is_free_at_once() -> None:
    ended: list[type[BaseException] | None] = []

    async def watch(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            ended.append(None)
        except ConnectionResetError as error:
            ended.append(type(error))

    async def run() -> None:
        async with serving(watch) as server:
            await outcome(direct(TCP, server.port))
            async with asyncio.timeout(WAIT_S):
                while not ended:
                    await asyncio.sleep(0.005)

    asyncio.run(run())
    assert ended == [ConnectionResetError]


# --- HTTP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 301, 399])
def test_status_in_the_range_passes(status: int) -> None:
    assert asked(HTTP, answering(response(status))) == ""


@pytest.mark.parametrize(
    ("status", "wanted", "reason"),
    [
        (503, (200, 399), "status 503, wanted 200-399"),
        (400, (200, 399), "status 400, wanted 200-399"),
        (200, (204, 204), "status 200, wanted 204"),
    ],
)
def test_status_outside_the_range_is_said(
    status: int, wanted: tuple[int, int], reason: str
) -> None:
    assert asked(HTTP, answering(response(status)), http_status=wanted) == reason


def test_informational_answers_are_waited_through() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert asked(HTTP, answering(early, response(200))) == ""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((b"SSH-2.0-OpenSSH_9.9\r\n",), "the answer is not HTTP"),
        ((), "connection closed without an answer"),
        ((b"HTTP/1.1 200 OK\r\nConte",), "the answer is not HTTP"),
        ((b"x" * 200_000,), "the answer is not HTTP"),
    ],
    ids=["another protocol", "nothing", "cut off", "endless"],
)
def test_what_is_no_answer_is_said(answer: tuple[bytes, ...], reason: str) -> None:
    assert asked(HTTP, answering(*answer)) == reason


def test_silence_times_out() -> None:
    assert asked(HTTP, silent, timeout_s=0.2) == "timed out after 0.2 s"


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ((response(200, b"all systems ready"),), ""),
        ((response(200, b"all systems down"),), "text not found"),
        ((response(200, b""),), "text not found"),
        ((response(200, b"x" * 20 + b"ready")[:-3], b"ady"), ""),
        ((response(200, b"x" * (BODY_MAX - 5) + b"ready"),), ""),
        ((response(200, b"x" * (BODY_MAX - 4) + b"ready"),), "text not found"),
        ((b"HTTP/1.0 200 OK\r\n\r\n", b"is re", b"ady"), ""),
        (
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nrea\r\n2\r\ndy\r\n"),
            "",
        ),
        ((response(500, b"ready"),), "status 500, wanted 200-399"),
    ],
    ids=[
        "there",
        "not there",
        "no body",
        "across packets",
        "last in 64 KiB",
        "beyond",
        "until the end",
        "chunked",
        "status first",
    ],
)
def test_text_is_looked_for_in_the_first_64_kib(pieces: tuple[bytes, ...], reason: str) -> None:
    assert asked(HTTP, answering(*pieces), http_body="ready") == reason


def test_endless_body_is_not_listened_to_for_long() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 8_192)
            await writer.drain()

    assert asked(HTTP, serve, http_body="ready") == "text not found"


@pytest.mark.parametrize(
    ("host", "line"), [("web.example", "Host: web.example"), ("", "Host: 127.0.0.1:{}")]
)
def test_request_has_path_and_host(host: str, line: str) -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
        writer.write(response(200))

    async def run() -> int:
        async with serving(serve) as server:
            check = direct(HTTP, server.port, http_path="/live?full=1", http_host=host)
            assert await outcome(check) == ""
            return server.port

    port = asyncio.run(run())
    assert seen[0] == "GET /live?full=1 HTTP/1.1"
    assert line.format(port) in seen


# --- TLS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("valid"), 30)


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("expired"), -1)


@pytest.fixture
def trusted(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, valid: Path, expired: Path
) -> Path:
    """The certificate that the test names, as the only one that this machine trusts."""
    found = valid if request.param == "valid" else expired
    monkeypatch.setenv("SSL_CERT_FILE", str(found))
    monkeypatch.setenv("SSL_CERT_DIR", str(found.parent / "none"))
    connection._context.cache_clear()
    return found


def over_tls(kind: CheckKind, file: Path, serve: Serve, **more: object) -> str:
    async def run() -> str:
        async with serving(serve, tls_server(file)) as server:
            return await outcome(direct(kind, server.port, **more))

    return asyncio.run(run())


def test_any_certificate_will_do_unless_it_is_to_be_verified(expired: Path) -> None:
    assert over_tls(TLS, expired, silent) == ""


@pytest.mark.parametrize(
    ("trusted", "host", "reason"),
    [
        ("valid", "web.example", ""),
        ("valid", "", ""),
        ("valid", "other.example", "certificate is for another name"),
        ("expired", "web.example", "certificate expired"),
    ],
    indirect=["trusted"],
)
def test_certificate_is_verified_if_wanted(trusted: Path, host: str, reason: str) -> None:
    """By name, or by address where no name is given."""
    assert over_tls(TLS, trusted, silent, verify=True, http_host=host) == reason


@pytest.mark.parametrize("trusted", ["valid"], indirect=True)
def test_certificate_of_nobody_known_is_said(
    trusted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = certificate(tmp_path_factory.mktemp("other"), 30)
    assert over_tls(TLS, other, silent, verify=True) == "certificate is self-signed"


def test_server_without_tls_is_said() -> None:
    assert asked(TLS, answering(b""), timeout_s=0.3) == "timed out after 0.3 s"

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n")

    assert asked(TLS, hello) == "TLS: wrong version number"


def test_connection_closed_in_the_handshake_is_said() -> None:
    async def close(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(5_000)

    assert asked(TLS, close) == "connection closed during the TLS handshake"


def test_https_is_http_over_tls(valid: Path) -> None:
    body = b"x" * 40_000 + b"ready"
    assert over_tls(HTTPS, valid, answering(response(200, body)), http_body="ready") == ""
    found = over_tls(HTTPS, valid, answering(response(502)))
    assert found == "status 502, wanted 200-399"


# --- Commands ----------------------------------------------------------------------------------


def run_command(*argv: str, timeout_s: float = PATIENT_S) -> str:
    check = HealthCheck(kind=COMMAND, command=argv, timeout_s=timeout_s)
    return asyncio.run(outcome(check))


def test_exit_status_decides() -> None:
    assert run_command("true") == ""
    assert run_command("sh", "-c", "exit 2") == "exit status 2"
    assert run_command("sh", "-c", "kill -9 $$") == "killed by signal 9"


def test_command_that_is_not_there_is_said() -> None:
    found = run_command("no-such-program-here")
    assert found == "cannot run no-such-program-here: no such file or directory"


def test_command_is_killed_at_its_timeout_with_what_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = f"sleep 60 & echo $$ $! > {file}; wait"
    began = time.monotonic()
    while not file.exists() or len(file.read_text().split()) < 2:  # it was killed before that
        assert run_command("sh", "-c", script, timeout_s=0.5) == "timed out after 0.5 s"
    deadline = began + WAIT_S  # long before what it has started would end by itself
    for pid in file.read_text().split():
        while is_alive(int(pid)):
            assert time.monotonic() < deadline, pid
            time.sleep(0.01)


# --- This machine's own problems ---------------------------------------------------------------


def test_machine_without_descriptors_learns_nothing() -> None:
    """Not that the backend is down."""

    async def run() -> None:
        async with serving(silent) as server:
            with without_descriptors(), pytest.raises(NoResultError, match="too many open files"):
                await outcome(direct(TCP, server.port))

    asyncio.run(run())


def test_daemon_that_was_too_busy_to_listen_learns_nothing() -> None:
    """The answer is there in time, but nobody looked before the timeout had long passed."""

    async def run() -> None:
        async with serving(silent) as server:
            asking = asyncio.create_task(once(direct(HTTP, server.port, timeout_s=0.1)))
            await asyncio.sleep(0)  # it begins
            time.sleep(0.6)
            with pytest.raises(NoResultError, match=BUSY):
                await asking

    asyncio.run(run())
