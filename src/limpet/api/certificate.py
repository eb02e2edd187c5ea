# SPDX-License-Identifier: Apache-2.0
"""Certificate: TLS of the API over TCP. TLS 1.2 at least; certificate and key are PEM files.

A pair is tried in a context of its own before it gets into the one that serves, so that a bad pair
never leaves the service without one. Open connections keep the certificate they began with.
"""

import ssl
from pathlib import Path

from limpet.core.errors import ConfigError, Problem

MEND = (
    "name PEM files that belong together in api.certificate and api.key; the key without password"
)


def context() -> ssl.SSLContext:
    """A context that has no certificate yet."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def load(into: ssl.SSLContext, certificate: str, key: str) -> None:
    """Serve with this pair from now on. ConfigError, and the old pair stays, if it is no good."""
    for made in (context(), into):
        try:
            made.load_cert_chain(certificate, key, password=_ask_nobody)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ConfigError([Problem(_where(certificate, key), _why(error), MEND)]) from error


def _ask_nobody() -> str:
    """OpenSSL would ask on the terminal, and the daemon would wait for ever."""
    raise ValueError("the key has a password")


def _where(certificate: str, key: str) -> str:
    """The file that is the matter, as far as can be told."""
    for name, path in (("api.certificate", certificate), ("api.key", key)):
        try:
            Path(path).read_bytes()
        except OSError:
            return f"{name}: {path}"
    return f"api.certificate: {certificate}, api.key: {key}"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or error).lower().replace("_", " ")
        return f"no usable pair of certificate and key: {reason}"
    if isinstance(error, OSError):
        return f"cannot read it: {error.strerror}"
    return str(error)
