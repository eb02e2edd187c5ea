# SPDX-License-Identifier: Apache-2.0
"""SSH: a shell with a variable set, that counts."""

import shutil
import subprocess
from pathlib import Path

from limpet.lab.apps.application import ApplicationServer, ApplicationSession, BrokenError
from limpet.lab.apps.postgresql import is_open

PORT = 22
KEY = "ssh-client-key"


def _keygen(path: Path) -> None:
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)]
        subprocess.run(argv, check=True, capture_output=True)


class Server(ApplicationServer):
    """`sshd` with keys of its own; all of them show clients the same host key, as anycast needs."""

    name = "ssh"
    package = "openssh-server"
    program = Path("/usr/sbin/sshd")

    def prepare(self) -> None:
        shared = self.folder.parent
        _keygen(shared / "ssh-host-key")
        _keygen(shared / KEY)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        shutil.copy(shared / "ssh-host-key", self.folder / "key")
        (self.folder / "key").chmod(0o600)
        (self.folder / "config").write_text(
            f"Port {PORT}\nHostKey {self.folder / 'key'}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {shared / KEY}.pub\nStrictModes no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nMaxStartups 200\nUseDNS no\nPrintMotd no\n"
            # What this machine's user starts at login is not to speak in the sessions.
            f"SetEnv BACKEND={self.backend} HOME={self.folder}\n"
        )

    def argvs(self) -> list[list[str]]:
        return [[str(self.program), "-D", "-e", "-f", str(self.folder / "config")]]

    def is_ready(self) -> bool:
        return is_open(PORT)


class Session(ApplicationSession):
    """`ssh` to a shell, over a pipe."""

    name = "ssh"

    def argv(self, vip: str, source: str) -> list[str]:
        options = {
            "IdentityFile": str(self._folder / KEY),
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        flags += ["-b", source] if source else []
        return ["ssh", "-F", "/dev/null", *flags, "-p", str(PORT), f"root@{vip}", "sh"]

    def begin(self) -> None:
        self.say("n=0")

    def exchange(self, number: int) -> str:
        self.say('n=$((n + 1)); echo "$n $BACKEND"')
        count, _, backend = (said := self.hear()).partition(" ")
        if count != str(number):
            raise BrokenError(f"wanted the variable to be {number}, the shell says: {said}")
        return backend
