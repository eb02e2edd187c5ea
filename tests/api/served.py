# SPDX-License-Identifier: Apache-2.0
"""Served: the API of a director in memory, behind real sockets, in an event loop of its own."""

import asyncio
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from api.memory import MemoryDirector
from limpet.api.server import Serving, serving
from limpet.api.tokens import new_token
from limpet.core.model import ApiListen

START_S = 30.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any  # JSON, if it is


class Served:
    """Begins with `with`. `folder` has the socket, the audit log, certificate and tokens."""

    def __init__(self, folder: Path, director: MemoryDirector | None = None) -> None:
        self.folder, self.director = folder, director or MemoryDirector()
        self.path = folder / "api.sock"
        self.secrets: dict[str, str] = {}
        self.listen = ApiListen()
        self.service: Serving
        self._ready, self._stopping = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def with_tls(self) -> Self:
        """TLS on a free port, a certificate for 127.0.0.1, tokens "v" and "o"."""
        make_certificate(self.folder, "server")
        lines = []
        for role, name in (("viewer", "v"), ("operator", "o")):
            self.secrets[name], line = new_token(role, name)
            lines.append(line)
        tokens = self.folder / "tokens"
        tokens.write_text("\n".join(lines))
        certificate, key = (str(self.folder / f"server.{end}") for end in ("crt", "key"))
        self.listen = ApiListen("127.0.0.1:0", certificate, key, str(tokens))
        return self

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with serving(self.director, self.path, self.folder, self.listen) as self.service:
            self._ready.set()
            await self._stopping.wait()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """In the loop of the service."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    # --- Asking ---------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Over the unix socket."""
        connection = http.client.HTTPConnection("limpet")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(START_S)
        connection.sock.connect(str(self.path))
        return answer_of(connection, method, path, body, headers)

    def ask_tls(self, method: str, path: str, secret: str = "", body: Any = None) -> Answer:
        assert self.service.tcp_port is not None
        context = ssl.create_default_context(cafile=str(self.folder / "server.crt"))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.service.tcp_port, timeout=START_S, context=context
        )
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return answer_of(connection, method, path, body, headers)

    def ask_as(self, uid: int, groups: list[int], method: str, path: str) -> Answer:
        """Over the unix socket, by a process of another user."""
        argv = ["curl", "-sS", "-m", str(START_S), "-X", method, "-w", "\n%{http_code}"]
        argv += ["--unix-socket", str(self.path), f"http://limpet{path}"]
        done = subprocess.run(
            argv, user=uid, group=uid, extra_groups=groups, capture_output=True, text=True, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        text, _, status = done.stdout.rpartition("\n")
        return Answer(int(status), {}, json.loads(text))

    def audit(self) -> list[Any]:
        """Entries of the file, the oldest first."""
        file = self.folder / "audit.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def answer_of(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    if isinstance(body, dict):
        body, sent["Content-Type"] = json.dumps(body), "application/json"
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    is_json = "json" in found.get("content-type", "") and "ndjson" not in found["content-type"]
    return Answer(response.status, found, json.loads(text) if is_json else text.decode())


def make_certificate(folder: Path, name: str) -> None:
    """A pair that signs itself, for 127.0.0.1."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    argv += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext"]
    argv += ["subjectAltName=IP:127.0.0.1", "-keyout", str(folder / f"{name}.key")]
    argv += ["-out", str(folder / f"{name}.crt")]
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "RANDFILE": ""})


def wait_for(condition: Callable[[], object], wait_s: float = START_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
