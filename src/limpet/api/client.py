# SPDX-License-Identifier: Apache-2.0
"""Client: asks a director's daemon, over its unix socket or over TLS. Standard library only, so it
starts fast.

An error that the daemon reports is raised here as the same error. A daemon that does not answer is
`Unreachable`, which says what that means for traffic and how to start it.

Over TLS: LIMPET_API has the URL, LIMPET_TOKEN the token, LIMPET_CACERT the file of the authorities
to believe (else the system's). The daemon's certificate is always verified.
"""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from limpet.api.interface import Json
from limpet.api.places import find_socket, how_to_start
from limpet.api.problem import Malformed, decode
from limpet.core.errors import LimpetError, Unreachable

TIMEOUT_S = 60.0
SILENCE_S = 30.0  # of a stream of events: three heartbeats
CHUNK = 1 << 20
OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("limpet", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One director's API. A socket goes before a URL; without both, the only socket there is."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        url: str = "",
        token: str = "",
        cacert: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = "" if path else url or os.environ.get("LIMPET_API", "")
        self.path = None if self.url else path or find_socket()
        self._token = token or os.environ.get("LIMPET_TOKEN", "")
        self._timeout_s = timeout_s
        self._cacert = cacert or os.environ.get("LIMPET_CACERT", "")

    def get(self, path: str, **parameters: object) -> Any:
        """The JSON at a path; parameters that are None are left out."""
        return json.loads(self._ask("GET", path, parameters).read())

    def post(self, path: str, body: str = "", *, if_revision: int | None = None) -> Json:
        found = self._ask("POST", path, {}, body, _if_match(if_revision))
        answer: Json = json.loads(found.read())
        return answer

    def post_json(
        self, path: str, body: Mapping[str, object], *, if_revision: int | None = None
    ) -> Json:
        found = self._ask("POST", path, {}, body, _if_match(if_revision))
        answer: Json = json.loads(found.read())
        return answer

    def put(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        if_revision: int | None = None,
        **parameters: object,
    ) -> Json:
        found = self._ask("PUT", path, parameters, body, _if_match(if_revision))
        answer: Json = json.loads(found.read())
        return answer

    def delete(self, path: str, *, if_revision: int | None = None) -> Json:
        found = self._ask("DELETE", path, {}, "", _if_match(if_revision))
        answer: Json = json.loads(found.read())
        return answer

    def lines(self, path: str, **parameters: object) -> Iterator[bytes]:
        """The lines of a stream, each a JSON object, without their line feeds."""
        yield from _lines(self._ask("GET", path, parameters))

    def events(self, since: int | None = None, *, follow: bool = True) -> Iterator[Json]:
        """What happens from now on, or after the event of that id (0: all that are kept), until
        the daemon ends. Without `follow` only what has happened already.

        Every event has "id", "at" and "kind". Unreachable when the daemon falls silent.
        """
        parameters: dict[str, object] = {"since": since, "follow": follow}
        response = self._ask("GET", "/v1/events", parameters, timeout_s=SILENCE_S)
        try:
            for line in _lines(response):
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the events have ended ({error}). {self._hint()}") from error

    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object],
        body: str | Mapping[str, object] = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> http.client.HTTPResponse:
        query = urlencode({k: _text(v) for k, v in parameters.items() if v is not None})
        sent = dict(headers or {})
        if self.url and self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        if not isinstance(body, str):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        connection = self._connection(timeout_s or self._timeout_s)
        try:
            connection.request(method, f"{path}?{query}" if query else path, body.encode(), sent)
            response = connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            mend = "Name the file of the authority that signed it in LIMPET_CACERT"
            if error.verify_code in OTHER_NAME:
                mend = "Ask for the director by a name or address that is in it"
            why = error.verify_message.rstrip(".")
            raise Unreachable(
                f"{self.url}: its certificate is not to be believed: {why}. {mend}"
            ) from error
        except PermissionError as error:
            raise LimpetError(
                f"{self.path}: permission denied: the folder of the socket lets nobody in. Use sudo"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"no daemon answers at {self._there()} ({error}). {self._hint()}"
            ) from error
        if response.status >= 400:
            raise _error(response)
        return response

    def _there(self) -> str:
        return self.url or str(self.path)

    def _hint(self) -> str:
        """What to do about a daemon that does not answer. Of another machine nothing is known."""
        if self.url:
            return "See there whether it runs, and what its [api] says (limpet show)"
        return how_to_start()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.path is not None:
            return _Connection(self.path, timeout)
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
            raise Malformed(f"{self.url!r}: write the API's URL as https://director.example:8443")
        try:
            context = ssl.create_default_context(cafile=self._cacert or None)
        except OSError as error:
            raise LimpetError(f"{self._cacert}: no certificates to be read: {error}") from error
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=context
        )


def place(*parts: str) -> str:
    """A path below /v1 whose parts may hold any character: place("backends", name, "drain")."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _if_match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"If-Match": f'"{revision}"'}


def _text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    rest = b""
    while part := response.read1(CHUNK):  # many lines at a time: http.client reads slowly
        *whole, rest = (rest + part).split(b"\n")
        yield from whole


def _error(response: http.client.HTTPResponse) -> LimpetError:
    text = response.read().decode(errors="replace")
    try:
        return decode(json.loads(text))
    except ValueError:
        return LimpetError(f"the daemon answered {response.status}: {text[:200]}")
