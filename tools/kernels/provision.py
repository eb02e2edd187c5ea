# SPDX-License-Identifier: Apache-2.0
"""Brings what a guest needs: qemu, virtme-ng, and Debian kernels unpacked into a cache folder.

Kernels come through apt with a configuration of our own, so that the suites asked for need not be
suites of this host, the host's package state stays as it is, and no root is needed. What is there
already is used without asking the network again; `update=True` asks for a newer build.

Everything is made aside and then renamed, below a lock: a run that was interrupted, or one beside
this one, finds a whole kernel or none.
Not here: building kernels, and other distributions' kernels.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from limpet.core.errors import NotFound, Unsupported

VIRTME = "virtme-ng==1.42"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Both hold 6.12 for Debian 12, the first holds 6.1; their indexes are less than 1 MB each.
SUITES = (
    ("http://deb.debian.org/debian-security", "bookworm-security"),
    ("http://deb.debian.org/debian", "bookworm-backports"),
)
# Command that must be there -> Debian package that has it.
HOST_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "ip": "iproute2",
    "busybox": "busybox-static",
}
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Kernel:
    """A kernel ready to boot. `release` is what `uname -r` has to say in the guest."""

    series: str
    release: str
    image: Path


def cache_dir() -> Path:
    """Folder of everything that is kept between runs; may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "limpet" / "kernels"


def say(text: str) -> None:
    print(f"kernels: {text}", flush=True)


def run(step: str, command: list[str], cwd: Path | None = None) -> str:
    """Standard output of `command`; Unsupported with what it said when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-2000:]
        raise Unsupported(f"{step} failed ({done.returncode}): {' '.join(command)}\n{words}")
    return done.stdout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One provisioning at a time; the second waits, and then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def host_tools() -> None:
    """Install the host's missing commands by apt. Never a kernel."""
    missing = [p for c, p in HOST_TOOLS.items() if not shutil.which(c, path=SEARCH_PATH)]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unsupported(
            f"missing on this host: {', '.join(missing)}; as root: {' '.join(command)}"
        )
    say(f"installing on this host: {' '.join(missing)}")
    run("refresh of the package lists", ["apt-get", "update", "-q"])
    run("installation", ["env", "DEBIAN_FRONTEND=noninteractive", *command])


def virtme() -> Path:
    """The `vng` command, in a virtual environment of its own."""
    home = cache_dir() / VIRTME.replace("==", "-")
    if not (home / "bin" / "vng").exists():
        say(f"installing {VIRTME} into {home}")
        shutil.rmtree(home, ignore_errors=True)
        run("virtual environment", [sys.executable, "-m", "venv", str(home)])
        run("installation of virtme-ng", [str(home / "bin" / "pip"), "install", "-q", VIRTME])
    return home / "bin" / "vng"


class Apt:
    """apt with our suites and our folders; the host's lists and packages are not touched."""

    def __init__(self, folder: Path) -> None:
        if not KEYRING.exists():
            raise Unsupported(f"{KEYRING} is missing; install the package debian-archive-keyring")
        for part in ("lists/partial", "archives/partial", "parts"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        sources.write_text(
            "".join(f"deb [arch=amd64 signed-by={KEYRING}] {u} {s} main\n" for u, s in SUITES)
        )
        settings = {
            "Dir::Etc::sourcelist": str(sources),
            "Dir::Etc::sourceparts": str(folder / "parts"),
            "Dir::State::lists": str(folder / "lists"),
            "Dir::Cache": str(folder),
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",  # the cache may be below a home that is closed to _apt
        }
        self.options = [
            word for key, value in settings.items() for word in ("-o", f"{key}={value}")
        ]

    def update(self) -> None:
        run("package lists of the kernels", ["apt-get", *self.options, "-q", "update"])

    def kernels(self, series: str) -> list[str]:
        """Packages of signed stock kernels of `series`, oldest first."""
        stock = re.compile(rf"linux-image-{re.escape(series)}\.\d+(-\d+|\+deb\d+(\.\d+)?)-amd64")
        search = ["apt-cache", *self.options, "search", "--names-only", f"^linux-image-{series}"]
        names = [line.split(" ")[0] for line in run("search", search).splitlines()]
        return sorted(filter(stock.fullmatch, names), key=numbers)

    def unpack(self, package: str, target: Path) -> None:
        """Fetch `package` and lay its files out in `target`."""
        with TemporaryDirectory(dir=target.parent) as aside:
            run("download", ["apt-get", *self.options, "-q", "download", package], Path(aside))
            [archive] = Path(aside).glob("*.deb")
            run("unpacking", ["dpkg-deb", "-x", str(archive), f"{aside}/tree"])
            (Path(aside) / "tree").rename(target)


def numbers(name: str) -> list[int]:
    """Sort key of a package or release name: 6.1.9 comes before 6.1.10."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def unpacked(series: str) -> Kernel | None:
    """The newest kernel of `series` in the cache."""
    images = cache_dir().glob(f"linux-image-{series}.*/boot/vmlinuz-{series}.*")
    newest = max(images, key=lambda image: numbers(image.name), default=None)
    return Kernel(series, newest.name.removeprefix("vmlinuz-"), newest) if newest else None


def kernel(series: str, update: bool = False) -> Kernel:
    """A stock Debian kernel of `series`, from the cache or from Debian.

    Raises NotFound when the suites have none.
    """
    found = unpacked(series)
    if found and not update:
        say(f"{series}: have {found.release}")
        return found
    apt = Apt(cache_dir() / "apt")
    say(f"{series}: asking {', '.join(suite for _, suite in SUITES)}")
    apt.update()
    packages = apt.kernels(series)
    if not packages:
        raise NotFound(f"no stock kernel {series} in {', '.join(suite for _, suite in SUITES)}")
    target = cache_dir() / packages[-1]
    if not target.exists():
        say(f"{series}: downloading and unpacking {target.name} into {target.parent}")
        apt.unpack(target.name, target)
    fresh = unpacked(series)
    if fresh is None:
        raise NotFound(f"{target} holds no kernel image; delete it and run again")
    return fresh
