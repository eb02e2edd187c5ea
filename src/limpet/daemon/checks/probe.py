# SPDX-License-Identifier: Apache-2.0
"""Probe: one check of one target, by its kind, within its time."""

import asyncio

from limpet.core.model import CheckKind
from limpet.daemon.checks import command, http
from limpet.daemon.checks.connection import Connection, Sources
from limpet.daemon.checks.outcome import CheckError, NoResultError, timed_out
from limpet.daemon.checks.target import Target

STALLED_S = 0.2  # a time-out that is noticed so late says more of this process than of the backend
TLS = (CheckKind.TLS, CheckKind.HTTPS)
HTTP = (CheckKind.HTTP, CheckKind.HTTPS)
GOOD = {
    CheckKind.TCP: "accepts connections",
    CheckKind.TLS: "completes TLS handshakes",
    CheckKind.HTTP: "answers as wanted",
    CheckKind.HTTPS: "answers as wanted",
    CheckKind.COMMAND: "exit status 0",
}


async def probe(target: Target, sources: Sources) -> None:
    """Nothing if the backend passes; else CheckError or NoResultError."""
    timeout_s = target.check.timeout_s
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    try:
        async with asyncio.timeout_at(deadline):
            await _ask(target, sources)
    except TimeoutError:
        if loop.time() - deadline > STALLED_S:
            raise NoResultError("the daemon was too busy") from None
        sources.forget(target.backend_address)
        raise timed_out(timeout_s) from None
    except CheckError:
        sources.forget(target.backend_address)
        raise


async def _ask(target: Target, sources: Sources) -> None:
    check = target.check
    if check.kind is CheckKind.COMMAND:
        await command.run(target.command)
        return
    connection = await Connection.connect(target, sources)
    try:
        if check.kind in TLS:
            await connection.start_tls(target.host, check.verify)
        if check.kind in HTTP:
            await http.ask(connection, target)
    finally:
        connection.close()
