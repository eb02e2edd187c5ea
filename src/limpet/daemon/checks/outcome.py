# SPDX-License-Identifier: Apache-2.0
"""Outcome: what a check that did not succeed says, in short words for people.

Two kinds, which must never be mixed: `CheckError` speaks of the backend. `NoResultError` speaks of
this machine: it was out of descriptors, or busy, so nothing was learnt. A director with a problem
of its own must not declare its backends down.
"""

import errno
import os
import ssl

LOCAL = {  # errors of a socket that say nothing of the other end
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EPERM,
    errno.EACCES,
    errno.EADDRNOTAVAIL,
    errno.EAGAIN,
    errno.EINVAL,
}
WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
}
CERTIFICATE = {  # X509_V_ERR_* of OpenSSL
    9: "certificate not valid yet",
    10: "certificate expired",
    18: "certificate is self-signed",
    19: "certificate is self-signed",
    20: "certificate of an unknown issuer",
    62: "certificate is for another name",
    64: "certificate is for another address",
}


class CheckError(Exception):
    """The backend did not pass; the message is the reason."""


class NoResultError(Exception):
    """Nothing was learnt of the backend; the message says what this machine lacks."""


def of_socket(error: OSError) -> CheckError | NoResultError:
    """What an error of a socket means."""
    code = error.errno or 0
    if code in LOCAL:
        return NoResultError(os.strerror(code).lower())
    return CheckError(WORDS.get(code) or (os.strerror(code).lower() if code else str(error)))


def of_tls(error: ssl.SSLError) -> CheckError:
    """What an error of a TLS handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = CERTIFICATE.get(error.verify_code)
        return CheckError(known or f"certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLEOFError):
        return CheckError("connection closed during the TLS handshake")
    reason = (error.reason or "handshake failed").replace("_", " ").lower()
    return CheckError(f"TLS: {reason}")


def timed_out(timeout_s: float) -> CheckError:
    return CheckError(f"timed out after {timeout_s:g} s")
