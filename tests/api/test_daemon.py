# SPDX-License-Identifier: Apache-2.0
"""The API of a daemon that runs: its answers, its audit log, and TCP as its file says."""

import contextlib
import http.client
import json
import signal
import socket
from typing import Any

import pytest

from api.answers import mismatches
from api.served import Answer, answer_of, make_certificate
from api.test_openapi import ASKED
from daemon.site import Site
from limpet.api.client import Client
from limpet.api.problem import Unauthorized
from limpet.api.tokens import new_token
from limpet.core.errors import ConfigError, Unreachable
from limpet.lab import namespace

pytestmark = pytest.mark.kernel


def ask(site: Site, method: str, path: str, body: Any = None) -> Answer:
    connection = http.client.HTTPConnection("limpet")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(site.places.socket))
    return answer_of(connection, method, path, body)


def test_every_route_of_a_running_daemon_answers_as_the_document_says(site: Site) -> None:
    """But shutdown, with health checks, sessions, flows, a drain and a weight to be told."""
    check = 'health = { kind = "command", command = ["true"], path = "direct" }'
    site.edit("b2 = 1 }\n", f"b2 = 1 }}\n{check}\n")
    site.start()
    site.forwarded(range(41_000, 41_020))
    site.wait_for(lambda: len(site.get("/v1/health")) == 2 and len(site.get("/v1/sources")))
    for method, path, body in ASKED:
        if path != "/v1/shutdown":
            answer = ask(site, method, path, site.file.read_text() if path == "/v1/plan" else body)
            answered = (answer.status, answer.headers["content-type"], answer.body)
            found = mismatches(method, path, answered)
            assert not found, f"{method} {path}: {found}: {answer}"


def test_changes_are_in_the_audit_log_of_the_state_folder(site: Site) -> None:
    site.start()
    Client(site.places.socket).put("/v1/backends/b1/drain", {"deadline_s": 60})
    text = (site.places.state / "audit.jsonl").read_text()
    (entry,) = [json.loads(line) for line in text.splitlines()]
    assert (entry["by"], entry["outcome"], entry["revision"]) == ("uid 0 (root)", "done", 1)


def over_tls(site: Site, secret: str) -> Any:
    """The status, asked on the director's host."""
    with namespace.inside(site.netns):
        client = Client(
            url="https://127.0.0.1:8443", token=secret, cacert=str(site.file.parent / "server.crt")
        )
        return client.get("/v1/status")


def is_reloaded(site: Site, secret: str) -> bool:
    """Whether who has this token is let in, and the file is told to be right."""
    with contextlib.suppress(Unauthorized):
        return bool(over_tls(site, secret)["file_error"] == "")
    return False


def test_a_reload_begins_changes_and_ends_the_api_over_tcp(site: Site) -> None:
    """And one that cannot be changes nothing."""
    folder, client = site.file.parent, Client(site.places.socket)
    site.start()
    make_certificate(folder, "server")
    first, line = new_token("viewer", "first")
    (folder / "tokens").write_text(line)
    before = site.file.read_text()
    keys = {"certificate": "server.crt", "key": "server.key", "tokens": "tokens"}
    lines = "".join(f'{key} = "{folder / name}"\n' for key, name in keys.items())
    with pytest.raises(Unreachable):
        over_tls(site, first)
    site.file.write_text(f'{before}\n[api]\nlisten = "127.0.0.1:8443"\n{lines}')
    client.post("/v1/reload")
    assert over_tls(site, first)["director"] == site.name

    second, line = new_token("viewer", "second")
    (folder / "tokens").write_text("nonsense")
    with pytest.raises(ConfigError, match="tokens:1"):
        client.post("/v1/reload")
    assert "tokens:1" in over_tls(site, first)["file_error"]
    (folder / "tokens").write_text(line)
    site.processes[-1].send_signal(signal.SIGHUP)
    site.wait_for(lambda: is_reloaded(site, second))
    with pytest.raises(Unauthorized):
        over_tls(site, first)

    site.file.write_text(before)
    client.post("/v1/reload")
    with pytest.raises(Unreachable):
        over_tls(site, second)
