# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: a psql that is inside one transaction, with a temporary table, all the time.

Nothing of it outlives its connection: neither the rows nor the process that serves it.
"""

import pwd
import shutil
import socket
import subprocess
from pathlib import Path

from limpet.lab.apps.application import ApplicationServer, ApplicationSession, BrokenError
from limpet.lab.apps.origin import Origin

PORT = 5_432
BINARIES = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
OPEN_TO_ALL = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\nlocal all all trust\n"


def _as_user(*argv: str) -> list[str]:
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *argv]


class Server(ApplicationServer):
    """A database cluster of its own; made once in a folder, then copied."""

    name = "postgresql"
    package = "postgresql-15"
    program = BINARIES / "postgres"

    def prepare(self) -> None:
        data, template = self.folder / "data", self.folder.parent / "postgresql-template"
        user = pwd.getpwnam(USER)
        if not template.exists():
            template.mkdir()
            shutil.chown(template, user.pw_uid, user.pw_gid)
            _reachable(template)
            initdb = (str(BINARIES / "initdb"), "--no-sync", "--auth=trust", "-D", str(template))
            subprocess.run(_as_user(*initdb), check=True, capture_output=True)
        subprocess.run(["cp", "-a", str(template), str(data)], check=True)
        (data / "pg_hba.conf").write_text(OPEN_TO_ALL)
        shutil.chown(self.folder, user.pw_uid, user.pw_gid)
        _reachable(data)

    def argvs(self) -> list[list[str]]:
        settings = {
            "cluster_name": self.backend,
            "listen_addresses": "*",
            "port": str(PORT),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "shared_buffers": "8MB",
            "max_connections": "120",
            "autovacuum": "off",
        }
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [_as_user(str(self.program), "-D", str(self.folder / "data"), *flags)]

    def is_ready(self) -> bool:
        ask = [str(BINARIES / "pg_isready"), "-h", "127.0.0.1", "-p", str(PORT), "-q"]
        return subprocess.run(ask, check=False).returncode == 0


def _reachable(folder: Path) -> None:
    """Let the user of the database come through to it."""
    for parent in folder.parents:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)


class Session(ApplicationSession):
    """`psql` over a pipe, as a program that works with a database."""

    name = "postgresql"
    _origin: Origin | None = None

    def argv(self, vip: str, source: str) -> list[str]:
        where = ["-h", vip, "-p", str(PORT), "-U", USER, "-d", "postgres"]
        psql = [str(BINARIES / "psql"), "-X", "-q", "-A", "-t", *where]
        if not source:
            return psql
        self._origin = Origin(self._netns, source, vip)
        return [*self._origin.prefix, *psql]

    def close(self) -> None:
        super().close()
        if self._origin is not None:
            self._origin.close()

    def begin(self) -> None:
        self.say("BEGIN; CREATE TEMP TABLE work (n int) ON COMMIT DROP;")

    def exchange(self, number: int) -> str:
        self.say(
            f"INSERT INTO work VALUES ({number}); SELECT count(*), sum(n), "
            "current_setting('cluster_name') FROM work;"
        )
        said = self.hear().split("|")
        if len(said) != 3 or said[:2] != [str(number), str(number * (number + 1) // 2)]:
            raise BrokenError(f"wanted {number} rows in the table, psql says: {'|'.join(said)}")
        return said[2]


def is_open(port: int) -> bool:
    """Whether something listens here."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
