# SPDX-License-Identifier: Apache-2.0
"""Server: serves the API on a unix socket, in the event loop of the daemon.

The socket is made under another name and renamed when it listens, so that a client finds either
one that answers or, after a crash, one that refuses; never a wait. Only the owner and its group
may connect: whoever may talk to the daemon may redirect traffic.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from limpet.api.application import application
from limpet.api.interface import Director
from limpet.core.errors import LimpetError

MODE = 0o660
BACKLOG = 128
GRACE_S = 2  # for requests that are under way when the daemon stops


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's."""
        yield


@asynccontextmanager
async def serving(director: Director, path: Path) -> AsyncIterator[None]:
    """Serve while the body runs."""
    config = uvicorn.Config(
        application(director),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    listener = _listen(path)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise LimpetError(f"{path}: the API did not start")
            await asyncio.sleep(0.005)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        server.should_exit = True
        await task


def _listen(path: Path) -> socket.socket:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        listener.bind(str(fresh))
        fresh.chmod(MODE)
        listener.listen(BACKLOG)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        raise LimpetError(f"{path}: cannot listen there: {error.strerror}") from error
    return listener
