# SPDX-License-Identifier: Apache-2.0
"""Access: who is let in, as what, over the unix socket and over TLS."""

import dataclasses
import grp
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.memory import MemoryDirector
from api.served import Served, make_certificate
from limpet.api import access, listener, openapi
from limpet.api.application import application
from limpet.api.audit import Audit
from limpet.api.client import Client
from limpet.api.events import Streams
from limpet.api.problem import Forbidden, Unauthorized
from limpet.core.errors import ConfigError, LimpetError, Unreachable
from limpet.core.model import ApiListen

WAIT_S = 30.0  # for what has to come
STRANGER = 4_242  # a uid that nobody has
VIEWERS, OPERATORS = "games", "mail"  # groups that every Debian has


@pytest.fixture
def grouped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """With other names for the two groups, since the machine may have neither."""
    monkeypatch.setattr(access, "VIEWERS", VIEWERS)
    monkeypatch.setattr(access, "OPERATORS", OPERATORS)
    with Served(folder) as made:
        yield made


def gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


# --- Unix socket ---------------------------------------------------------------------------------


def test_a_stranger_on_the_socket_is_told_what_to_do(grouped: Served) -> None:
    for method, path in (("GET", "/v1/status"), ("GET", "/v1/nothing"), ("POST", "/v1/shutdown")):
        answer = grouped.ask_as(STRANGER, [], method, path)
        assert (answer.status, answer.body["type"]) == (403, "urn:limpet:error:forbidden")
        assert f"uid {STRANGER} may not ask" in answer.body["detail"]
        assert "Use sudo, or join the group" in answer.body["detail"]
    assert not grouped.director.has_stopped


def test_members_of_the_viewers_group_read_only(grouped: Served) -> None:
    groups = [gid(VIEWERS)]
    assert grouped.ask_as(STRANGER, groups, "GET", "/v1/status").status == 200
    answer = grouped.ask_as(STRANGER, groups, "POST", "/v1/shutdown")
    assert (answer.status, grouped.director.has_stopped) == (403, False)
    assert f"uid {STRANGER} is a viewer: that needs an operator" in answer.body["detail"]


def test_members_of_the_operators_group_may_do_everything(grouped: Served) -> None:
    groups = [gid(VIEWERS), gid(OPERATORS)]
    assert grouped.ask_as(STRANGER, groups, "PUT", "/v1/backends/b1/drain").status == 200
    assert grouped.ask_as(STRANGER, groups, "POST", "/v1/shutdown").status == 202


def test_other_groups_let_nobody_in(grouped: Served) -> None:
    assert grouped.ask_as(STRANGER, [gid("news"), gid("users")], "GET", "/v1/status").status == 403


def test_groups_are_looked_up_again_on_a_reload(
    grouped: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have been created meanwhile."""
    monkeypatch.setattr(access, "VIEWERS", "news")
    assert grouped.ask_as(STRANGER, [gid("news")], "GET", "/v1/status").status == 403
    grouped.call(grouped.service.update(ApiListen()))
    assert grouped.ask_as(STRANGER, [gid("news")], "GET", "/v1/status").status == 200
    assert grouped.ask_as(STRANGER, [gid(VIEWERS)], "GET", "/v1/status").status == 403


HOLD = """
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
waits = [float(wait) for wait in sys.argv[3:]]
held = [socket.socket(socket.AF_UNIX) for _ in waits]
for each in held:
    each.connect(sys.argv[1])
print("connected", flush=True)
def ended(each, wait_s):
    each.settimeout(wait_s)
    try:
        return each.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
print("".join("-+"[not ended(*each)] for each in zip(held[::-1], waits)), flush=True)
"""


def held_by_a_stranger(served: Served, *waits_s: float) -> "subprocess.Popen[str]":
    """Connections that ask for nothing. It says which are ended within these times, a "-" each.
    The first of the times, and of what is said, is that of the last connection."""
    argv = [sys.executable, "-c", HOLD, str(served.path), str(STRANGER), *map(str, waits_s)]
    held = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    assert held.stdout.readline() == "connected\n"
    return held


def test_strangers_cannot_use_up_the_connections(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit they are closed at once; root gets in all the same."""
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 3)
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 60)
    with held_by_a_stranger(served, WAIT_S, 0.3, 0.1, 0.1) as held:
        assert served.ask("GET", "/v1/status").status == 200
        assert held.communicate(timeout=2 * WAIT_S)[0].strip() == "-+++"


def test_a_connection_that_asks_for_nothing_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 0.3)
    with held_by_a_stranger(served, WAIT_S, WAIT_S) as held:
        assert held.communicate(timeout=3 * WAIT_S)[0].strip() == "--"
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 1.0)  # enough for a slow machine to ask
    feed = served.director.feed
    first = feed.publish("split")
    stream = Client(served.path).events(0)  # a request that lasts is not silent
    assert next(stream) == first
    time.sleep(1.2)
    second = feed.publish("split")
    assert next(stream) == second


ASK_LATER = """
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
held = socket.socket(socket.AF_UNIX)
held.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.readline()
held.sendall(b"POST /v1/shutdown HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n")
print(held.recv(100).split()[1].decode(), flush=True)
"""


def test_who_connects_later_lends_no_rights_to_who_is_there(served: Served) -> None:
    argv = [sys.executable, "-c", ASK_LATER, str(served.path), str(STRANGER)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "connected\n"
        assert served.ask("GET", "/v1/status").status == 200  # root's
        assert stranger.communicate("\n", timeout=WAIT_S)[0] == "403\n"
    assert not served.director.has_stopped


def test_who_is_refused_does_not_keep_the_connection(secure: Served) -> None:
    answer = secure.ask_tls("GET", "/v1/status", "guessed")
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert "connection" not in secure.ask_tls("GET", "/v1/status", secure.secrets["v"]).headers


def test_headers_do_not_say_who_asks(grouped: Served) -> None:
    """What a proxy would send counts for nothing."""
    answer = grouped.ask(
        "PUT", "/v1/backends/b1/drain", X_Forwarded_For="1.2.3.4", Authorization="Bearer x"
    )
    assert answer.status == 200
    assert grouped.director.drain_rows["b1"]["by"] == "uid 0 (root)"


# --- Tokens over TLS -----------------------------------------------------------------------------


def test_without_a_known_token_nothing_is_answered(secure: Served) -> None:
    for secret in ("", "x", secure.secrets["o"][:-1], secure.secrets["o"] + "x"):
        for method, path in (("GET", "/v1/status"), ("GET", "/v1/no"), ("POST", "/v1/shutdown")):
            answer = secure.ask_tls(method, path, secret)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.body["type"] == "urn:limpet:error:unauthorized"
    assert not secure.director.has_stopped


def test_token_of_an_operator_is_the_one_who_asks(secure: Served) -> None:
    answer = secure.ask_tls("PUT", "/v1/backends/b1/drain", secure.secrets["o"], {})
    assert answer.status == 200
    assert secure.director.drain_rows["b1"]["by"] == "token o"


def operations() -> dict[tuple[str, str], str]:
    app = application(MemoryDirector(), Audit(None), Streams())
    return openapi.roles(app.routers)


@pytest.mark.parametrize(("method", "path"), sorted(operations()))
def test_viewer_is_let_through_where_the_document_says_so(
    secure: Served, method: str, path: str
) -> None:
    """Every operation there is, asked by a viewer."""
    role = operations()[method, path]
    real = re.sub(r"{(\w+)}", "b1", path) + ("?follow=false" if path == "/v1/events" else "")
    before = secure.director.revision, secure.director.reloads, secure.director.has_stopped
    answer = secure.ask_tls(method, real, secure.secrets["v"])
    assert (answer.status == 403) is (role != "viewer"), answer
    assert before == (
        secure.director.revision,
        secure.director.reloads,
        secure.director.has_stopped,
    )
    if role.endswith("with dry_run"):
        assert secure.ask_tls(method, real + "?dry_run=true", secure.secrets["v"]).status == 200
        assert secure.ask_tls(method, real + "?dry_run=false", secure.secrets["v"]).status == 403


def test_only_reads_and_questions_are_for_viewers() -> None:
    for_viewers = {key for key, role in operations().items() if role == "viewer"}
    assert {key for key in for_viewers if key[0] != "GET"} == {("POST", "/v1/plan")}
    assert ("GET", "/v1/audit") not in for_viewers


def test_plain_http_gets_no_answer_on_the_tls_port(secure: Served) -> None:
    assert secure.service.tcp_port is not None
    with socket.create_connection(("127.0.0.1", secure.service.tcp_port), timeout=WAIT_S) as plain:
        plain.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")


def test_old_tls_is_refused(secure: Served) -> None:
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{secure.service.tcp_port}"]
    for version, status in (("-tls1_1", 1), ("-tls1_2", 0), ("-tls1_3", 0)):
        cipher = ["-cipher", "ALL:@SECLEVEL=0", version]
        done = subprocess.run([*argv, *cipher], input=b"", capture_output=True, timeout=WAIT_S)
        assert done.returncode == status, (version, done.stderr)


# --- The client over TLS -------------------------------------------------------------------------


def test_client_asks_over_tls_as_the_environment_says(
    secure: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMPET_API", f"https://127.0.0.1:{secure.service.tcp_port}")
    monkeypatch.setenv("LIMPET_CACERT", str(secure.folder / "server.crt"))
    with pytest.raises(Unauthorized, match="send a token"):
        Client().get("/v1/status")
    monkeypatch.setenv("LIMPET_TOKEN", secure.secrets["v"])
    assert Client().get("/v1/status")["director"] == "memory"
    with pytest.raises(Forbidden, match="token v is a viewer"):
        Client().put("/v1/backends/b1/drain", {})
    monkeypatch.setenv("LIMPET_CACERT", "")
    with pytest.raises(Unreachable, match="LIMPET_CACERT"):
        Client().get("/v1/status")
    assert Client(secure.path).put("/v1/backends/b1/drain", {})["revision"] == 2


def test_a_daemon_elsewhere_is_looked_for_there(secure: Served) -> None:
    url = f"https://127.0.0.1:{secure.service.tcp_port}"
    secure.call(secure.service.update(ApiListen()))
    with pytest.raises(Unreachable, match=r"no daemon answers at https://.* See there"):
        Client(url=url, token="x").get("/v1/status")


def test_client_sends_its_token_to_nobody_in_clear() -> None:
    with pytest.raises(LimpetError, match="https://"):
        Client(url="http://127.0.0.1:1", token="x").get("/v1/status")


# --- Reload --------------------------------------------------------------------------------------


def varied(before: ApiListen, **changes: str) -> ApiListen:
    return dataclasses.replace(before, **changes)


def test_reload_reads_tokens_and_certificate_again(secure: Served) -> None:
    port, tokens = secure.service.tcp_port, secure.folder / "tokens"
    lines = tokens.read_text().splitlines()
    tokens.write_text(lines[1] + "\n")
    make_certificate(secure.folder, "server")
    assert secure.ask("GET", "/v1/status").status == 200
    secure.call(secure.service.update(secure.listen))
    assert secure.service.tcp_port == port
    assert secure.ask_tls("GET", "/v1/status", secure.secrets["v"]).status == 401
    assert secure.ask_tls("GET", "/v1/status", secure.secrets["o"]).status == 200


def test_reload_moves_and_ends_the_service_over_tcp(secure: Served, folder: Path) -> None:
    port = secure.service.tcp_port
    secure.call(secure.service.update(varied(secure.listen, listen="[::1]:0")))
    assert secure.service.tcp_port not in (None, port)
    secure.call(secure.service.update(ApiListen()))
    assert secure.service.tcp_port is None
    assert port is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    assert secure.ask("GET", "/v1/status").status == 200


def broken(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """What is wrong -> change of the configuration, what the error says."""
    make_certificate(folder, "other")
    for name, text in (("empty", "# none\n"), ("bad", "owner x 1\n"), ("loose", "")):
        (folder / name).write_text(text)
    (folder / "loose").chmod(0o666)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return {
        "address": ({"listen": "localhost:1"}, "api.listen: localhost:1"),
        "port": ({"listen": "127.0.0.1:99999"}, "cannot listen there"),
        "elsewhere": ({"listen": f"192.0.2.77:{port}"}, "Cannot assign"),
        "no certificate": ({"certificate": str(folder / "none")}, "No such file"),
        "another's certificate": ({"certificate": str(folder / "other.crt")}, "mismatch"),
        "another's key": ({"key": str(folder / "other.key")}, "mismatch"),
        "no key": ({"key": str(folder / "empty")}, "no usable pair"),
        "no tokens file": ({"tokens": str(folder / "none")}, "No such file"),
        "no token": ({"tokens": str(folder / "empty")}, "it has no token"),
        "bad token": ({"tokens": str(folder / "bad")}, "bad:1: 'owner' is not a role"),
        "loose file": ({"tokens": str(folder / "loose")}, "everybody may write it"),
    }


def test_a_wrong_reload_leaves_everything_as_it_is(secure: Served, folder: Path) -> None:
    for change, says in broken(folder).values():
        with pytest.raises(ConfigError) as caught:
            secure.call(secure.service.update(varied(secure.listen, **change)))
        assert says in str(caught.value), change
        assert "to mend: " in str(caught.value)
        assert secure.ask_tls("GET", "/v1/status", secure.secrets["v"]).status == 200


def test_a_key_with_a_password_is_an_error_and_no_question(secure: Served, folder: Path) -> None:
    make_certificate(folder, "locked")
    key = folder / "locked.key"
    argv = ["openssl", "ec", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", f"{key}2"]
    subprocess.run(argv, check=True, capture_output=True)
    change = {"certificate": str(folder / "locked.crt"), "key": f"{key}2"}
    with pytest.raises(ConfigError, match="the key has a password"):
        secure.call(secure.service.update(varied(secure.listen, **change)))


def test_a_start_without_tcp_still_serves_the_socket(folder: Path) -> None:
    made = Served(folder).with_tls()
    (folder / "tokens").unlink()
    with made:
        assert made.service.tcp_port is None
        assert made.ask("GET", "/v1/status").status == 200
