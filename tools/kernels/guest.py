# SPDX-License-Identifier: Apache-2.0
"""Boots one kernel under qemu and runs pytest in it.

virtme-ng makes the guest: the host's file system read-only as its root, no disk image, nothing to
install inside. What happens in the guest is guest.sh. The host follows the guest's log, and ends
the guest when its time is up or when it is interrupted itself. Should it be killed, `timeout` ends
the guest all the same, a little later.

Emulation in software by default, because that works on every machine, and so that the figures and
limits in docs/operate/kernels.md hold on all of them.
"""

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from . import provision

TREE = Path(__file__).resolve().parents[2]
POLL_S = 0.25
LEASH_S = 30
# pytest-timeout's limit per test: emulation is some ten times slower than the machine.
TEST_TIMEOUT_S = 900


@dataclass(frozen=True)
class Limits:
    """What one guest may use."""

    timeout_s: float
    cpus: int
    memory: str
    kvm: bool


@dataclass(frozen=True)
class Outcome:
    """What one guest left behind in `results`. `status` is pytest's; None: the guest died first."""

    kernel: provision.Kernel
    results: Path
    status: int | None
    release: str
    ready_s: float | None
    seconds: float
    timed_out: bool


def read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def command(vng: Path, kernel: provision.Kernel, results: Path, limits: Limits) -> list[str]:
    """The command line that boots `kernel`."""
    stdlib = sysconfig.get_path("stdlib")
    shares = [("results", str(results), "off"), ("stdlib", stdlib, "on"), ("tree", str(TREE), "on")]
    options = " ".join(
        f"-virtfs local,path={path},mount_tag={tag},security_model=none,readonly={readonly},"
        "multidevs=remap"
        for tag, path, readonly in shares
    )
    job = ["bash", str(TREE / "tools/kernels/guest.sh"), str(TREE), sys.executable, stdlib]
    acceleration = [] if limits.kvm else ["--disable-kvm"]
    leash = f"{limits.timeout_s + LEASH_S:.0f}"
    return [
        *("timeout", "--kill-after=5", leash),
        *(str(vng), "--run", str(kernel.image), "--force-9p", "--verbose", "--user", "root"),
        *("--cpus", str(limits.cpus), "--memory", limits.memory, *acceleration),
        *(f"--qemu-opts={options}", "--exec", shlex.join(job)),
    ]


def prepare(results: Path, arguments: list[str]) -> None:
    """Put pytest's arguments into `results`, NUL-terminated."""
    always = [
        "--junitxml=/run/limpet/results/junit.xml",
        *("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
        "--hypothesis-profile=ci",  # no deadline, same examples each time
        f"--timeout={TEST_TIMEOUT_S}",
        *("-p", "no:cacheprovider"),
    ]
    text = "".join(f"{argument}\0" for argument in [*always, *arguments])
    (results / "arguments").write_text(text)


def follow(process: subprocess.Popen[bytes], log: Path, deadline: float) -> bool:
    """Copy the guest's log to our output until the guest has ended. False: it ran out of time."""
    shown = 0
    while True:
        running = process.poll() is None
        if log.exists():
            with log.open("rb") as stream:
                stream.seek(shown)
                news = stream.read()
            shown += len(news)
            sys.stdout.write(news.decode(errors="replace"))
            sys.stdout.flush()
        if not running:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the guest and all helpers of its session."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        time.sleep(POLL_S)
    process.wait()


def boot(
    vng: Path, kernel: provision.Kernel, results: Path, arguments: list[str], limits: Limits
) -> Outcome:
    """Boot `kernel`, run pytest with `arguments` in it, and say what came of it."""
    prepare(results, arguments)
    environment = os.environ | {"PATH": f"{vng.parent}{os.pathsep}{provision.SEARCH_PATH}"}
    started = time.monotonic()
    with (results / "boot.log").open("wb") as console:
        process = subprocess.Popen(
            command(vng, kernel, results, limits),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = follow(process, results / "log", started + limits.timeout_s)
        finally:
            end(process)
    status, ready = read(results / "status"), read(results / "ready")
    return Outcome(
        kernel=kernel,
        results=results,
        status=int(status) if status else None,
        release=read(results / "release"),
        ready_s=float(ready) if ready else None,
        seconds=time.monotonic() - started,
        timed_out=not ended,
    )
