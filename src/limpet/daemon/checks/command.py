# SPDX-License-Identifier: Apache-2.0
"""Command: a check by a program of the operator's; its exit status says whether the backend is up.

It runs in a process group of its own, without input and output, and is killed with all that it
started when its time is up.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress

from limpet.daemon.checks.outcome import LOCAL, CheckError, NoResultError


async def run(argv: tuple[str, ...]) -> None:
    """Raises CheckError unless it ends with status 0, NoResultError if it could not be started for
    reasons of this machine's. Cancelled when its time is up."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:
        if error.errno in LOCAL and not isinstance(error, PermissionError):
            raise NoResultError(f"cannot start a command: {error.strerror}") from error
        raise CheckError(
            f"cannot run {argv[0]}: {(error.strerror or str(error)).lower()}"
        ) from error
    try:
        status = await process.wait()
    except BaseException:
        await _kill(process)
        raise
    if status < 0:
        raise CheckError(f"killed by signal {-status}")
    if status:
        raise CheckError(f"exit status {status}")


async def _kill(process: Process) -> None:
    """The whole group; its id stays taken until the first of it is waited for."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
