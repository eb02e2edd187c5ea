# SPDX-License-Identifier: Apache-2.0
"""The server of the lab's sessions: it has state for each connection, and knows who is connected.

A request is a line with a number that the client made up for its session; the answer is
"<server> <number> <count>", the count being that of the connection's requests. So a client notices
a session that moved, was reset, lost an answer or began anew, and the server can be asked about
both: who is connected now, and how each connection ended.

On another port it answers HTTP with 200 and its name, or with 503 after "sick" on standard input,
for health checks: then a check fails while every session lives. Who sends a GET instead of a number
is answered like that too, so that curl and browsers find somebody. "view" prints a line of JSON:
see `View`. Run inside a backend, as `python -m limpet.lab.server NAME PORT [CHECK_PORT]`.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field

BACKLOG = 4_096
ANY = ("0.0.0.0", "::")


@dataclass
class Connection:
    """One TCP connection, from the server's side."""

    client: str
    client_port: int
    vip: str
    number: str = ""  # of its session
    count: int = 0
    ended_at: float = 0.0  # Unix seconds; 0: it has not
    ended_by: str = ""  # "close" or "reset"


@dataclass
class View:
    """What a server knows of its sessions."""

    connected: list[Connection] = field(default_factory=list)
    ended: list[Connection] = field(default_factory=list)


class SessionServer:
    """Answers on all addresses of both families until killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_sick = False
        self._seen: list[Connection] = []

    def view(self) -> View:
        return View(
            connected=[known for known in self._seen if not known.ended_by],
            ended=[known for known in self._seen if known.ended_by],
        )

    async def session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        known = Connection(client=peer[0], client_port=peer[1], vip=own[0])
        self._seen.append(known)
        try:
            while request := await reader.readline():
                if request.startswith(b"GET "):
                    await self.check(reader, writer)
                    break
                known.number = request.decode().strip()
                known.count += 1
                writer.write(f"{self.name} {known.number} {known.count}\n".encode())
                await writer.drain()
            known.ended_by = "close"
        except ConnectionError:
            known.ended_by = "reset"
        finally:
            known.ended_at = time.time()
            writer.close()

    async def check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP request, or the rest of it."""
        try:
            while (await reader.readline()).strip():
                pass
            status = "503 sick" if self.is_sick else "200 well"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(self.name) + 1}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n{self.name}\n".encode())
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def obey(self) -> None:
        """What standard input says. When that ends, the server runs on."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "view":
                print(json.dumps(asdict(self.view())), flush=True)
            else:
                self.is_sick = line.strip() == "sick"
                print("so it is", flush=True)

    async def serve(self, port: int, check_port: int) -> None:
        wanted = [(self.session, port)] + ([(self.check, check_port)] if check_port else [])
        servers = [
            await asyncio.start_server(act, host, each, backlog=BACKLOG, reuse_address=True)
            for act, each in wanted
            for host in ANY
        ]
        print("ready", flush=True)
        await asyncio.gather(self.obey(), *(server.serve_forever() for server in servers))


def many_files() -> None:
    """As many sockets as the machine allows: one of the lab's hosts may hold thousands."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("check_port", type=int, nargs="?", default=0)
    options = parser.parse_args()
    many_files()
    asyncio.run(SessionServer(options.name).serve(options.port, options.check_port))


if __name__ == "__main__":
    main()
