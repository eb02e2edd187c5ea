# SPDX-License-Identifier: Apache-2.0
"""Client: asks a director's daemon over its unix socket. Standard library only, so it starts fast.

An error that the daemon reports is raised here as the same error. A daemon that does not answer is
`Unreachable`, which says what that means for traffic and how to start it.
"""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from limpet.api.interface import Json
from limpet.api.places import find_socket, how_to_start
from limpet.api.problem import decode
from limpet.core.errors import LimpetError, Unreachable

TIMEOUT_S = 60.0
CHUNK = 1 << 20


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("limpet", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One director's API."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or find_socket()

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON at a path; parameters that are None are left out."""
        return json.loads(self._ask("GET", path, None, parameters).read())

    def post(self, path: str, body: str = "") -> Json:
        answer: Json = json.loads(self._ask("POST", path, body.encode(), {}).read())
        return answer

    def lines(self, path: str, **parameters: object) -> Iterator[bytes]:
        """The lines of a stream, each a JSON object, without their line feeds."""
        response = self._ask("GET", path, None, parameters)
        rest = b""
        while part := response.read1(CHUNK):  # many lines at a time: http.client reads slowly
            *whole, rest = (rest + part).split(b"\n")
            yield from whole

    def _ask(
        self, method: str, path: str, body: bytes | None, parameters: dict[str, object]
    ) -> http.client.HTTPResponse:
        query = urlencode({k: v for k, v in parameters.items() if v is not None})
        connection = _Connection(self.path)
        try:
            connection.request(method, f"{path}?{query}" if query else path, body)
            response = connection.getresponse()
        except PermissionError as error:
            raise LimpetError(
                f"{self.path}: permission denied: who may ask the daemon may redirect traffic. "
                "Use sudo, or join the group that the socket belongs to"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"no daemon answers at {self.path} ({error}). {how_to_start()}"
            ) from error
        if response.status >= 400:
            raise _error(response)
        return response


def _error(response: http.client.HTTPResponse) -> LimpetError:
    text = response.read().decode(errors="replace")
    try:
        return decode(json.loads(text))
    except ValueError:
        return LimpetError(f"the daemon answered {response.status}: {text[:200]}")
